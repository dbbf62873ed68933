"""Clip strips, kernel maps, attention maps and the style: what is drawn, and which mistakes are refused."""

import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from minirsa import viz


@pytest.fixture(autouse=True)
def _agg():
    matplotlib.use("Agg")
    with matplotlib.rc_context():
        viz.use_style()
        yield
    plt.close("all")


def clip(length=4, height=6, width=8):
    return np.random.default_rng(0).integers(0, 256, (length, height, width, 3), dtype=np.uint8)


def pictures(figure):
    return [np.asarray(image.get_array()) for ax in figure.axes for image in ax.images]


def contrast(first, second):
    """WCAG 2 contrast ratio of two colours."""

    def luminance(color):
        channels = np.array(to_rgb(color))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_style_twice_is_style_once_and_keeps_text_legible():
    once = dict(matplotlib.rcParams)
    viz.use_style()
    assert dict(matplotlib.rcParams) == once
    sized = (
        "font.size",
        "axes.labelsize",
        "axes.titlesize",
        "xtick.labelsize",
        "ytick.labelsize",
        "legend.fontsize",
    )
    assert min(once[key] for key in sized) >= 9
    assert to_hex(once["figure.facecolor"]) == "#ffffff"


@pytest.mark.parametrize("palette", [viz.PALETTE, viz.PALETTE_DARK], ids=["light", "dark"])
def test_palette_is_readable_on_its_paper(palette):
    for role, color in palette.items():
        if role not in ("paper", "highlight"):  # 4.5 is WCAG's minimum for text, 3 for lines and areas
            assert contrast(color, palette["paper"]) >= (4.5 if role == "ink" else 3), role


def test_zero_is_paper_white_on_the_diverging_scale():
    assert np.allclose(viz.DIVERGING(0.5)[:3], 1, atol=0.01)
    assert to_hex(viz.DIVERGING(0.0)) == viz.PALETTE["basic"]
    assert to_hex(viz.DIVERGING(1.0)) == viz.PALETTE["relational"]


def test_clip_strip_draws_every_frame_in_order():
    frames = clip()
    for rows in (1, 2, 3):
        drawn = pictures(viz.clip_strip(frames, rows=rows))
        assert len(drawn) == 4
        assert all(np.array_equal(a, b) for a, b in zip(drawn, frames))


def test_clip_strip_takes_floats_between_zero_and_one():
    frames = clip()
    drawn = pictures(viz.clip_strip(frames / 255))
    assert all(np.array_equal(a, b) for a, b in zip(drawn, frames))


def test_clip_strip_marks_the_query_in_its_frame_only():
    figure = viz.clip_strip(clip(), query=(0.5, 0.5, 1.0))
    marked = [i for i, ax in enumerate(figure.axes) if ax.lines]
    assert marked == [2]
    line = figure.axes[2].lines[0]
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (7, 3)


def test_clip_strip_fits_the_page():
    assert viz.clip_strip(clip(16)).get_size_inches()[0] == pytest.approx(viz.PAGE_WIDTH)


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        (np.zeros((4, 6, 8), np.uint8), {}, r"expected shape \(T, H, W, 3\)"),
        (np.zeros((0, 6, 8, 3), np.uint8), {}, r"expected shape \(T, H, W, 3\)"),
        (np.full((2, 4, 4, 3), 255.0), {}, "between 0 and 1"),
        (np.full((2, 4, 4, 3), np.nan), {}, "between 0 and 1"),
        (np.zeros((2, 4, 4, 3)), {"titles": ["one"]}, "expected 2"),
        (np.zeros((2, 4, 4, 3)), {"query": (0, 1.5, 0)}, "fractions between 0 and 1"),
        (np.zeros((2, 4, 4, 3)), {"query": (0, 0, np.nan)}, "fractions between 0 and 1"),
        (np.zeros((2, 4, 4, 3)), {"query": (0.5, 0.5)}, r"expected \(time, y, x\), 3 fractions .*, got \(0.5, 0.5\)"),
        (np.zeros((2, 4, 4, 3)), {"query": 0.5}, r"expected \(time, y, x\)"),
        (np.zeros((2, 4, 4, 3)), {"rows": 3}, "expected 1 to 2"),
    ],
)
def test_clip_strip_refuses(frames, options, message):
    with pytest.raises(ValueError, match=message):
        viz.clip_strip(frames, **options)
    assert plt.get_fignums() == [], "a figure was opened first"


def test_kernel_maps_draw_one_map_a_step_on_a_scale_shared_along_the_row():
    rng = np.random.default_rng(1)
    kernels = {"basic": rng.normal(size=(5, 7, 7)), "relational": 9 * rng.normal(size=(5, 3, 3))}
    figure = viz.kernel_maps(kernels, title="Kernels")
    images = [image for ax in figure.axes for image in ax.images]
    assert len(images) == 10
    for row, values in enumerate(kernels.values()):
        for step in range(5):
            image = images[5 * row + step]
            assert np.array_equal(image.get_array(), values[step])
            assert image.get_clim() == (-np.abs(values).max(), np.abs(values).max())
    assert [ax.get_xlabel() for ax in figure.axes[5:10]] == ["−2", "−1", "0", "+1", "+2"]


def test_kernel_maps_draw_a_kernel_of_zeros():
    (image,) = (i for ax in viz.kernel_maps(np.zeros((1, 3, 3))).axes for i in ax.images)
    assert image.get_clim() == (-1, 1)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ({}, "at least one"),
        (np.zeros((3, 3)), "expected shape"),
        (np.float64(1), "expected shape"),
        ({"a": np.zeros((3, 3, 3)), "b": np.zeros((5, 3, 3))}, r"'b': expected shape \(3, kH, kW\)"),
        (np.full((1, 2, 2), np.inf), "finite"),
    ],
)
def test_kernel_maps_refuse(kernel, message):
    with pytest.raises(ValueError, match=message):
        viz.kernel_maps(kernel)


def test_attention_map_lays_the_weights_over_the_whole_frame():
    frame, weights = clip()[0], np.arange(6.0).reshape(2, 3)
    figure = viz.attention_map(frame, weights, query=(0, 0))
    plain, _, heat = [image for ax in figure.axes[:2] for image in ax.images]
    assert np.array_equal(plain.get_array(), frame)
    assert np.array_equal(heat.get_array(), weights)
    assert heat.get_extent() == [-0.5, 7.5, 5.5, -0.5]
    assert heat.get_clim() == (0, 5)


@pytest.mark.parametrize("weights", [np.zeros(3), -np.ones((2, 2)), np.full((2, 2), np.nan)])
def test_attention_map_refuses(weights):
    with pytest.raises(ValueError, match="weights: expected"):
        viz.attention_map(clip()[0], weights)


@pytest.mark.parametrize(
    ("frame", "query", "message"),
    [
        (clip(), None, r"frame: expected shape \(H, W, 3\), got \(4, 6, 8, 3\)"),
        (clip()[0, :, :, 0], None, r"frame: expected shape \(H, W, 3\), got \(6, 8\)"),
        (clip()[0], (0.5, 0.2, 0.2), r"query: expected \(y, x\), 2 fractions .*, got \(0.5, 0.2, 0.2\)"),
        (clip()[0], (0.5, 1.2), "fractions between 0 and 1"),
    ],
)
def test_attention_map_refuses_other_frames_and_places(frame, query, message):
    with pytest.raises(ValueError, match=message):
        viz.attention_map(frame, np.ones((2, 2)), query=query)
    assert plt.get_fignums() == [], "a figure was opened first"


def test_viz_needs_neither_torch_nor_widgets_to_draw():
    code = "import sys, minirsa.viz; print(sorted({'torch', 'ipywidgets', 'IPython'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("[]\n", "")
