"""The built-in kinds; importing this module registers them (`JOBPLATFORM_KIND_MODULES`)."""

from workers.handlers import email_send, llm_chat, video_transcode

__all__ = ["email_send", "llm_chat", "video_transcode"]
