"""Chat models: the interface, any OpenAI-compatible server, and a null model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from jobplatform.config import settings
from jobplatform.domain.retry import read_retry_after
from jobplatform.errors import JobCancelled, Permanent, Retryable

#: the reason of a 429
RATE_LIMITED = "llm_rate_limited"


@dataclass(frozen=True)
class Answer:
    """A model's answer; `usage` has prompt_tokens, completion_tokens, total_tokens as the server counts them."""

    model: str
    content: str
    finish_reason: str | None
    usage: dict[str, int] = field(default_factory=dict)


class ChatModel(Protocol):
    """Answers a conversation. Raises `Retryable` or `Permanent`, never an exception of its library."""

    def complete(
        self,
        messages: list[dict[str, Any]],
        *,
        model: str | None,
        temperature: float | None,
        max_tokens: int | None,
        on_piece: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Answer:
        """Return the answer; `on_piece` gets each piece of it as it arrives."""
        ...


class OpenAIChat:
    """Any server that speaks OpenAI's chat completions: Ollama, vLLM, llama.cpp, hosted ones."""

    def __init__(self, base_url: str, api_key: str, default_model: str, timeout_seconds: float) -> None:
        import openai

        self._errors = openai
        # the ledger retries, by its own policy and visibly
        self._client = openai.OpenAI(base_url=base_url, api_key=api_key, timeout=timeout_seconds, max_retries=0)
        self._default_model = default_model

    def complete(
        self,
        messages: list[dict[str, Any]],
        *,
        model: str | None,
        temperature: float | None,
        max_tokens: int | None,
        on_piece: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Answer:
        """See `ChatModel`."""
        wanted: dict[str, Any] = {"model": model or self._default_model, "messages": messages}
        if temperature is not None:
            wanted["temperature"] = temperature
        if max_tokens is not None:
            wanted["max_tokens"] = max_tokens
        try:
            return self._stream(wanted, on_piece, cancelled)
        except self._errors.APIStatusError as error:
            raise _judge(error.status_code, error.message, error.response.headers.get("retry-after")) from None
        except self._errors.APIConnectionError as error:
            raise Retryable(f"the model server can't be reached: {error}", code="llm_unreachable") from None
        except self._errors.OpenAIError as error:
            raise Retryable(f"the model server's answer can't be read: {error}", code="llm_bad_answer") from None

    def _stream(self, wanted: dict[str, Any], on_piece: Callable[[str], None], cancelled: Callable[[], bool]) -> Answer:
        pieces: list[str] = []
        finish_reason, usage, model = None, {}, wanted["model"]
        stream = self._client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True})
        with stream:
            for chunk in stream:
                if cancelled():
                    raise JobCancelled()
                model = chunk.model or model
                if chunk.usage is not None:
                    usage = {
                        "prompt_tokens": chunk.usage.prompt_tokens,
                        "completion_tokens": chunk.usage.completion_tokens,
                        "total_tokens": chunk.usage.total_tokens,
                    }
                if chunk.choices:
                    finish_reason = chunk.choices[0].finish_reason or finish_reason
                    if chunk.choices[0].delta.content:
                        pieces.append(chunk.choices[0].delta.content)
                        on_piece(pieces[-1])
        if finish_reason is None:
            raise Retryable("the model server ended its answer in the middle", code="llm_cut_off")
        return Answer(model, "".join(pieces), finish_reason, usage)


def _judge(status: int, message: str, retry_after: str | None) -> Retryable | Permanent:
    """Return the error for a status: 408, 409, 429 and 5xx are retryable, other 4xx are not."""
    if status in (408, 409, 429) or status >= 500:
        after = read_retry_after(retry_after)
        code = RATE_LIMITED if status == 429 else "llm_unavailable"
        return Retryable(f"the model server answered {status}: {message}", after=after, code=code)
    return Permanent(f"the model server refused with {status}: {message}", code="llm_refused")


class NullChat:
    """Returns an empty answer (`JOBPLATFORM_LLM_BASE_URL=null:`)."""

    def complete(
        self,
        messages: list[dict[str, Any]],
        *,
        model: str | None,
        temperature: float | None,
        max_tokens: int | None,
        on_piece: Callable[[str], None],
        cancelled: Callable[[], bool],
    ) -> Answer:
        """See `ChatModel`."""
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return Answer(model or "null", "", "stop", usage)


@lru_cache(maxsize=1)
def chat_model() -> ChatModel:
    """Return the configured chat model."""
    config = settings()
    if config.llm_base_url.startswith("null:"):
        return NullChat()
    return OpenAIChat(
        config.llm_base_url, config.llm_api_key.get_secret_value(), config.llm_model, config.llm_timeout_seconds
    )
