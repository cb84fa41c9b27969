"""Check references against the return types of handlers, at submission instead of at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from jobplatform.domain.kinds import Kind
from jobplatform.domain.references import Reference, find_references, is_marked, replace_references
from jobplatform.domain.validation import MAX_ERRORS, Mismatch, field_error, known_fields, validate
from jobplatform.errors import FieldError

Schema = Mapping[str, Any]
#: the JSON Schema of a value of any type
ANY: Schema = {}


class _Unknown:
    """Placeholder of a value that is not known yet."""

    def __repr__(self) -> str:
        return "what a reference will give"


@lru_cache(maxsize=1000)
def result_schema(returns: Any) -> Schema:
    """Return the JSON Schema of a handler's return annotation; `ANY` if it is unknown."""
    if returns is None or returns is Any:
        return ANY
    try:
        return TypeAdapter(returns).json_schema(by_alias=False, mode="serialization")
    except (PydanticSchemaGenerationError, PydanticUserError):
        return ANY


@lru_cache(maxsize=1000)
def payload_schema(model: type[BaseModel]) -> Schema:
    """Return the JSON Schema of a kind's payload."""
    return model.model_json_schema()


def check_payload(
    kind: Kind, payload: Mapping[str, Any], where: str, schema_of: Callable[[Reference], Schema | None]
) -> list[FieldError]:
    """Return the errors of a payload that may have references. `schema_of` returns the type of a reference's value."""
    if not is_marked(dict(payload)):
        try:
            validate(kind.payload, payload, where)
        except Mismatch as mismatch:
            return list(mismatch.errors)
        return []
    references = list(find_references(payload))
    open_paths = [path for path, _ in references]
    wrong = []
    try:
        kind.payload.model_validate(replace_references(payload, lambda _: _Unknown()))
    except ValidationError as error:
        known = known_fields(kind.payload)
        wrong = [
            field_error(detail, where, known)
            for detail in error.errors(include_url=False, include_context=False)
            if not _may_be_open([str(part) for part in detail["loc"]], open_paths)
        ][:MAX_ERRORS]
    except Exception:  # a custom validator has met a value that is not known yet: it runs again when the step does
        wrong = []
    for path, reference in references:
        result = _mismatch(payload_schema(kind.payload), path, schema_of(reference), reference)
        if result:
            wrong.append(FieldError(".".join((where, *path)), *result))
    return wrong


def _may_be_open(position: Sequence[str], open_paths: Sequence[tuple[str, ...]]) -> bool:
    """Whether an error at this place may come from a value that is not known yet.

    pydantic includes the member of a union in the location, so the path is searched in it part by part.
    """
    for path in open_paths:
        if list(path[: len(position)]) == list(position):
            return True
        rest = iter(position)
        if all(part in rest for part in path):
            return True
    return False


def _mismatch(
    wanted: Schema, path: Sequence[str], given: Schema | None, reference: Reference
) -> tuple[str, str] | None:
    """Return (expected, got) when a reference's type does not fit the field; None when it does."""
    shown = ".".join((reference.step, reference.of, *reference.path))
    source = None if given is None else types_at(given, reference.path)
    if source is None:
        return "a reference to what its step returns", f"{shown}: it returns no such thing"
    target = types_at(wanted, path)
    if not source or not target:  # one of the types is unknown, or the payload's own validation reports the error
        return None
    if "integer" in source:
        source = source | {"number"}
    if source & target:
        return None
    return f"a reference to {' or '.join(sorted(target))}", f"{shown}, which is {' or '.join(sorted(source))}"


def types_at(schema: Schema, path: Sequence[str]) -> set[str] | None:
    """Return the JSON types that a value at this path may have; empty when unknown, None when the path can't exist."""
    result: set[str] = set()
    missing = False
    for alternative in _alternatives(schema, schema):
        inner = _types_in(schema, alternative, path)
        if inner is None:
            missing = True
        elif not inner:
            return set()
        else:
            result |= inner
    return result if result else (None if missing else set())


def _types_in(root: Schema, schema: Schema, path: Sequence[str]) -> set[str] | None:
    if not path:
        kind = schema.get("type")
        return set(kind) if isinstance(kind, list) else {kind} if isinstance(kind, str) else set()
    key, rest = path[0], path[1:]
    kind = schema.get("type")
    if kind == "object":
        properties = schema.get("properties", {})
        if key in properties:
            inner: Any = properties[key]
        elif isinstance(schema.get("additionalProperties"), Mapping):
            inner = schema["additionalProperties"]
        elif schema.get("additionalProperties") is True or not properties:
            return set()
        else:
            return None
    elif kind == "array":
        if not key.lstrip("-").isdigit():
            return None
        inner = schema.get("items", ANY)
        if not isinstance(inner, Mapping):
            return set()
    elif isinstance(kind, str):
        return None
    else:
        return set()
    result: set[str] = set()
    answers = [_types_in(root, alternative, rest) for alternative in _alternatives(root, inner)]
    if any(answer is not None and not answer for answer in answers):
        return set()
    for answer in answers:
        result |= answer or set()
    return result or None


def _alternatives(root: Schema, schema: Schema) -> list[Schema]:
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return _alternatives(root, root.get("$defs", {}).get(name, ANY))
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return [inner for item in schema[key] for inner in _alternatives(root, item)]
    return [schema]
