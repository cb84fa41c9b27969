"""`llm.chat`: one answer of a language model behind an OpenAI-compatible API, streamed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from jobplatform import Context, kind
from jobplatform.domain.retry import Exponential
from workers.providers.chat import chat_model


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, max_length=500_000)


class LlmChat(BaseModel):
    """The conversation and how to answer it; `model` defaults to JOBPLATFORM_LLM_MODEL."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Message] = Field(min_length=1, max_length=500)
    model: str | None = Field(None, min_length=1, max_length=200)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)


class ChatAnswer(BaseModel):
    """What the model said; `usage` as the server counts its tokens."""

    model: str
    content: str
    finish_reason: str | None
    usage: dict[str, int]


@kind("llm.chat", queue="llm", max_attempts=5, retry=Exponential(base_seconds=2, cap_seconds=120))
def chat(payload: LlmChat, ctx: Context) -> ChatAnswer:
    """Ask the model; progress counts the pieces of the answer, the usage is what the server reports."""

    def tell(pieces: int, text: str) -> None:
        ctx.progress(pieces, payload.max_tokens, text[-80:])

    answer = chat_model().complete(
        [message.model_dump() for message in payload.messages],
        model=payload.model,
        temperature=payload.temperature,
        max_tokens=payload.max_tokens,
        on_piece=tell,
        cancelled=ctx.cancelled,
    )
    ctx.record_usage(**answer.usage)
    return ChatAnswer(
        model=answer.model, content=answer.content, finish_reason=answer.finish_reason, usage=answer.usage
    )
