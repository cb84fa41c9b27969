"""`email.send`: one mail over SMTP, from text, HTML or a template, with attachments."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from jobplatform import Context, Permanent, kind, limit_key
from jobplatform.domain.retry import Exponential
from workers.providers.mail import Attachment as MailAttachment
from workers.providers.mail import Mail, mail_sender
from workers.providers.templates import render_template

MAX_ATTACHMENT_BYTES = 20 * 1024 * 1024


def _check_address(value: str) -> str:
    """Accept any address that SMTP can carry, internal domains included."""
    try:
        checked = validate_email(
            value, check_deliverability=False, globally_deliverable=False, test_environment=True, allow_smtputf8=False
        )
    except EmailNotValidError as error:
        raise ValueError(f"an e-mail address: {error}") from None
    return checked.normalized


def _check_line(value: str) -> str:
    if "\r" in value or "\n" in value:
        raise ValueError("one line: a line break would forge headers")
    return value


def _check_base64(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError(f"bytes in base64: {error}") from None
    return value


Address = Annotated[str, AfterValidator(_check_address)]
Line = Annotated[str, AfterValidator(_check_line)]


class Attachment(BaseModel):
    """An attached file: its bytes in base64, or the id of an upload or artifact."""

    model_config = ConfigDict(extra="forbid")

    filename: Line = Field(min_length=1, max_length=200)
    content_type: str = Field("application/octet-stream", pattern=r"^[\w.+-]+/[\w.+-]+$")
    content_base64: Annotated[str, AfterValidator(_check_base64)] | None = None
    artifact: UUID | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Attachment:
        if (self.content_base64 is None) == (self.artifact is None):
            raise ValueError("exactly one of content_base64 and artifact")
        return self


class EmailSend(BaseModel):
    """An email. With `template`, text and html are rendered from `<template>.txt` and `<template>.html`."""

    model_config = ConfigDict(extra="forbid")

    to: list[Address] = Field(min_length=1, max_length=100)
    subject: Line = Field(min_length=1, max_length=900)
    text: str | None = Field(None, max_length=1_000_000)
    html: str | None = Field(None, max_length=1_000_000)
    template: str | None = Field(None, pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    variables: dict[str, Any] = Field(default_factory=dict)
    attachments: list[Attachment] = Field(default_factory=list, max_length=20)

    @model_validator(mode="after")
    def _has_a_body(self) -> EmailSend:
        if self.text is None and self.template is None:
            raise ValueError("text, or a template that makes it")
        return self


class EmailSent(BaseModel):
    """Recipients that the mail server accepted, and its replies for those that it refused."""

    message_id: str
    accepted: list[str]
    refused: dict[str, str]


def _limit_keys(payload: EmailSend) -> list[str]:
    """The sender's relay, the tenant, and each recipient's domain."""
    domains = {limit_key("domain", to.rpartition("@")[2].lower()) for to in payload.to}
    return ["relay:smtp", "tenant", *sorted(domains)]


@kind(
    "email.send",
    queue="email",
    max_attempts=6,
    retry=Exponential(base_seconds=10, cap_seconds=1800),
    limit_keys=_limit_keys,
)
def send_email(payload: EmailSend, ctx: Context) -> EmailSent:
    """Send one mail over SMTP. The Message-ID is derived from the job's id, so receivers can detect duplicates."""
    text, html = payload.text, payload.html
    if payload.template is not None:
        rendered = render_template(payload.template, {"subject": payload.subject, **payload.variables})
        text, html = text or rendered.text, html or rendered.html
    ctx.progress(0, 2, "preparing")
    attachments = [_read_attachment(item, ctx) for item in payload.attachments]
    ctx.progress(1, 2, "sending")
    mail = Mail(
        to=tuple(payload.to),
        subject=payload.subject,
        text=text or "",
        html=html,
        attachments=tuple(attachments),
        message_id=f"<{ctx.job_id}@jobplatform>",
    )
    with ctx.effect("mail", unknown="repeat") as effect:  # a duplicate with one Message-ID is better than a lost mail
        if effect.needed:
            receipt = mail_sender().send(mail)
            effect.receipt = {"accepted": list(receipt.accepted), "refused": receipt.refused}
    ctx.progress(2, 2, "accepted by the mail server")
    return EmailSent(message_id=mail.message_id, **effect.receipt)


def _read_attachment(item: Attachment, ctx: Context) -> MailAttachment:
    if item.artifact is not None:
        content = ctx.fetch_artifact(item.artifact).read_bytes()
    else:
        content = base64.b64decode(item.content_base64 or "")
    if len(content) > MAX_ATTACHMENT_BYTES:
        raise Permanent(
            f"attachment {item.filename!r} has {len(content)} bytes, mail servers take {MAX_ATTACHMENT_BYTES}: send a "
            f"link instead",
            code="attachment_too_large",
        )
    return MailAttachment(item.filename, item.content_type, content)
