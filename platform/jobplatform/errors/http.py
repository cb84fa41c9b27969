"""Errors of HTTP itself: bodies, headers and streams that the API does not take."""

from __future__ import annotations

from jobplatform.errors.base import JobPlatformError


class WrongMediaType(JobPlatformError):
    """Expected the header `Content-Type: application/json`."""

    code = "unsupported_media_type"
    status = 415


class BodyTooLarge(JobPlatformError):
    """The body is larger than allowed."""

    code = "body_too_large"
    status = 413


class BodyTooSlow(JobPlatformError):
    """The request body timed out: retry over a faster connection or in smaller parts."""

    code = "body_too_slow"
    status = 408


class Overloaded(JobPlatformError):
    """This process has reached its limit of request bytes in flight; retry in a moment."""

    code = "overloaded"
    status = 503


class IncompleteBody(JobPlatformError):
    """The body ended before the announced length."""

    code = "incomplete_body"
    status = 400


class NoStreams(JobPlatformError):
    """This server can't stream: it has no event loop."""

    code = "no_streams"
    status = 406


class HeaderNotAscii(JobPlatformError):
    """A header has characters that are not ASCII."""

    code = "invalid_header"
    status = 400
