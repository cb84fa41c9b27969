"""`video.transcode`: convert one video to another size and codec with ffmpeg."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from jobplatform import Context, Permanent, kind
from jobplatform.config import settings
from jobplatform.domain.retry import Exponential
from workers.providers.ffmpeg import PRESETS, PresetName, probe, transcode


def _below_root(value: str) -> str:
    """Accept a path below JOBPLATFORM_MEDIA_ROOT, absolute or relative to it, after symbolic links are resolved."""
    root = settings().media_root.resolve()
    if "\x00" in value:
        raise ValueError("a path without NUL characters")
    try:
        path = (root / value).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
        raise ValueError(f"a path that can be followed: {error}") from None
    if path == root or root not in path.parents:
        raise ValueError("a path below the allowed root (JOBPLATFORM_MEDIA_ROOT)")
    return str(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


class Source(BaseModel):
    """The input: a path below JOBPLATFORM_MEDIA_ROOT, or the id of an upload or artifact."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, AfterValidator(_below_root)] | None = Field(None, min_length=1, max_length=4096)
    artifact: UUID | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Source:
        if (self.path is None) == (self.artifact is None):
            raise ValueError("exactly one of path and artifact")
        return self


class VideoTranscode(BaseModel):
    """The input video and the options of the output."""

    model_config = ConfigDict(extra="forbid")

    source: Source
    preset: PresetName


class Kept(BaseModel):
    """A stored file; other jobs refer to it by `id`."""

    id: str
    name: str
    size: int
    sha256: str
    content_type: str


class VideoTranscoded(BaseModel):
    """The output, and ffprobe's data of both files."""

    artifact: Kept
    before: dict[str, Any]
    after: dict[str, Any]


@kind(
    "video.transcode",
    queue="video",
    limit_keys=("tenant",),
    max_attempts=3,
    retry=Exponential(base_seconds=30, cap_seconds=1800),
    soft_limit_seconds=3600,
    hard_limit_seconds=3660,
)
def transcode_video(payload: VideoTranscode, ctx: Context) -> VideoTranscoded:
    """Transcode a video with ffmpeg; progress is in seconds of video, the output is an artifact."""
    if payload.source.artifact is not None:
        source = ctx.fetch_artifact(payload.source.artifact)
    else:
        source = Path(payload.source.path or "")
        if not _is_file(source):
            raise Permanent(f"there is no file {source.name!r} below the allowed root", code="source_not_found")
    before = probe(source)
    preset = PRESETS[payload.preset]
    target = ctx.workdir / f"out.{preset.suffix}"

    def report(seconds: float) -> None:
        ctx.progress(round(min(seconds, before.seconds), 2), round(before.seconds, 2), "transcoding")

    transcode(source, target, preset, on_progress=report, cancelled=ctx.cancelled)
    after = probe(target)
    ctx.progress(round(before.seconds, 2), round(before.seconds, 2), "keeping the output")
    name = f"{source.stem[:100]}-{payload.preset}.{preset.suffix}"
    artifact = ctx.artifact(name, target, preset.content_type)
    return VideoTranscoded(artifact=Kept.model_validate(dict(artifact)), before=before.as_dict(), after=after.as_dict())
