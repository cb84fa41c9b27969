"""ffmpeg and ffprobe as supervised subprocesses: progress, cancel, a reliable kill, and death with the parent."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from jobplatform.errors import JobCancelled, Permanent, Retryable
from workers.providers.environment import minimal_environment
from workers.runtime.parent_death import die_with_parent

PresetName = Literal["h264-360p", "h264-480p", "h264-720p", "h264-1080p", "vp9-480p", "mp3"]
TERM_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Preset:
    """How to transcode: ffmpeg's options, and the type of the output."""

    options: tuple[str, ...]
    suffix: str
    content_type: str


def _h264(height: int) -> Preset:
    # even sizes (-2), never larger than the source; faststart: playable while it downloads
    scale = f"scale=-2:'min({height},trunc(ih/2)*2)'"
    options = ("-vf", scale, "-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-pix_fmt", "yuv420p")
    return Preset((*options, "-c:a", "aac", "-b:a", "128k", "-movflags", "+faststart"), "mp4", "video/mp4")


PRESETS: dict[str, Preset] = {
    "h264-360p": _h264(360),
    "h264-480p": _h264(480),
    "h264-720p": _h264(720),
    "h264-1080p": _h264(1080),
    "vp9-480p": Preset(
        (
            *("-vf", "scale=-2:'min(480,trunc(ih/2)*2)'", "-c:v", "libvpx-vp9", "-b:v", "0", "-crf", "34"),
            *("-deadline", "realtime", "-cpu-used", "6", "-row-mt", "1", "-c:a", "libopus", "-b:a", "96k"),
        ),
        "webm",
        "video/webm",
    ),
    "mp3": Preset(("-vn", "-c:a", "libmp3lame", "-q:a", "3"), "mp3", "audio/mpeg"),
}


@dataclass(frozen=True)
class MediaInfo:
    """ffprobe's data of a file; sizes in bytes and pixels."""

    seconds: float
    bytes: int
    format: str
    video_codec: str | None = None
    width: int | None = None
    height: int | None = None
    audio_codec: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def probe(path: Path) -> MediaInfo:
    """Run ffprobe. Raises `Permanent` when the file is not a media file."""
    command = ["ffprobe", "-v", "error", "-of", "json", "-show_format", "-show_streams", "-i", f"file:{path}"]
    try:
        done = subprocess.run(
            command,
            env=minimal_environment(),
            capture_output=True,
            timeout=60,
            check=False,
            preexec_fn=die_with_parent,
        )
    except FileNotFoundError:
        raise Retryable("ffprobe is not installed on this worker", code="ffmpeg_missing") from None
    except subprocess.TimeoutExpired:
        raise Retryable("ffprobe did not answer within 60 s", code="ffprobe_timeout") from None
    if done.returncode != 0:
        said = _tail(done.stderr)
        raise Permanent(f"ffprobe can't read {path.name!r}: {said}", code="source_unreadable")
    report = orjson.loads(done.stdout)
    streams = {stream.get("codec_type"): stream for stream in reversed(report.get("streams", []))}
    video, audio = streams.get("video", {}), streams.get("audio", {})
    if not video and not audio:
        raise Permanent(f"{path.name!r} has neither video nor sound", code="source_unreadable")
    container = report.get("format", {})
    return MediaInfo(
        seconds=float(container.get("duration") or 0.0),
        bytes=int(container.get("size") or path.stat().st_size),
        format=str(container.get("format_name", "")),
        video_codec=video.get("codec_name"),
        width=video.get("width"),
        height=video.get("height"),
        audio_codec=audio.get("codec_name"),
    )


def transcode(
    source: Path,
    target: Path,
    preset: Preset,
    *,
    on_progress: Callable[[float], None],
    cancelled: Callable[[], bool],
) -> None:
    """Run ffmpeg; `on_progress` gets the seconds of video done, about twice a second.

    However this function ends, it ends ffmpeg first: with SIGTERM, and with SIGKILL after a grace period. Raises
    `JobCancelled`, `Permanent` when ffmpeg refuses the source, `Retryable` when it was killed from outside.
    """
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-loglevel", "error", "-y", "-i", f"file:{source}"]
    command += [*preset.options, "-progress", "pipe:1", "-stats_period", "0.5", f"file:{target}"]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command,
                env=minimal_environment(),
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )
        except FileNotFoundError:
            raise Retryable("ffmpeg is not installed on this worker", code="ffmpeg_missing") from None
        try:
            assert process.stdout is not None
            for line in process.stdout:
                key, _, value = line.decode("ascii", "replace").strip().partition("=")
                if key == "out_time_us" and value.lstrip("-").isdigit():
                    on_progress(max(0, int(value)) / 1_000_000)
                if key == "progress" and cancelled():
                    raise JobCancelled()
            process.wait()
        finally:
            _end(process)
        errors.seek(0)
        said = _tail(errors.read())
    if process.returncode < 0:
        raise Retryable(f"ffmpeg was killed by signal {-process.returncode}", code="ffmpeg_killed")
    if process.returncode != 0:
        raise Permanent(f"ffmpeg failed: {said}", code="transcode_failed")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(TERM_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _tail(words: bytes, limit: int = 600) -> str:
    return words.decode("utf-8", "replace").strip()[-limit:] or "no message"
