"""`llm.chat`: one answer of a language model behind an OpenAI-compatible API, streamed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from jobplatform import Context, Retryable, Throttled, kind, limit_key
from jobplatform.domain.retry import Exponential
from workers.providers.chat import RATE_LIMITED, chat_model


class Message(BaseModel):
    """One message of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str = Field(min_length=1, max_length=500_000)


class LlmChat(BaseModel):
    """A conversation and sampling options; `model` defaults to JOBPLATFORM_LLM_MODEL."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Message] = Field(min_length=1, max_length=500)
    model: str | None = Field(None, min_length=1, max_length=200)
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)


class ChatAnswer(BaseModel):
    """The model's answer; `usage` as reported by the server."""

    model: str
    content: str
    finish_reason: str | None
    usage: dict[str, int]


#: limits can be set for all calls of the model server, and for the tokens that they may take
PROVIDER, TOKENS = "provider:llm", "tokens:llm"
#: tokens reserved for a call without `max_tokens`
USUAL_TOKENS = 1000


def _limit_keys(payload: LlmChat) -> list[str]:
    """The provider, its tokens, the tenant, and the model that is asked for."""
    model = [limit_key("model", payload.model)] if payload.model else []
    return [PROVIDER, TOKENS, "tenant", *model]


@kind(
    "llm.chat",
    queue="llm",
    max_attempts=5,
    retry=Exponential(base_seconds=2, cap_seconds=120),
    limit_keys=_limit_keys,
    limit_units=lambda payload: {"tokens": payload.max_tokens or USUAL_TOKENS},
)
def chat(payload: LlmChat, ctx: Context) -> ChatAnswer:
    """Ask the model; chunks are streamed and counted as progress, usage is what the server reports."""
    pieces, tail = 0, ""

    def report(piece: str) -> None:
        nonlocal pieces, tail
        pieces, tail = pieces + 1, (tail + piece)[-80:]
        ctx.output(piece)
        ctx.progress(pieces, payload.max_tokens, tail)

    try:
        answer = chat_model().complete(
            [message.model_dump() for message in payload.messages],
            model=payload.model,
            temperature=payload.temperature,
            max_tokens=payload.max_tokens,
            on_piece=report,
            cancelled=ctx.cancelled,
        )
    except Retryable as error:
        if error.reason == RATE_LIMITED and error.after is not None:  # the server says when: until then no call starts
            raise Throttled(PROVIDER, error.after, str(error)) from None
        raise
    ctx.record_usage(**answer.usage)
    return ChatAnswer(
        model=answer.model, content=answer.content, finish_reason=answer.finish_reason, usage=answer.usage
    )
