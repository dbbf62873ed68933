"""A video file one frame at a time: the whole of it, or what lies between two times.

    (path, (start, end)) -> seek to the key frame before start -> frames with start <= time < end, uint8 (H, W, 3)

`minirsa.data.video.read_clip` holds all its frames in memory and counts the whole file first; both are dear for an hour
of gymnastics of which two seconds are wanted. Here PyAV decodes; pixels and errors are the same. Time is counted from
the first frame of the file.

Book: chapter 16, "A data set on disk".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from minirsa.data.video import FrameIndexError, VideoReadError, _address, _check_file, _contents, _reason

if TYPE_CHECKING:
    import av

__all__ = ["read_span", "span_length", "stream_clip"]

_EPSILON = 1e-6  # seconds: an annotation's decimals may stand a rounding after the frame they mean


def stream_clip(path: str | os.PathLike, span: tuple[float, float] | None = None) -> Iterator[np.ndarray]:
    """The frames of a file, or those between two times in seconds, one after the other: uint8 (H, W, 3), RGB.

    No more frames come than the file's packets hold, whatever its header says. Raises VideoReadError, at the latest
    after the last frame, for a file that `read_clip` refuses and for a span that the file does not reach.
    """
    if span is None:
        wanted: int | list[int] = _contents(path).frames
    else:
        wanted = _span_stamps(path, span)
    for _, frame in _decode(path, wanted, span):
        yield frame.to_ndarray(format="rgb24")


def span_length(path: str | os.PathLike, span: tuple[float, float]) -> int:
    """The number of frames between two times in seconds, nothing decoded. Raises as `stream_clip`."""
    return len(_span_stamps(path, span))


def read_span(path: str | os.PathLike, span: tuple[float, float], indices: Iterable[int] | None = None) -> np.ndarray:
    """Frames between two times, all or those at ``indices`` (repeats allowed): uint8 (T, H, W, 3).

    Index 0 is the first frame at or after the span's start. Raises as `stream_clip`, and FrameIndexError for an index
    outside 0..length-1.
    """
    stamps = _span_stamps(path, span)
    indices = list(range(len(stamps)) if indices is None else indices)
    if not indices:
        raise ValueError("expected at least one index, got none")
    for i in indices:
        if not 0 <= i < len(stamps):
            raise FrameIndexError(path, f"no frame {i} from {span[0]} s: there are frames 0 to {len(stamps) - 1}")
    wanted = set(indices)
    found = {}
    for number, frame in _decode(path, stamps[: max(wanted) + 1], span):
        if number in wanted:
            found[number] = frame.to_ndarray(format="rgb24")
    if len({frame.shape for frame in found.values()}) > 1:
        raise VideoReadError(path, "its frames change size")
    return np.stack([found[i] for i in indices])


def _span_stamps(path: str | os.PathLike, span: tuple[float, float]) -> list[int]:
    """The time stamps of the frames of a span, in order, from the packets."""
    import av

    start, end = span
    if not 0 <= start < end:
        raise ValueError(f"expected a span (start, end) in seconds with 0 <= start < end, got {span}")
    _check_file(path)
    stamps, reached, rate = [], 0.0, 0.0
    try:
        with av.open(_address(path), options={"protocol_whitelist": "file"}, metadata_errors="ignore") as file:
            stream = _video_stream(file, path)
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            for packet in _packets_from(file, stream, start):
                if packet.is_corrupt:
                    raise VideoReadError(path, f"cut short or damaged near {reached:.2f} s")
                if packet.pts is None:
                    raise VideoReadError(path, "its frames have no time stamps: a part of it cannot be found")
                second = _second(packet.pts, stream)
                reached = max(reached, second + float((packet.duration or 0) * stream.time_base))
                if start - _EPSILON <= second < end - _EPSILON and not packet.is_discard:
                    stamps.append(packet.pts)
                # Packets stand in the order of decoding; no later one is shown before its own decoding time.
                if packet.dts is not None and _second(packet.dts, stream) >= end:
                    break
    except av.FFmpegError as error:
        raise VideoReadError(path, _reason(error)) from error
    # Annotations round: three frames and a tenth of the span are forgiven before a file counts as cut.
    slack = (3 / rate if rate > 0 else 0.0) + (end - start) / 10
    if not stamps or end - reached > slack:
        raise VideoReadError(path, f"it ends after {reached:.2f} s, before the clip from {start:.2f} to {end:.2f} s")
    return sorted(stamps)


def _decode(
    path: str | os.PathLike, wanted: int | list[int], span: tuple[float, float] | None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Number and picture of the first ``wanted`` frames, or of those with the time stamps ``wanted``."""
    import av

    count = wanted if isinstance(wanted, int) else len(wanted)
    places = None if isinstance(wanted, int) else {stamp: number for number, stamp in enumerate(wanted)}
    found = 0
    # A strict decoder refuses some streams when it comes in halfway ("open" groups of pictures): then from the start.
    for seek in (False,) if span is None else (True, False):
        if found == count:
            return
        try:
            with av.open(_address(path), options={"protocol_whitelist": "file"}, metadata_errors="ignore") as file:
                stream = _video_stream(file, path)
                stream.codec_context.thread_count = 1
                stream.codec_context.options = {"err_detect": "explode"}
                for frame in _frames_from(file, stream, span[0]) if seek else file.decode(stream):
                    number = found if places is None else places.get(frame.pts, -1)
                    if number < found:  # before the span
                        continue
                    if frame.is_corrupt or number > found:
                        raise VideoReadError(path, f"damaged: frame {found} of {count} does not decode")
                    yield number, frame
                    found += 1
                    if found == count:
                        return
        except av.FFmpegError as error:
            if not seek:
                raise VideoReadError(path, f"damaged: PyAV stops with {_reason(error)}") from error
    raise VideoReadError(path, f"damaged: frame {found} of {count} does not decode")


def _video_stream(file: av.container.InputContainer, path: str | os.PathLike) -> av.VideoStream:
    if not file.streams.video:
        raise VideoReadError(path, "no video in it")
    return file.streams.video[0]


def _packets_from(file: av.container.InputContainer, stream: av.VideoStream, start: float) -> Iterator[av.Packet]:
    """Packets from the last key frame at or before a time. Those shown before that key frame are left out: they may
    need pictures of before it ("open" groups of pictures), and nobody wants them."""
    origin = stream.start_time or 0
    target, step = int(start / stream.time_base) + origin, int(1 / stream.time_base)
    back = 0
    while True:
        file.seek(max(target - back, origin), stream=stream)
        packets = (packet for packet in file.demux(stream) if packet.size > 0)
        first = next(packets, None)
        # Some containers are searched by decoding time, which is before the time of showing: then once more, earlier.
        if first is None or first.pts is None or first.pts <= target or target - back <= origin:
            break
        back = 2 * back or step
    if first is not None:
        yield first
        yield from (p for p in packets if p.pts is None or first.pts is None or p.pts >= first.pts)


def _frames_from(file: av.container.InputContainer, stream: av.VideoStream, start: float) -> Iterator[av.VideoFrame]:
    for packet in _packets_from(file, stream, start):
        yield from packet.decode()
    yield from stream.codec_context.decode(None)  # what the decoder still holds


def _second(stamp: int, stream: av.VideoStream) -> float:
    return float((stamp - (stream.start_time or 0)) * stream.time_base)
