"""Building mails, media paths, errors of model servers: how providers and payloads treat their input."""

from __future__ import annotations

import email
import email.policy
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobplatform.errors import ConfigurationError, Permanent, Retryable
from workers.handlers.email_send import EmailSend
from workers.handlers.video_transcode import Source
from workers.providers import chat, ffmpeg, mail, templates

MAIL = mail.Mail(("a@b.c",), "Grüße", "Hällo", "<1@x>", html="<b>Hällo</b>")


def test_a_message_has_text_html_and_attachments() -> None:
    full = mail.Mail(**{**MAIL.__dict__, "attachments": (mail.Attachment("ü.csv", "text/csv", b"a,b"),)})
    parsed = email.message_from_bytes(mail.build_message(full, "x@y.z").as_bytes(), policy=email.policy.default)
    assert parsed["Subject"] == "Grüße"
    assert parsed.get_body(("plain",)).get_content().strip() == "Hällo"
    assert "<b>" in parsed.get_body(("html",)).get_content()
    assert [part.get_filename() for part in parsed.iter_attachments()] == ["ü.csv"]


@pytest.mark.parametrize("url", ["ftp://x", "smtp://", "localhost:25", ""])
def test_invalid_smtp_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="JOBPLATFORM_SMTP_URL"):
        mail.SmtpSender(url, "x@y.z")


def test_an_unavailable_mail_server_is_retryable() -> None:
    with pytest.raises(Retryable, match="can't be reached"):
        mail.SmtpSender("smtp://127.0.0.1:1", "x@y.z", timeout_seconds=1).send(MAIL)


def test_the_null_sender_takes_everything() -> None:
    assert mail.NullSender().send(MAIL).accepted == ("a@b.c",)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": []}, "to"),
        ({"to": ["nobody"]}, "to"),
        ({"to": ["a@b.c\nBcc: x@y.z"]}, "to"),
        ({"subject": "a\r\nBcc: x@y.z"}, "subject"),
        ({"text": None}, ""),
        ({"template": "../../etc/passwd", "text": None}, "template"),
        ({"attachments": [{"filename": "a", "content_base64": "%%%"}]}, "attachments"),
        ({"attachments": [{"filename": "a"}]}, "attachments"),
        ({"attachments": [{"filename": "a", "content_base64": "YQ==", "content_type": "x"}]}, "attachments"),
        ({"cc": ["a@b.c"]}, "cc"),
    ],
)
def test_mails_that_can_not_be_sent_are_refused(change, field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        EmailSend.model_validate({"to": ["a@b.c"], "subject": "x", "text": "x", **change})
    assert any(str(error["loc"][0]) == field if error["loc"] else field == "" for error in refused.value.errors())


def test_internal_mail_addresses_are_valid() -> None:
    result = EmailSend.model_validate({"to": ["ops@mailhost", "x@host.internal"], "subject": "x", "text": "x"})
    assert result.to == ["ops@mailhost", "x@host.internal"]


def test_templates_are_rendered_escaped_and_strictly() -> None:
    rendered = templates.render_template("welcome", {"name": "<b>", "message": "m"})
    assert "Hello <b>," in rendered.text and "&lt;b&gt;" in (rendered.html or "")
    with pytest.raises(Permanent) as refused:
        templates.render_template("welcome", {"name": "x"})
    assert refused.value.reason == "template_failed"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", ".", "x\x00y"])
def test_paths_outside_the_root_are_refused(path: str, monkeypatch, tmp_path: Path) -> None:
    _root(monkeypatch, tmp_path)
    with pytest.raises(ValidationError):
        Source.model_validate({"path": path})


def test_a_link_that_leads_out_of_the_root_is_refused(monkeypatch, tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    (root / "link").symlink_to("/etc")
    _root(monkeypatch, root)
    with pytest.raises(ValidationError, match="below the allowed root"):
        Source.model_validate({"path": "link/passwd"})
    assert Source.model_validate({"path": "a/b.mp4"}).path == str(root / "a" / "b.mp4")


def _root(monkeypatch, root: Path) -> None:
    from jobplatform.config import Settings
    from workers.handlers import video_transcode

    monkeypatch.setattr(video_transcode, "settings", lambda: Settings(media_root=root))


def test_a_source_is_either_a_path_or_an_artifact() -> None:
    for wrong in ({}, {"path": "a", "artifact": "01890000-0000-7000-8000-000000000000"}):
        with pytest.raises(ValidationError):
            Source.model_validate(wrong)


def test_ffprobe_refuses_files_that_are_not_media(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(Permanent) as refused:
        ffmpeg.probe(tmp_path / "x.mp4")
    assert refused.value.reason == "source_unreadable"


@pytest.mark.parametrize(("status", "kind"), [(429, Retryable), (500, Retryable), (503, Retryable), (408, Retryable)])
def test_temporary_errors_of_a_model_server_are_retryable(status: int, kind: type) -> None:
    judged = chat._judge(status, "x", "7")
    assert isinstance(judged, kind) and judged.after == 7
    assert isinstance(chat._judge(400, "x", None), Permanent)
    assert isinstance(chat._judge(401, "x", None), Permanent)


def test_an_unavailable_model_server_is_retryable() -> None:
    model = chat.OpenAIChat("http://127.0.0.1:1/v1", "k", "m", 1)
    with pytest.raises(Retryable):
        model.complete([{"role": "user", "content": "x"}], model=None, temperature=None, max_tokens=None,
                       on_piece=lambda piece: None, cancelled=lambda: False)  # fmt: skip
