"""Decoding: exact, equal between decoders, and every bad file refused by name."""

import errno
import os
import pickle
from fractions import Fraction

import av
import numpy as np
import pytest

from minirsa.data.video import FrameIndexError, VideoReadError, _has_decord, clip_length, read_clip, write_clip

BACKENDS = ("decord", "pyav") if _has_decord() else ("pyav",)
LENGTH = 40


def numbered_frames(length=LENGTH, height=64, width=96):
    """Frames that tell their number: a white bar whose left edge moves 2 pixels a frame over a textured ground."""
    y, x = np.mgrid[:height, :width]
    ground = 60 + 40 * np.sin(y / 5) * np.cos(x / 7)
    frames = np.repeat(ground[None, :, :, None], length, 0).repeat(3, -1)
    for t in range(length):
        frames[t, :, 2 * t : 2 * t + 8] = 255
    return (frames * (1.0, 1.0, 0.5)).astype(np.uint8)  # yellow: red and blue must not be exchanged


def number_of(frame):
    """Which of the numbered frames this is, read off the picture."""
    return round(int(np.argmax(frame[:, :, 1].mean(0) > 200)) / 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for ending in ("mp4", "webm"):
        write_clip(folder / f"good.{ending}", numbered_frames())
    return folder


@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_decoders_give_equal_frames(folder, ending):
    if not _has_decord():
        pytest.skip("no decord on this machine")
    path = folder / f"good.{ending}"
    np.testing.assert_array_equal(read_clip(path, backend="decord"), read_clip(path, backend="pyav"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ending", ["mp4", "webm"])
def test_every_frame_comes_once_and_in_order(folder, ending, backend):
    frames = read_clip(folder / f"good.{ending}", backend=backend)
    assert frames.shape == (LENGTH, 64, 96, 3)
    assert frames.dtype == np.uint8
    assert [number_of(frame) for frame in frames] == list(range(LENGTH))
    assert np.abs(frames.astype(int) - numbered_frames()).mean() < 4


@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_pick_exactly_those_frames_in_any_order(folder, backend):
    wanted = [31, 2, 2, 17, 39, 0]
    for ending in ("mp4", "webm"):
        path = folder / f"good.{ending}"
        picked = read_clip(path, wanted, backend=backend)
        np.testing.assert_array_equal(picked, read_clip(path, backend=backend)[wanted])
        assert read_clip(path, [], backend=backend).shape == (0, 64, 96, 3)
    np.testing.assert_array_equal(picked, read_clip(path, np.array(wanted), backend=backend))


def test_length_is_counted_where_the_header_says_nothing(folder):
    with av.open(str(folder / "good.webm")) as file:
        assert file.streams.video[0].frames == 0  # what WebM promises
    assert clip_length(folder / "good.webm") == clip_length(folder / "good.mp4") == LENGTH


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", [-1, LENGTH, 10**9])
def test_unknown_index_is_refused(folder, index, backend):
    with pytest.raises(FrameIndexError, match=rf"no frame {index}: it has frames 0 to 39") as caught:
        read_clip(folder / "good.mp4", [0, index], backend=backend)
    assert isinstance(caught.value, IndexError)


@pytest.mark.parametrize("ending", ["mp4", "webm"])
@pytest.mark.parametrize("width", [2, 4, 6, 8, 10, 12, 16, 24, 26, 48, 72])
def test_small_videos_are_read_though_decord_cannot_decode_some(tmp_path, width, ending):
    path, frames = tmp_path / f"small.{ending}", numbered_frames(3, 48, 96)[:, :, :width]
    write_clip(path, frames)
    read = read_clip(path)
    assert read.shape == frames.shape
    np.testing.assert_array_equal(read, read_clip(path, backend="pyav"))


def test_decord_asked_for_by_name_says_which_frames_it_cannot_decode(tmp_path):
    if not _has_decord():
        pytest.skip("no decord on this machine")
    write_clip(tmp_path / "small.mp4", numbered_frames(3, 64, 96)[:, :, :48])
    with pytest.raises(VideoReadError, match="decord cannot decode frames of 48 x 64"):
        read_clip(tmp_path / "small.mp4", backend="decord")


def test_a_small_video_that_is_damaged_stays_an_error(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (12, 48, 48, 3), dtype=np.uint8)
    write_clip(tmp_path / "good.mp4", frames)
    bytes_overwritten(tmp_path, tmp_path / "bad.mp4")
    assert read_clip(tmp_path / "good.mp4").shape == frames.shape
    with pytest.raises(VideoReadError, match="damaged"):
        read_clip(tmp_path / "bad.mp4")


def test_a_file_that_decord_waits_too_long_for_is_read_by_pyav(folder, monkeypatch):
    """On a busy machine its decoding thread may not get to run between two looks: that says nothing about the file."""
    if not _has_decord():
        pytest.skip("no decord on this machine")
    import decord

    def give_up(*_, **__):
        raise decord.DECORDError("Unable to handle EOF because it takes too long ... `DECORD_EOF_RETRY_MAX=64`")

    monkeypatch.setattr(decord.VideoReader, "get_batch", give_up)
    frames = read_clip(folder / "good.mp4")
    np.testing.assert_array_equal(frames, read_clip(folder / "good.mp4", backend="pyav"))
    with pytest.raises(VideoReadError, match="decord had to wait too long"):
        read_clip(folder / "good.mp4", backend="decord")


def test_index_that_is_no_whole_number_is_a_type_error(folder):
    with pytest.raises(TypeError):
        read_clip(folder / "good.mp4", [0.5])


def test_unknown_backend_is_refused(folder):
    with pytest.raises(ValueError, match="decord"):
        read_clip(folder / "good.mp4", backend="opencv")


def missing(folder, path):
    pass


def directory(folder, path):
    path.mkdir()


def empty(folder, path):
    path.touch()


def text(folder, path):
    path.write_text("This is not a video.\n" * 200)


def playlist(folder, path):
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")


def random_bytes(folder, path):
    path.write_bytes(np.random.default_rng(0).bytes(20_000))


def picture(folder, path):
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as file:
        stream = file.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "rgb24"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24")))
        file.mux(stream.encode(None))


def cut_mp4(folder, path):
    data = (folder / "good.mp4").read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_mp4_with_its_index_first(folder, path):
    """The header is whole and promises every frame; the data end early: an over-reported frame count."""
    whole = path.with_name("whole.mp4")
    remux(folder / "good.mp4", whole, options={"movflags": "+faststart"})
    data = whole.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) * 2 // 3])


def cut_webm(folder, path):
    data = (folder / "good.webm").read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])


def no_frames(folder, path):
    """An mp4 with a video track and nothing in it: the good file's header, its sample tables emptied."""
    data = bytearray((folder / "good.mp4").read_bytes())
    for box in (b"stts", b"stss", b"ctts", b"stsc", b"stsz", b"stco"):
        if box in data:
            at = data.index(box)
            count = at + (12 if box == b"stsz" else 8)  # the number of entries, after version (and one sample size)
            data[count : count + 4] = bytes(4)
    path.write_bytes(bytes(data))


def audio_only(folder, path):
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=8000, layout="mono")
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 1024 * number, Fraction(1, 8000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def duration_over_reported(folder, path):
    """A WebM whose header says ten times its length."""
    data = bytearray((folder / "good.webm").read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Duration, an 8-byte float in milliseconds
    value = np.frombuffer(bytes(data[at : at + 8]), ">f8")[0]
    data[at : at + 8] = np.array(10 * value, ">f8").tobytes()
    path.write_bytes(bytes(data))


def frame_count_over_reported(folder, path):
    """An AVI whose stream header promises a hundred times its frames."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in numbered_frames():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    at = data.index(b"strh") + 8 + 32  # dwLength of the stream header
    assert int.from_bytes(data[at : at + 4], "little") == LENGTH
    data[at : at + 4] = (100 * LENGTH).to_bytes(4, "little")
    path.write_bytes(bytes(data))


def bytes_overwritten(folder, path):
    data = bytearray((folder / "good.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    middle = start + (len(data) - start) // 4
    data[middle : middle + 1500] = np.random.default_rng(0).bytes(1500)
    path.write_bytes(bytes(data))


def remux(source, target, **how):
    with av.open(str(source)) as old, av.open(str(target), "w", **how) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


BAD = {
    missing: ("mp4", "no such file"),
    directory: ("mp4", "directory"),
    empty: ("mp4", "empty"),
    text: ("mp4", "Invalid data"),
    playlist: ("m3u8", "."),
    random_bytes: ("mp4", "Invalid data"),
    picture: ("mp4", "not a video: it reads as png_pipe"),
    cut_mp4: ("mp4", "Invalid data"),
    cut_mp4_with_its_index_first: ("mp4", "cut short or damaged in packet"),
    cut_webm: ("webm", "cut short: its header promises 3.33 s"),
    no_frames: ("mp4", "no frames"),
    audio_only: ("mp4", "no video in it, only audio"),
    duration_over_reported: ("webm", "cut short: its header promises 33.33 s"),
    frame_count_over_reported: ("avi", "cut short: its header promises 4000 frames, it holds 40"),
    bytes_overwritten: ("mp4", "damaged"),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_bad_file_is_refused_with_its_name_and_the_cause(folder, tmp_path, make, backend):
    ending, cause = BAD[make]
    path = tmp_path / f"bad.{ending}"
    make(folder, path)
    with pytest.raises(VideoReadError, match=cause) as caught:
        read_clip(path, backend=backend)
    assert caught.value.path == path
    assert str(caught.value) == f"cannot read {path}: {caught.value.cause}"
    assert "\n" not in caught.value.cause


@pytest.mark.parametrize("make", [m for m in BAD if m is not bytes_overwritten], ids=lambda make: make.__name__)
def test_length_of_a_bad_file_is_refused_too(folder, tmp_path, make):
    path = tmp_path / f"bad.{BAD[make][0]}"
    make(folder, path)
    with pytest.raises(VideoReadError):
        clip_length(path)


def overlong_name(path):
    return path / ("a" * 300 + ".mp4")


def file_as_a_folder(path):
    (path / "file").touch()
    return path / "file" / "a.mp4"


def links_that_go_round(path):
    (path / "a.mp4").symlink_to(path / "a.mp4")
    return path / "a.mp4"


def null_character(path):
    return path / "a\0.mp4"


def locked_folder(path):
    if os.geteuid() == 0:
        pytest.skip("nothing is locked to root")
    (path / "locked").mkdir(mode=0)
    return path / "locked" / "a.mp4"


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (overlong_name, "file ?name too long"),
        (file_as_a_folder, "no such file"),
        (links_that_go_round, "symbolic links"),
        (null_character, "no such file"),
        (locked_folder, "permission denied"),
    ],
)
def test_path_that_leads_to_no_file_is_refused_by_name(tmp_path, make, cause):
    path = make(tmp_path)
    for read in (read_clip, clip_length):
        with pytest.raises(VideoReadError, match=cause) as caught:
            read(path)
        assert caught.value.path == path


def test_folder_that_may_not_be_entered_is_a_read_error(monkeypatch):
    """As ``locked_folder``, for root, whom the system lets in everywhere."""

    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(VideoReadError, match=r"cannot read locked/a\.mp4: permission denied"):
        read_clip("locked/a.mp4")


@pytest.mark.parametrize("backend", BACKENDS)
def test_colon_in_a_relative_path_is_no_protocol(folder, tmp_path, monkeypatch, backend):
    monkeypatch.chdir(tmp_path)
    for name in ("day1:clip.mp4", "file:clip.mp4", "http:clip.mp4"):
        write_clip(name, numbered_frames(3))
        assert (tmp_path / name).is_file()
        assert clip_length(name) == 3
        assert [number_of(frame) for frame in read_clip(name, backend=backend)] == [0, 1, 2]


def test_error_survives_the_way_back_from_a_worker(tmp_path):
    error = pickle.loads(pickle.dumps(VideoReadError(tmp_path / "a.mp4", "empty")))
    assert (error.path, error.cause) == (tmp_path / "a.mp4", "empty")
    assert isinstance(error, ValueError)


def test_vp8_references_that_are_never_shown_are_not_counted(tmp_path):
    """VP8 may store a picture only as a reference: a packet, but no frame. Here: one frame's "shown" bit is cleared."""
    path = tmp_path / "vp8.webm"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libvpx", rate=12, options={"b": "300k", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in numbered_frames()]
        packets = [p for picture in pictures for p in stream.encode(picture)] + stream.encode(None)
        for number, packet in enumerate(packets):
            data = bytearray(bytes(packet))
            if number == 10:
                data[0] &= ~0x10
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
            copy.is_keyframe = packet.is_keyframe
            file.mux(copy)
    assert clip_length(path) == LENGTH - 1
    assert [number_of(frame) for frame in read_clip(path)] == [n for n in range(LENGTH) if n != 10]


def test_same_frames_give_the_same_file(tmp_path):
    for ending in ("mp4", "webm"):
        for name in "ab":
            write_clip(tmp_path / f"{name}.{ending}", numbered_frames(12))
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (25, Fraction(25)),
        (29.97, Fraction(2997, 100)),
        (30000 / 1001, Fraction(30000, 1001)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
        (12.5, Fraction(25, 2)),
        (np.float32(25), Fraction(25)),
    ],
)
def test_frame_rate_is_written(tmp_path, fps, rate):
    write_clip(tmp_path / "a.mp4", numbered_frames(6), fps=fps)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.streams.video[0].average_rate == rate
    assert clip_length(tmp_path / "a.mp4") == 6


@pytest.mark.parametrize("fps", [0, -12, float("nan"), float("inf"), 1e12])
def test_impossible_frame_rate_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match=r"expected 0\.001 to 1000 frames a second"):
        write_clip(tmp_path / "a.mp4", numbered_frames(2), fps=fps)
    assert not (tmp_path / "a.mp4").exists()


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("a.avi", numbered_frames(2)),
        ("a.mp4", numbered_frames(2).astype(np.float32)),
        ("a.mp4", numbered_frames(2)[0]),
        ("a.mp4", numbered_frames(2)[:0]),
        ("a.mp4", numbered_frames(2)[:, :63]),
        ("a.mp4", numbered_frames(2)[..., :1]),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, name, frames):
    with pytest.raises(ValueError, match="expected"):
        write_clip(tmp_path / name, frames)
    assert not (tmp_path / name).exists()


def test_folder_is_as_it_was(folder):
    """The bad files are made elsewhere: a broken maker that writes into the good ones would hide in the rest."""
    assert sorted(path.name for path in folder.iterdir()) == ["good.mp4", "good.webm"]
