"""The layout: the platform/ trap, packages of setup.cfg exist on disk, no stdlib names, docs match the code."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def config() -> configparser.ConfigParser:
    config_parser = configparser.ConfigParser(interpolation=None)
    config_parser.read(ROOT / "setup.cfg")
    return config_parser


def test_platform_is_a_source_root_and_hides_nothing() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert {path.name for path in (ROOT / "platform").iterdir() if not path.name.endswith(".egg-info")} == {
        "jobplatform"
    }
    code = "import platform; print(platform.system())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    for module in ("pytest", "pip"):
        subprocess.run([sys.executable, "-m", module, "--version"], cwd=ROOT, capture_output=True, check=True)


def test_packages_of_setup_cfg_are_the_packages_on_disk() -> None:
    listed = set(config()["options"]["packages"].split())
    result = set()
    for top, base in (("platform/jobplatform", "platform"), ("api", "."), ("workers", "."), ("migrations", ".")):
        for init in (ROOT / top).rglob("__init__.py"):
            result.add(".".join(init.parent.relative_to(ROOT / base).parts))
    assert listed == result, "a package that is missing from the list vanishes silently from the wheel"


def test_no_top_level_module_has_a_name_of_the_standard_library() -> None:
    tops = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not tops & (set(sys.stdlib_module_names) - {"platform"})
    assert not list(ROOT.glob("platform/**/logging.py"))


def test_files_stay_small() -> None:
    for folder in ("platform", "api", "workers"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, f"{path}: split it"


def test_no_tracked_file_names_the_machine_it_was_written_on() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".cfg", ".toml", ".sql", ".sh", ".yml", ".txt"):
            assert f"{Path.home()}/" not in path.read_text(), name


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_help_is_instant_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys\nfrom jobplatform.cli.main import cli\n"
        "heavy = {'sqlalchemy', 'celery', 'flask', 'amqp', 'alembic'} & set(sys.modules)\nsys.exit(bool(heavy))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_handlers_load_without_celery_and_without_an_sdk() -> None:
    code = (
        "import sys, workers.handlers\nsys.exit(bool({'celery', 'openai', 'jinja2', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_diagram_in_the_docs_is_the_transition_table() -> None:
    from jobplatform.cli.states import diagram

    page = (ROOT / "docs" / "concepts" / "state-machine.md").read_text()
    assert diagram() in page, "run `jobplatform states` and put its output into docs/concepts/state-machine.md"


def test_the_configuration_page_is_the_settings_model() -> None:
    from jobplatform.cli.settings import reference

    page = (ROOT / "docs" / "operations" / "configuration.md").read_text()
    assert reference() in page, "put the output of `jobplatform settings` into docs/operations/configuration.md"


def test_the_how_to_shows_the_very_code_that_a_test_runs() -> None:
    from tests.support.acme import RESIZE

    page = (ROOT / "docs" / "howto" / "add-a-kind.md").read_text()
    assert RESIZE in page


def test_links_between_pages_resolve() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for page in pages:
        for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} → {target}"


@pytest.mark.parametrize("word", ["utils", "common", "helpers", "manager"])
def test_no_file_has_a_meaningless_name(word: str) -> None:
    assert not [path for path in ROOT.glob("[apw]*/**/*.py") if word in path.stem]


def test_docs_name_files_that_exist() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        for name in re.findall(
            r"`((?:platform|api|workers|tests|migrations|bench|deploy)/[\w./\-]+\.\w+)`", page.read_text()
        ):
            assert (ROOT / name).exists() or name == "platform/__init__.py", f"{page.name} names {name}"
