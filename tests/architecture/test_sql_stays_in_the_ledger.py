"""SQL is written in `jobplatform.ledger`: a change of a table finds all of its readers there."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: may hold connections and pass them on; none of them writes a statement
CALLERS = [
    ROOT / "api",
    ROOT / "workers",
    *(ROOT / "platform" / "jobplatform" / name for name in ("broker", "cli", "dispatch", "doctor", "usecases")),
]


def test_nobody_else_writes_statements() -> None:
    uses = []
    for path in (file for folder in CALLERS for file in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            imports_text = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
            if imports_text and {"text", "select", "insert", "update", "delete"} & {name.name for name in node.names}:
                uses.append(f"{path.relative_to(ROOT)}:{node.lineno}")
            if isinstance(node, ast.Attribute) and node.attr == "exec_driver_sql":
                uses.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not uses, f"SQL outside of jobplatform.ledger: {uses}"
