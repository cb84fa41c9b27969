"""Sending mail: the interface, SMTP, and a null sender."""

from __future__ import annotations

import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote, urlsplit

from jobplatform.config import settings
from jobplatform.errors import ConfigurationError, Permanent, Retryable


@dataclass(frozen=True)
class Attachment:
    """A file of a mail."""

    filename: str
    content_type: str
    content: bytes


@dataclass(frozen=True)
class Mail:
    """A mail that is ready to send; `message_id` includes its angle brackets."""

    to: tuple[str, ...]
    subject: str
    text: str
    message_id: str
    html: str | None = None
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True)
class Receipt:
    """Recipients that the server accepted, and its replies for those that it refused."""

    accepted: tuple[str, ...]
    refused: dict[str, str] = field(default_factory=dict)


class MailSender(Protocol):
    """Sends one mail. Raises `Retryable` or `Permanent`, never an exception of its library."""

    def send(self, mail: Mail) -> Receipt:
        """Send a mail."""
        ...


def build_message(mail: Mail, sender: str) -> EmailMessage:
    """Return the MIME message: text, HTML as its alternative, attachments."""
    message = EmailMessage()
    message["From"] = sender
    message["To"] = ", ".join(mail.to)
    message["Subject"] = mail.subject
    message["Date"] = formatdate()
    message["Message-ID"] = mail.message_id
    message.set_content(mail.text)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")
    for item in mail.attachments:
        main, _, sub = item.content_type.partition("/")
        message.add_attachment(item.content, maintype=main, subtype=sub, filename=item.filename)
    return message


PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class SmtpSender:
    """SMTP. URLs: `smtp://[user:password@]host[:25]`, `smtp+starttls://…[:587]`, `smtps://…[:465]`."""

    def __init__(self, url: str, sender: str, timeout_seconds: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ConfigurationError(
                f"JOBPLATFORM_SMTP_URL: expected smtp://, smtp+starttls:// or smtps:// with a host, got "
                f"{parts.scheme}://{parts.hostname or ''}"
            )
        self._scheme, self._host = parts.scheme, parts.hostname
        self._port = parts.port or PORTS[parts.scheme]
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._sender, self._timeout = sender, timeout_seconds

    def send(self, mail: Mail) -> Receipt:
        """See `MailSender`: 4xx answers and lost connections are retryable, 5xx are not (RFC 5321, 4.2.1)."""
        message = build_message(mail, self._sender)
        talking = False
        try:
            server = self._connect()
            talking = True
            try:
                refused = server.send_message(message, to_addrs=list(mail.to))
            finally:  # an error after the acceptance is no failure: a retry would send the mail twice
                with suppress(OSError, smtplib.SMTPException):
                    server.quit()
                server.close()
        except smtplib.SMTPRecipientsRefused as error:
            raise _judge(max(code for code, _ in error.recipients.values()), str(error)) from None
        except smtplib.SMTPResponseException as error:
            raise _judge(error.smtp_code, f"{error.smtp_code} {_text(error.smtp_error)}") from None
        except smtplib.SMTPNotSupportedError as error:
            raise Permanent(f"the mail server can't do this: {error}", code="smtp_not_supported") from None
        except (OSError, smtplib.SMTPException) as error:
            raise Retryable(
                f"the mail server {self._host} can't be reached: {error}",
                code="smtp_unreachable",
                may_have_happened=talking,  # the connection broke in the middle: the server may have the mail
            ) from None
        return Receipt(
            accepted=tuple(address for address in mail.to if address not in refused),
            refused={address: f"{code} {_text(text)}" for address, (code, text) in refused.items()},
        )

    def _connect(self) -> smtplib.SMTP:
        if self._scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(
                self._host, self._port, timeout=self._timeout, context=ssl.create_default_context()
            )
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=self._timeout)
        if self._scheme == "smtp+starttls":
            server.starttls(context=ssl.create_default_context())
        if self._user:
            server.login(self._user, self._password)
        return server


def _judge(code: int, text: str) -> Retryable | Permanent:
    if 400 <= code < 500:
        return Retryable(f"the mail server said: {text}", code="smtp_temporary_failure")
    return Permanent(f"the mail server refused: {text}", code="smtp_refused")


def _text(words: bytes | str) -> str:
    return words.decode("utf-8", "replace") if isinstance(words, bytes) else words


class NullSender:
    """Accepts every mail and sends none (`JOBPLATFORM_SMTP_URL=null://`)."""

    def send(self, mail: Mail) -> Receipt:
        """See `MailSender`."""
        return Receipt(accepted=mail.to)


@lru_cache(maxsize=1)
def mail_sender() -> MailSender:
    """Return the configured sender."""
    url = settings().smtp_url.get_secret_value()
    return NullSender() if url.startswith("null:") else SmtpSender(url, settings().email_from)
