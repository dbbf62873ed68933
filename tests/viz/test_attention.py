"""The attention explorer as Python sees it; test_in_browser.py sees the page's script."""

import io
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from minirsa.viz import PALETTE, AttentionExplorer
from minirsa.viz.attention import MASKED, look
from minirsa.viz.dual import WIDGET_VIEW

CAPTION = "Sharp <and> even & masked."


@pytest.fixture
def explorer(attention_scene):
    return AttentionExplorer(*attention_scene, caption=CAPTION)


def one_picture(attention_scene):
    clip, weights = attention_scene
    rng = np.random.default_rng(0)
    return clip[:1], {name: rng.dirichlet(np.ones(12), 12).reshape(1, 3, 4, 1, 3, 4) for name in weights}


def test_bundle_holds_a_live_widget_a_page_figure_and_a_line_of_text(explorer):
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {WIDGET_VIEW, "text/html", "text/plain"}
    assert bundle["text/plain"] == "AttentionExplorer(3 frames, 3 x 4 patches: sharp, even, space)"


def test_html_is_the_same_for_the_same_input_and_differs_for_another(attention_scene, explorer):
    assert explorer.html() == AttentionExplorer(*attention_scene, caption=CAPTION).html()
    identity = re.compile(r'data-minirsa="(\w+)"')
    other = AttentionExplorer(*attention_scene, caption="Another.").html()
    assert identity.search(other)[1] != identity.search(explorer.html())[1]


def test_html_needs_nothing_from_elsewhere_and_says_what_it_shows(explorer):
    page = explorer.html()
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page)
    assert page.count("<script") == page.count("</script>") == 1
    assert "<figcaption>Sharp &lt;and&gt; even &amp; masked.</figcaption>" in page
    words = re.search(r'<img class="mx-static" src="data:image/png;base64,[\w+/=]+" alt="([^"]+)">', page)[1]
    assert words.startswith("Frame 2 of a clip with one patch marked (row 2 of 3, column 3 of 4)")
    assert f"space: {explorer.numbers('space', 1, 1, 2)}" in words


def test_a_name_cannot_break_out_of_the_script_or_the_text(attention_scene):
    clip, weights = attention_scene
    page = AttentionExplorer(clip, {'</script><b>"$x': weights["even"]}, caption="").html()
    assert page.count("</script>") == 1
    assert "<b>" not in page


def test_numbers_are_the_largest_weight_and_the_spread(attention_scene):
    clip, _ = one_picture(attention_scene)
    weights = np.zeros((1, 3, 4, 1, 3, 4))
    weights[0, 0, 0, 0, 0, 1] = 1
    weights[0, 0, 1] = 1 / 12
    weights[0, 0, 2, 0, 1, :2] = 0.5
    made = AttentionExplorer(clip, {"w": weights}, caption="")
    assert made.numbers("w", 0, 0, 0) == "largest 1; ≈ 1.0 of 12 patches"
    assert made.numbers("w", 0, 0, 1) == "largest 0.083; ≈ 12 of 12 patches"
    assert made.numbers("w", 0, 0, 2) == "largest 0.5; ≈ 2.0 of 12 patches"
    assert made.numbers("w", 0, 2, 2) == "largest 0; ≈ 0.0 of 12 patches"


def test_a_page_carries_one_picture_under_three_weights_in_250_kilobytes():
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (1, 24, 32, 3), dtype=np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    weights = {name: rng.random((1, 12, 16, 1, 12, 16)) for name in ("q.k", "q.k / sqrt(d)", "q.k / d")}
    assert len(AttentionExplorer(clip, weights, caption="").html()) < 250_000


def test_a_page_carries_eight_frames_under_four_weights_in_900_kilobytes():
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (8, 28, 28, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    weights = {name: rng.random((8, 6, 8, 8, 6, 8)) for name in ("joint", "space", "time", "local")}
    assert len(AttentionExplorer(clip, weights, caption="").html()) < 900_000


@pytest.mark.parametrize("control", ["Frame", "Row", "Column", "On picture"])
def test_widget_redraws_on_every_control(explorer, controls, control):
    parts = controls(explorer.widget())
    before = bytes(parts["Image"].value)
    assert before.startswith(b"\x89PNG")
    parts[control].value = "even" if control == "On picture" else 1
    assert bytes(parts["Image"].value) != before


def test_widget_shows_what_picture_draws(explorer, controls):
    parts = controls(explorer.widget())
    parts["Frame"].value, parts["Row"].value, parts["Column"].value = 3, 1, 4
    parts["On picture"].value = "space"
    assert bytes(parts["Image"].value) == explorer.picture(2, 0, 3, "space")


def test_widget_of_one_picture_asks_for_no_frame(attention_scene, controls):
    parts = controls(AttentionExplorer(*one_picture(attention_scene), caption="").widget())
    assert {"Row", "Column", "On picture"} <= set(parts)
    assert "Frame" not in parts


def test_widget_uses_only_what_ipywidgets_7_has(explorer):
    todo = [explorer.widget()]
    while todo:
        each = todo.pop()
        todo.extend(getattr(each, "children", ()))
        assert type(each).__name__ in {"IntSlider", "Dropdown", "Image", "HBox", "VBox", "HTML"}


def test_a_frame_is_coloured_cell_by_cell_and_masked_cells_are_grey():
    frame = np.full((30, 40, 3), 100, np.uint8)
    shares = np.array([[1, 0.5, 0, -1], [0, 0, 0, 0]])
    drawn = look(frame, shares)
    cells = drawn[drawn.shape[0] // 4, [int((x + 0.5) * drawn.shape[1] / 4) for x in range(4)]]
    faded = 1 - 0.55 * (1 - 100 / 255)
    purple, grey = np.array(to_rgb(PALETTE["attention"])), np.array(to_rgb(MASKED))
    assert cells[0] == pytest.approx(0.15 * faded + 0.85 * purple)
    assert cells[1] == pytest.approx(0.575 * faded + 0.425 * purple)
    assert cells[2] == pytest.approx(np.full(3, faded))
    assert cells[3] == pytest.approx(0.4 * faded + 0.6 * grey)
    assert np.array_equal(look(frame, None)[0, 0] * 255, [100, 100, 100])


@pytest.mark.parametrize("frames", [1, 3])
def test_the_still_picture_marks_the_query_and_fits_the_page(attention_scene, frames):
    scene = attention_scene if frames == 3 else one_picture(attention_scene)
    made = AttentionExplorer(*scene, caption="")
    pictures = [np.asarray(Image.open(io.BytesIO(made.picture(0, row, 1, "sharp"))).convert("RGB")) for row in (0, 2)]
    yellow = [np.argwhere(np.abs(p.astype(int) - (0xF2, 0xB7, 0x05)).max(axis=2) < 8) for p in pictures]
    assert all(len(found) for found in yellow)
    assert yellow[1][:, 0].mean() > yellow[0][:, 0].mean() + 20
    assert pictures[0].shape[1] == 792  # 7.2 inches at 110 dots an inch


def test_the_still_picture_greys_what_the_query_may_not_look_at(attention_scene):
    clip, weights = attention_scene
    area = {}
    for name in ("sharp", "space"):
        png = AttentionExplorer(clip, {name: weights[name]}, caption="").picture(1, 1, 2)
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)
        area[name] = (np.abs(pixels / 255 - to_rgb(MASKED)).max(axis=2) < 0.01).mean()
    assert area["space"] > area["sharp"] + 0.05, "two of three maps are masked"


def test_many_frames_and_unequal_sides_are_drawn_too():
    clip = np.zeros((11, 10, 30, 3), np.uint8)
    made = AttentionExplorer(clip, {"w": np.ones((11, 1, 2, 11, 1, 2))}, caption="", query=(0, 0, 1))
    assert made.picture(10, 0, 1, "w").startswith(b"\x89PNG")
    assert made.query == (0, 0, 1)


def refuse(scene, message, **changes):
    arguments = {**dict(zip(("clip", "weights"), scene)), **changes}
    with pytest.raises(ValueError, match=message):
        AttentionExplorer(**arguments, caption="")


def test_refuses_what_does_not_fit(attention_scene):
    scene, (clip, weights) = attention_scene, attention_scene
    even = weights["even"]
    refuse(scene, r"clip: expected shape \(T, H, W, 3\)", clip=clip[0])
    refuse(scene, "at least one array", weights={})
    refuse(scene, r"weights\['even'\]: expected shape \(3, gh, gw, 3, gh, gw\), got \(2, 3", weights={"even": even[:2]})
    refuse(scene, r"expected shape \(3, gh, gw, 3, gh, gw\)", weights={"even": even[..., :2]})
    refuse(scene, r"expected shape \(3, 3, 4, 3, 3, 4\)", weights={**weights, "even": even[..., :1]})
    refuse(scene, "finite numbers >= 0", weights={"even": even - 0.5})
    refuse(scene, "finite numbers >= 0", weights={"even": even * np.nan})
    refuse(scene, "name the weights otherwise", weights={"nothing": even})
    refuse(scene, "font lacks letters of '주의'", weights={"주의": even})
    refuse(scene, "between 0 and 1", query=(0.5, 1.2, 0.5))
    refuse(scene, r"query: expected \(time, y, x\), 3 fractions", query=(0.5, 0.5))
