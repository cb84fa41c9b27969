"""docs/architecture.md and the glossary name files and names that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
TABLE = PAGE.partition("## Where to change what")[2]
ROWS = re.findall(r"^\| [^|]+ \| `([^`]+)` \| `([^`]+)` \|$", TABLE, re.MULTILINE)


def test_the_table_is_long_enough_to_be_of_use() -> None:
    assert len(ROWS) >= 30


@pytest.mark.parametrize(("path", "name"), ROWS, ids=[f"{path}:{name}" for path, name in ROWS])
def test_every_name_in_the_table_exists(path: str, name: str) -> None:
    assert re.search(rf"\b{re.escape(name)}\b", (ROOT / path).read_text())


def test_every_path_of_the_page_exists() -> None:
    paths = re.findall(r"`((?:api|workers|platform|migrations)/[^`]+)`", PAGE)
    assert paths and not [path for path in paths if not (ROOT / path).exists()]


def test_every_module_of_the_glossary_exists() -> None:
    page = (ROOT / "docs" / "concepts" / "glossary.md").read_text()
    modules = re.findall(r"\| `([^`]+)` \|$", page, re.MULTILINE)
    roots = {module: ROOT if module.startswith("workers/") else ROOT / "platform" / "jobplatform" for module in modules}
    assert len(modules) > 40 and not [module for module, root in roots.items() if not (root / module).exists()]
