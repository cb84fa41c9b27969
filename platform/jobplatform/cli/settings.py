"""`jobplatform settings`: every setting, from the settings model itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo


@click.command()
def settings() -> None:
    """Print every setting as a Markdown table, the source of docs/operations/configuration.md."""
    click.echo(reference())


def reference() -> str:
    """Return the two tables; a test compares the page with them."""
    from jobplatform.config import PREFIX, QueueSettings, Settings

    names = {f"{PREFIX}{name.upper()}": field for name, field in Settings.model_fields.items()}
    return "\n".join([*_table("variable", names), "", "### Queues", "", *_table("field", QueueSettings.model_fields)])


def _table(what: str, fields: Mapping[str, FieldInfo]) -> list[str]:
    lines = [f"| {what} | default | unit | what it is |", "|---|---|---|---|"]
    for name, field in fields.items():
        unit = (field.json_schema_extra or {}).get("unit", "") if isinstance(field.json_schema_extra, dict) else ""
        lines.append(f"| `{name}` | {_default(field)} | {unit} | {field.description} |")
    return lines


def _default(field: FieldInfo) -> str:
    from pydantic import SecretStr

    value: Any = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, tuple | dict):
        value = ",".join(value)
    return f"`{value}`"
