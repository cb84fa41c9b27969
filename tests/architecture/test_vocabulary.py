"""Vocabulary: words that code, help texts, SQL and docs avoid, and their replacements (see the glossary)."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: word or idiom, as a regular expression → its replacement
REPLACED = {
    r"bury|buried": "dead-letter, dead-lettered",
    r"whoever|whosever": "any caller, regardless of tenant",
    r"call(s|ed)? off": "cancel",
    r"(take|takes|taken|throw|throws|thrown) away": "delete, discard, drop",
    r"sign(s)? of life|heart": "heartbeat",
    r"for ever": "forever",
    r"house|doors?": "package, entry point",
    r"promises? (kept|broken)|promises_(kept|broken)": "deadline met, deadline missed",
    r"beat_at|beat_seconds|beat_worker": "heartbeat",
    r"hold_key|held_until": "pause a limit key",
    r"order_job|check_orders|take_order": "submission",
    r"stand_in": "install_patches",
    r"_?tell_[a-z_]+": "notify, report, send",
    r"rubbish": "bad message",
    r"(FOR one IN|one record)": "a record named after what it holds",
}
#: names of variables that say nothing of what they hold
NAMELESS = {"found", "one", "place", "told"}


def texts() -> list[Path]:
    """Return every text file of the project except the changelog and this file."""
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    kept = (".py", ".sql", ".md", ".yml", ".cfg", ".sh")
    return [
        ROOT / name
        for name in names
        if name.endswith(kept) and name not in ("CHANGELOG.md", "tests/architecture/test_vocabulary.py")
    ]


@pytest.mark.parametrize("words", list(REPLACED))
def test_a_word_that_was_replaced_does_not_come_back(words: str) -> None:
    pattern = re.compile(rf"(?<![\w-])({words})(?![\w-])", re.IGNORECASE)
    uses = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not uses, f"write {REPLACED[words]}:\n" + "\n".join(uses)


def test_a_variable_is_named_after_what_it_holds() -> None:
    uses = []
    for path in texts():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else None
            if name in NAMELESS:
                uses.append(f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {name}")
    assert not uses, "\n".join(uses)


def test_a_rule_that_is_named_exists() -> None:
    """Rules of delivery have names (docs/concepts/delivery.md); references to numbers or the first design are dead."""
    page = (ROOT / "docs" / "concepts" / "delivery.md").read_text()
    rules = set(re.findall(r"^\| ([A-Z][^|]+?) \|", page, re.MULTILINE))
    dangling = []
    for path in texts():
        text = path.read_text()
        unknown = {" ".join(name.split()) for name in re.findall(r'\(rule "([^"]+)"\)', text)} - rules
        dangling += [f"{path.relative_to(ROOT)}: rule {rule!r}" for rule in unknown]
        if re.search(r"\brules? \d+\b|\bDESIGN\b", text):
            dangling.append(f"{path.relative_to(ROOT)}: a rule by number, or DESIGN")
    assert "Fence" in rules and not dangling, "\n".join(dangling)
