"""References in payloads: `{"$from": "step.result.path"}` and `{"$item": "path"}`.

An object whose only key is one of these is a reference; `{"$literal": value}` is the value itself, unchanged.

| reference | stands for |
|---|---|
| `{"$from": "fetch.result"}` | the result of the step fetch |
| `{"$from": "fetch.result.files.0.name"}` | a part of it; write `["fetch", "result", "a.b"]` if a key has a dot |
| `{"$from": "sizes.results"}` | the list of results of a group, of a map, or of the steps that a run added |
| `{"$from": "previous.result"}` | in a chain: the previous part's result; `previous.results` of a group or map |
| `{"$item": ""}` | in a map: the element |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FROM, ITEM, LITERAL = "$from", "$item", "$literal"
PREVIOUS = "previous"


class BadReference(ValueError):
    """Not a valid reference; the message says what was expected."""


@dataclass(frozen=True)
class Reference:
    """What a reference names. `of`: result, results or item (then without a step)."""

    step: str
    of: str
    path: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form that the ledger's `resolve_references` takes."""
        return {"step": self.step, "of": self.of, "path": list(self.path)}

    def written(self) -> dict[str, Any]:
        """Return its JSON form in a payload."""
        if self.of == "item":
            return {ITEM: list(self.path)}
        keys = [self.step, self.of, *self.path]
        return {FROM: keys if any("." in key for key in keys) else ".".join(keys)}


def read_reference(value: Any) -> Reference | None:
    """Return the reference that a value is, or None. Raises `BadReference`."""
    if not isinstance(value, dict) or len(value) != 1:
        return None
    if FROM in value:
        keys = _keys(value[FROM], FROM)
        if len(keys) < 2 or keys[1] not in ("result", "results"):
            raise BadReference(f"'step.result' or 'step.results' and a path in it, got {value[FROM]!r}")
        return Reference(keys[0], keys[1], tuple(keys[2:]))
    if ITEM in value:
        return Reference("", "item", tuple(_keys(value[ITEM], ITEM)))
    return None


def _keys(value: Any, key: str) -> list[str]:
    if isinstance(value, str):
        return value.split(".") if value else []
    if isinstance(value, list) and all(isinstance(item, str | int) and not isinstance(item, bool) for item in value):
        return [str(item) for item in value]
    raise BadReference(f"text or a list of keys for {key}, got {value!r}")


def find_references(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Reference]]:
    """Yield (where, reference) of all references in JSON. Raises `BadReference`."""
    reference = read_reference(value)
    if reference is not None:
        yield path, reference
    elif isinstance(value, Mapping):
        if len(value) == 1 and LITERAL in value:
            return
        for key, inner in value.items():
            yield from find_references(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from find_references(inner, (*path, str(index)))


def is_marked(value: Any) -> bool:
    """Return whether a JSON value may contain references or literals."""
    if isinstance(value, dict):
        if len(value) == 1 and not value.keys().isdisjoint((FROM, ITEM, LITERAL)):
            return True
        return any(map(is_marked, value.values()))
    return isinstance(value, list) and any(map(is_marked, value))


def replace_references(value: Any, replace: Callable[[Reference], Any], *, unwrap: bool = True) -> Any:
    """Return JSON with every reference replaced; literals are unwrapped, or left as they are (`unwrap=False`)."""
    reference = read_reference(value)
    if reference is not None:
        return replace(reference)
    if isinstance(value, Mapping):
        if len(value) == 1 and LITERAL in value:
            return value[LITERAL] if unwrap else value
        return {key: replace_references(inner, replace, unwrap=unwrap) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_references(inner, replace, unwrap=unwrap) for inner in value]
    return value
