"""A part of a file is exactly its frames, wherever key frames lie; what the file does not reach is refused."""

import av
import numpy as np
import pytest

from minirsa.data import stream
from minirsa.data.stream import read_span, span_length, stream_clip
from minirsa.data.video import FrameIndexError, VideoReadError, read_clip, write_clip

LENGTH, FPS = 90, 25
# The last two group pictures so that some shown before a key frame need pictures of before it.
FILES = {
    "closed.mp4": ("libx264", {"g": "20", "bf": "3", "x264-params": "open-gop=0"}),
    "vp9.webm": ("libvpx-vp9", {"g": "20", "cpu-used": "8"}),
    "open.mkv": ("libx264", {"g": "20", "x264-params": "open-gop=1"}),
    "open.mp4": ("libx264", {"g": "20", "bf": "3", "x264-params": "open-gop=1:b-pyramid=2"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans")
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:64, :96]
    for name, (codec, options) in FILES.items():
        with av.open(str(folder / name), "w") as file:
            stream = file.add_stream(codec, rate=FPS, options={**options, "threads": "1"})
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for t in range(LENGTH):
                frame = np.zeros((64, 96, 3), np.uint8)
                frame[:, :, 1] = 60 + 40 * np.sin((x + t) / 7) * np.cos(y / 5)
                frame[:, 2 * t % 90 :][:, :6] = 255
                frame[:8, :, 0] = generator.integers(0, 255, (8, 96))
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            file.mux(stream.encode(None))
    return folder


@pytest.mark.parametrize("name", FILES)
def test_streaming_gives_what_reading_gives(folder, name):
    np.testing.assert_array_equal(np.stack(list(stream_clip(folder / name))), read_clip(folder / name))


@pytest.mark.parametrize("name", FILES)
def test_a_span_is_its_frames_to_the_pixel(folder, name):
    whole = read_clip(folder / name, backend="pyav")
    for first in (0, 1, 19, 20, 21, 38, 43, 59, 61, 77):
        span = (first / FPS, (first + 13) / FPS)
        assert span_length(folder / name, span) == 13
        np.testing.assert_array_equal(read_span(folder / name, span), whole[first : first + 13])
        picked = read_span(folder / name, span, [12, 3, 3, 0])
        np.testing.assert_array_equal(picked, whole[first : first + 13][[12, 3, 3, 0]])
    np.testing.assert_array_equal(np.stack(list(stream_clip(folder / name, span))), whole[77:])


def test_a_span_between_frames_begins_with_the_next(folder):
    whole = read_clip(folder / "closed.mp4")
    for name in ("closed.mp4", "vp9.webm"):
        assert span_length(folder / name, (1.01, 1.05)) == 1  # frame 26 is shown at 1.04 s
    np.testing.assert_array_equal(read_span(folder / "closed.mp4", (1.01, 1.05)), whole[26:27])


def test_a_far_span_does_not_decode_what_comes_before(folder, monkeypatch):
    """Of a file with a key frame every 20 frames at most 20 come before the first one wanted."""
    decoded, frames_from = [], stream._frames_from
    monkeypatch.setattr(
        stream, "_frames_from", lambda *a: (decoded.append(frame) or frame for frame in frames_from(*a))
    )
    assert len(read_span(folder / "closed.mp4", (3.0, 3.2), [0])) == 1
    assert 1 <= len(decoded) <= 20


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("span", [(3.5, 4.5), (3.7, 4.5), (100.0, 101.0)])
def test_a_span_beyond_the_end_is_refused(folder, name, span):
    for read in (span_length, read_span, lambda *a: list(stream_clip(*a))):
        with pytest.raises(VideoReadError, match=r"it ends after .* before the clip from"):
            read(folder / name, span)


def test_an_end_that_is_rounded_up_is_forgiven(folder):
    assert span_length(folder / "closed.mp4", (3.0, 3.7)) == 15  # the file has 3.6 seconds


def test_wrong_spans_and_indices_are_refused(folder):
    path = folder / "closed.mp4"
    for span in ((1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)):
        with pytest.raises(ValueError, match="0 <= start < end"):
            span_length(path, span)
    for index in (-1, 5):
        with pytest.raises(FrameIndexError, match=rf"no frame {index} from 1\.0 s: there are frames 0 to 4"):
            read_span(path, (1.0, 1.2), [index])
    with pytest.raises(ValueError, match="at least one index"):
        read_span(path, (1.0, 1.2), [])


def test_files_that_are_no_whole_videos_are_refused(folder, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video " * 200)
    half = (folder / "vp9.webm").read_bytes()
    (tmp_path / "half.webm").write_bytes(half[: len(half) // 2])
    for name in ("empty.mp4", "text.mp4", "half.webm", "none.mp4"):
        with pytest.raises(VideoReadError, match=name):
            list(stream_clip(tmp_path / name))
        with pytest.raises(VideoReadError, match=name):
            read_span(tmp_path / name, (3.0, 3.5))


@pytest.mark.parametrize("name", ["closed.mp4", "open.mp4"])
def test_damage_inside_a_span_is_an_error_not_a_picture(folder, tmp_path, name):
    content = bytearray((folder / name).read_bytes())
    with av.open(str(folder / name)) as file:
        packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    position, size = packets[45]
    content[position + 8 : position + size] = bytes(reversed(content[position + 8 : position + size]))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoReadError, match="damaged"):
        read_span(tmp_path / name, (1.6, 2.2))
    assert len(read_span(tmp_path / name, (0.0, 0.4))) == 10


def test_no_more_frames_come_than_the_packets_hold(tmp_path, monkeypatch):
    """A count that promises more ends in an error, not in a loop; one that promises less ends there."""
    write_clip(tmp_path / "a.mp4", np.zeros((7, 64, 96, 3), np.uint8))
    true = stream._contents(tmp_path / "a.mp4")
    monkeypatch.setattr(stream, "_contents", lambda path: type(true)(10**9, 64, 96, True))
    with pytest.raises(VideoReadError, match="frame 7 of 1000000000 does not decode"):
        list(stream_clip(tmp_path / "a.mp4"))
