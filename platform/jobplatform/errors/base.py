"""The base class of all errors, and the form of a wrong field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class JobPlatformError(Exception):
    """Something went wrong in the job platform."""

    code: ClassVar[str] = "internal_error"
    #: of the API's answer
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


def all_errors() -> list[type[JobPlatformError]]:
    """Return every error class that is loaded, a base class before its subclasses."""
    classes = [JobPlatformError]
    for error in classes:
        classes += error.__subclasses__()
    return classes


@dataclass(frozen=True)
class FieldError:
    """One wrong field of a request: where it is, what was expected, what was received."""

    field: str
    expected: str
    got: str = ""

    def in_words(self) -> str:
        """Return it as a line for people."""
        return f"{self.field}: expected {self.expected}, got {self.got or 'nothing'}"

    def as_dict(self) -> dict[str, str]:
        """Return the JSON form used by problem+json and the CLI."""
        return {"field": self.field, "expected": self.expected, "got": self.got}
