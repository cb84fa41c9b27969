"""Validation by pydantic models, with a bounded number of errors that each name a field.

A request of a megabyte can have a hundred thousand wrong fields. pydantic finds them in milliseconds; naming them all
takes seconds and gigabytes. So at most `MAX_ERRORS` are named, and where there are many more, they are named from a
shortened copy of the value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jobplatform.errors import FieldError

M = TypeVar("M", bound=BaseModel)

#: fields that one error names
MAX_ERRORS = 100
#: errors that are named from the whole value; beyond that a shortened copy is checked again
CHEAP_ERRORS = 2_000


class Mismatch(Exception):
    """A value does not fit its model: the first errors, and how many there are in all."""

    def __init__(self, errors: tuple[FieldError, ...], total: int) -> None:
        super().__init__(f"{total} errors")
        self.errors, self.total = errors, total


def validate(model: type[M], value: object, prefix: str = "") -> M:
    """Return the validated model. Raises `Mismatch`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        total = error.error_count()
        raise Mismatch(field_errors(error, prefix, model, value), total) from None


def summarize(errors: Iterable[FieldError], total: int) -> str:
    """Name the first wrong fields, and how many more there are."""
    named = [item.field for item in errors][:5]
    more = total - len(named)
    return ", ".join(named) + (f" and {more:,} more" if more > 0 else "")


def field_errors(
    error: ValidationError, prefix: str = "", model: type[BaseModel] | None = None, value: object = None
) -> tuple[FieldError, ...]:
    """Translate pydantic's errors to ours, at most `MAX_ERRORS`: the field, what was expected, what was received.

    `model` and `value`: the model and the validated value, to suggest similar names for an unknown field.
    """
    known = known_fields(model) if model is not None else frozenset[str]()
    if model is not None and error.error_count() > CHEAP_ERRORS:
        try:
            model.model_validate(_shortened(value, known))
        except ValidationError as of_the_first:
            error = of_the_first
    details = error.errors(include_url=False, include_context=False)[:MAX_ERRORS]
    return tuple(field_error(detail, prefix, known) for detail in details)


def field_error(detail: ErrorDetails, prefix: str = "", known: Iterable[str] = ()) -> FieldError:
    """Translate one of pydantic's errors to ours."""
    path = ".".join(str(part) for part in ((prefix, *detail["loc"]) if prefix else detail["loc"]))
    missing = detail["type"] == "missing"
    got = "nothing" if missing else _shorten(detail["input"])
    expected = "a value: this field is required" if missing else detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        expected = _no_such_field(str(detail["loc"][-1]), known)
    return FieldError(path[:MAX_PATH] or "body", expected, got)


#: maximum length of the path of a wrong field, whose parts come from the caller
MAX_PATH = 300


def _no_such_field(name: str, known: Iterable[str]) -> str:
    """Return the error for an unknown field, with a similar known name."""
    near = get_close_matches(name[:60], known, n=1, cutoff=0.7)
    return f"no such field; did you mean {near[0]!r}?" if near else "no such field"


def _shorten(value: object, limit: int = 120) -> str:
    # the representation of a large value is large: only its beginning is used
    text = repr(_shortened(value, ())) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _shortened(value: object, known: Iterable[str], depth: int = 12) -> object:
    """Return a copy with the first `MAX_ERRORS` members of each list and object, and those with a known name."""
    if depth == 0:
        return value
    if isinstance(value, dict):
        kept = dict(list(value.items())[:MAX_ERRORS])
        kept |= {name: value[name] for name in known if name in value}
        return {name: _shortened(item, known, depth - 1) for name, item in kept.items()}
    if isinstance(value, list):
        return [_shortened(item, known, depth - 1) for item in value[:MAX_ERRORS]]
    return value


@lru_cache(maxsize=1000)
def known_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of a model's fields, and of the models in it."""
    names: set[str] = set()
    seen: set[type[BaseModel]] = set()
    waiting = [model]
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        for name, info in item.model_fields.items():
            names.update(filter(None, (name, info.alias)))
            waiting += _models_in(info.annotation)
    return frozenset(names)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
