"""Mail templates: `<name>.txt` and `<name>.html` by Jinja2, in a sandbox."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jobplatform.config import settings
from jobplatform.errors import Permanent


@dataclass(frozen=True)
class Rendered:
    """A rendered template."""

    text: str
    html: str | None


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined, select_autoescape
    from jinja2.sandbox import SandboxedEnvironment

    own = Path(__file__).parent.parent / "templates" / "email"
    folders = [path for path in (settings().email_templates, own) if path is not None]
    return SandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
    )


def render_template(name: str, variables: dict[str, Any]) -> Rendered:
    """Render a template. Raises `Permanent` when it does not exist, or a variable is missing."""
    from jinja2 import TemplateError, TemplateNotFound

    environment = _environment()
    try:
        text = environment.get_template(f"{name}.txt").render(variables)
        try:
            html = environment.get_template(f"{name}.html").render(variables)
        except TemplateNotFound:
            html = None
    except TemplateNotFound:
        raise Permanent(f"there is no mail template {name!r}", code="template_not_found") from None
    except TemplateError as error:
        raise Permanent(f"mail template {name!r}: {error}", code="template_failed") from None
    return Rendered(text, html)
