"""The built-in kinds. Importing this package registers them; it imports nothing of Celery."""

from workers.handlers import email_send, llm_chat, video_transcode

__all__ = ["email_send", "llm_chat", "video_transcode"]
