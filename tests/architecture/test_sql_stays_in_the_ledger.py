"""All SQL is in `jobplatform.ledger`: when a table changes, all of its readers are there."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: may hold connections and pass them on, but contain no SQL
CALLERS = [
    ROOT / "api",
    ROOT / "workers",
    *(ROOT / "platform" / "jobplatform" / name for name in ("broker", "cli", "dispatch", "doctor", "usecases")),
]


def test_no_other_package_contains_sql() -> None:
    uses = []
    for path in (file for folder in CALLERS for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            imports_text = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
            if imports_text and {"text", "select", "insert", "update", "delete"} & {name.name for name in node.names}:
                uses.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            if isinstance(node, ast.Attribute) and node.attr == "exec_driver_sql":
                uses.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not uses, f"SQL outside of jobplatform.ledger: {uses}"
