"""From a video file to frames, and back.

    file -> demultiplex: packets, one a frame -> decode: YUV frames in display order -> uint8 (T, H, W, 3) RGB

decord decodes where it has a wheel (Linux x86_64, Windows), PyAV elsewhere; both are loaded only when a
function is called, and give the same pixels. Before anything is decoded PyAV walks through the packets: that
counts the frames exactly (a header may lie or say nothing, as WebM's does) and notices files that end early,
which decoders pass over in silence.

Every file that cannot be read raises ``VideoReadError`` with its name and the cause. Damage that leaves a
decodable stream cannot be noticed by anyone: there is no checksum in these formats.

Book: chapter 7, "From bytes to a tensor".
"""

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from operator import index as as_integer
from pathlib import Path

import numpy as np

__all__ = ["FrameIndexError", "VideoReadError", "clip_length", "read_clip", "write_clip"]

BACKENDS = ("decord", "pyav")


class VideoReadError(ValueError):
    """A video file that cannot be read: ``path`` names it, ``cause`` says why."""

    def __init__(self, path: str | os.PathLike, cause: str):
        super().__init__(path, cause)  # both arguments kept, so that the error survives a worker process
        self.path, self.cause = path, cause

    def __str__(self) -> str:
        return f"cannot read {os.fspath(self.path)}: {self.cause}"


class _DecordLimit(VideoReadError):
    """decord cannot decode this file, which says nothing about the file."""


class FrameIndexError(VideoReadError, IndexError):
    """A frame was asked for that the file does not have."""


def read_clip(
    path: str | os.PathLike, indices: Iterable[int] | None = None, *, backend: str | None = None
) -> np.ndarray:
    """Decode a video's frames: all of them, or those at ``indices``, in that order, repeats allowed.

    Returns uint8 (T, H, W, 3), RGB, rows from the top. Frames are exact: number i is the i-th frame shown,
    whatever lies between key frames. ``backend`` is "decord", "pyav" or None for the first that is installed and
    can: decord cannot decode some small widths (2 to 8, 12, 16, 24, 48, 72), which PyAV then does.

    Raises VideoReadError for a file that is missing, out of reach, a directory, empty, not a video, without frames, cut
    short or damaged where it is read; FrameIndexError (also an IndexError) for an index outside 0..length-1;
    ValueError for another backend.
    """
    if backend not in (None, *BACKENDS):
        raise ValueError(f"expected a backend out of {BACKENDS} or None, got {backend!r}")
    if indices is not None:
        indices = [as_integer(i) for i in indices]
    contents = _contents(path)
    if indices is None:
        indices = list(range(contents.frames))
    for i in indices:
        if not 0 <= i < contents.frames:
            raise FrameIndexError(path, f"no frame {i}: it has frames 0 to {contents.frames - 1}")
    if not indices:
        return np.empty((0, contents.height, contents.width, 3), np.uint8)
    if backend == "decord" or (backend is None and contents.plain and _has_decord()):
        try:
            return _decode_decord(path, indices, contents)
        except _DecordLimit:
            if backend == "decord":
                raise
    return _decode_pyav(path, indices, contents)


def clip_length(path: str | os.PathLike) -> int:
    """The number of frames in a video file, counted, not taken from its header. Raises as ``read_clip``."""
    return _contents(path).frames


def write_clip(path: str | os.PathLike, frames: np.ndarray, fps: float = 12) -> None:
    """Write uint8 (T, H, W, 3) as H.264 in .mp4 or VP9 in .webm, by the path's ending, at ``fps`` frames a
    second, 0.001 to 1000 (29.97 and 30000 / 1001 as well as 25).

    One thread and no time stamps or random numbers in the file: the same frames give the same bytes with the
    same libraries. 4:2:0 colour, near-lossless to the eye (CRF 24 and 30). An existing file is replaced.

    Raises ValueError for another ending, shape or type, no frames, odd height or width (4:2:0 halves
    both), or another frame rate.
    """
    import av

    path = Path(path)
    codecs = {
        # Without mbtree=0, x264 (core 165) now and then gives other bytes for the same frames.
        ".mp4": ("libx264", {"crf": "24", "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}),
        ".webm": ("libvpx-vp9", {"crf": "30", "b": "0", "threads": "1", "row-mt": "0", "cpu-used": "2"}),
    }
    if path.suffix.lower() not in codecs:
        raise ValueError(f"expected a path ending in .mp4 or .webm, got {path.name!r}")
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"expected uint8 (T, H, W, 3) with T of at least 1, got {frames.dtype} {frames.shape}")
    if frames.shape[1] % 2 or frames.shape[2] % 2 or 0 in frames.shape:
        raise ValueError(f"expected even height and width, got {frames.shape[1]} x {frames.shape[2]}")
    if not 0.001 <= fps <= 1000:
        raise ValueError(f"expected 0.001 to 1000 frames a second, got {fps}")
    rate = Fraction(float(fps)).limit_denominator(1001)  # video's odd rates are thousands over 1001
    codec, options = codecs[path.suffix.lower()]
    with av.open(_address(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = number
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


@dataclass(frozen=True)
class _Contents:
    """What a walk through a file's packets found. ``plain``: every packet is one shown frame."""

    frames: int
    height: int
    width: int
    plain: bool


def _contents(path: str | os.PathLike) -> _Contents:
    """Count the frames of the first video stream without decoding them; raise for files that cannot be whole."""
    import av

    _check_file(path)
    try:
        with av.open(_address(path), options={"protocol_whitelist": "file"}, metadata_errors="ignore") as file:
            if file.format.name in ("tty", "image2") or file.format.name.endswith("_pipe"):
                raise VideoReadError(path, f"not a video: it reads as {file.format.name}")
            if not file.streams.video:
                kinds = ", ".join(sorted({s.type for s in file.streams})) or "nothing"
                raise VideoReadError(path, f"no video in it, only {kinds}")
            stream = file.streams.video[0]
            height, width = stream.codec_context.height, stream.codec_context.width
            frames = hidden = 0
            end = 0.0
            for packet in file.demux():
                if packet.size == 0:  # the marker that ends a stream
                    continue
                if packet.is_corrupt:
                    raise VideoReadError(path, f"cut short or damaged in packet {frames + hidden}")
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not stream:
                    continue
                if packet.is_discard or (stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10):
                    hidden += 1  # cut away by an edit list, or a VP8 reference that is never shown
                else:
                    frames += 1
            promised, rate = stream.frames, float(stream.average_rate or stream.guessed_rate or 0)
            start = (file.start_time or 0) / av.time_base
            duration = (file.duration or 0) / av.time_base
    except av.FFmpegError as error:
        raise VideoReadError(path, _reason(error)) from error
    if frames == 0:
        raise VideoReadError(path, "no frames in it")
    if height == 0 or width == 0:
        raise VideoReadError(path, "frames of unknown size")
    # Headers round: a fiftieth and three frames are forgiven before a file counts as cut.
    if promised - frames - hidden > 3 + promised / 50:
        raise VideoReadError(path, f"cut short: its header promises {promised} frames, it holds {frames}")
    if rate > 0 and duration - (end - start) > 3 / rate + duration / 50:
        raise VideoReadError(
            path, f"cut short: its header promises {duration:.2f} s, its frames end after {end - start:.2f} s"
        )
    return _Contents(frames, height, width, plain=hidden == 0)


def _address(path: str | os.PathLike) -> str:
    """A path as FFmpeg is to be given it: without the "file:" a colon in it would name a protocol."""
    return "file:" + os.fsdecode(path)


def _check_file(path: str | os.PathLike) -> None:
    """Raise VideoReadError for what is no readable, non-empty file: decoders name these badly or wait for ever."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VideoReadError(path, "no such file") from error
    except OSError as error:  # a folder that may not be entered, an overlong name, links that go round
        raise VideoReadError(path, (error.strerror or str(error)).lower()) from error
    except ValueError as error:  # a null character in the name
        raise VideoReadError(path, f"no such file: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise VideoReadError(path, "it is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise VideoReadError(path, "it is not a regular file")
    if found.st_size == 0:
        raise VideoReadError(path, "the file is empty")
    if not os.access(path, os.R_OK):
        raise VideoReadError(path, "permission denied")


def _reason(error: Exception) -> str:
    """What a decoder's own exception says, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ", "", text)  # decord's clock and the line in its source
    return " ".join(text.split())[:160]


@cache
def _has_decord() -> bool:
    return find_spec("decord") is not None


def _decode_decord(path: str | os.PathLike, indices: list[int], contents: _Contents) -> np.ndarray:
    """uint8 (T, H, W, 3). The reader is opened and closed in here: one kept over a fork or shared by threads hangs."""
    import torch  # noqa: F401 - decord before torch has crashed CUDA builds

    # A frame that never comes makes decord try again, by default 10240 times. It reads this when it starts to
    # decode.
    os.environ.setdefault("DECORD_EOF_RETRY_MAX", "64")
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(_address(path), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != contents.frames:
            raise VideoReadError(path, f"decord sees {len(reader)} frames where there are {contents.frames}")
        frames = reader.get_batch(indices).asnumpy()
    except (decord.DECORDError, RuntimeError) as error:
        # decord 0.6 hands frames over with their lines padded to the decoder's alignment, and stops at the padding.
        if "from_size == to_size" in str(error):
            size = f"{contents.width} x {contents.height}"
            raise _DecordLimit(path, f'decord cannot decode frames of {size}: leave backend out, or "pyav"') from error
        # Its own thread had too little processor time between two looks of ours: PyAV says whether the file is whole.
        if "EOF_RETRY_MAX" in str(error):
            raise _DecordLimit(path, f"damaged, or decord had to wait too long: {_reason(error)}") from error
        raise VideoReadError(path, f"damaged: decord stops with {_reason(error)}") from error
    return frames


def _decode_pyav(path: str | os.PathLike, indices: list[int], contents: _Contents) -> np.ndarray:
    """uint8 (T, H, W, 3): frames are decoded in order up to the last one wanted, and only the wanted ones kept."""
    import av

    wanted, last = set(indices), max(indices)
    found = {}
    try:
        with av.open(_address(path), options={"protocol_whitelist": "file"}, metadata_errors="ignore") as file:
            stream = file.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"err_detect": "explode"}
            for number, frame in enumerate(file.decode(stream)):
                if frame.is_corrupt:
                    raise VideoReadError(path, f"damaged: frame {number} does not decode")
                if number in wanted:
                    found[number] = frame.to_ndarray(format="rgb24")
                if number == last:
                    break
    except av.FFmpegError as error:
        raise VideoReadError(path, f"damaged: PyAV stops with {_reason(error)}") from error
    if len(found) < len(wanted):
        missing = min(wanted - found.keys())
        raise VideoReadError(path, f"damaged: frame {missing} of {contents.frames} does not decode")
    if len({frame.shape for frame in found.values()}) > 1:
        raise VideoReadError(path, "its frames change size")
    return np.stack([found[i] for i in indices])
