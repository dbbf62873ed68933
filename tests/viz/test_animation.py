"""The moving figure of the landing page, as far as Python can tell; test_in_browser.py sees it play."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from minirsa.viz import kernel_animation
from minirsa.viz.dual import asset


def data(page):
    return json.loads(re.search(r"const DATA = (.*);\n", page)[1])


def test_animation_is_the_same_for_the_same_input_and_self_contained(scene):
    clip, fields, backwards, reversed_fields = scene
    page = kernel_animation(clip, backwards, fields, reversed_fields, (0.5, 0.5), caption="It moves.")
    again = kernel_animation(clip, backwards, fields, reversed_fields, (0.5, 0.5), caption="It moves.")
    assert page == again
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page)
    assert "<figcaption>It moves.</figcaption>" in page
    assert re.search(r'<img class="mx-static" [^>]*alt="[^"]{40,}">', page)


def test_animation_carries_the_kernels_of_the_chosen_point(scene):
    import base64

    clip, fields, backwards, reversed_fields = scene
    stored = data(kernel_animation(clip, backwards, fields, reversed_fields, (0.99, 0.4), caption=""))
    assert stored["place"] == [5, 3]
    content = np.frombuffer(base64.b64decode(stored["bytes"]), np.int8)
    size = 3 * 5 * 3
    for i, name in enumerate(fields):
        first = content[stored["fields"][i]["offset"] :][: size * 12].reshape(size, 2, 6)
        expected = np.stack([fields[name][:, 5, 3], reversed_fields[name][:, 5, 3]]).reshape(2, 6, size)
        shown = np.moveaxis(first, 0, -1) / 127
        scale = np.quantile(np.abs(expected.astype(np.float32)), 0.995)
        assert np.abs(shown - (expected / scale).clip(-1, 1)).max() < 0.51 / 127


def test_animation_plays_the_reversed_clip_from_its_own_start(scene):
    clip, fields, backwards, reversed_fields = scene
    forwards, reverse = data(kernel_animation(clip, backwards, fields, reversed_fields, (0.5, 0.5), caption=""))[
        "panels"
    ]
    assert reverse["frames"] == forwards["frames"][::-1]


def test_animation_refuses_a_point_outside_the_frame(scene):
    clip, fields, backwards, reversed_fields = scene
    with pytest.raises(ValueError, match="between 0 and 1"):
        kernel_animation(clip, backwards, fields, reversed_fields, (0.5, -0.1), caption="")
    with pytest.raises(ValueError, match=r"query: expected \(y, x\), 2 fractions .*, got \(0.5, 0.5, 0.5\)"):
        kernel_animation(clip, backwards, fields, reversed_fields, (0.5, 0.5, 0.5), caption="")


def test_the_start_page_has_the_figure_that_today_s_assets_draw():
    """book/figures/landing.html is a generated copy; `python book/tools/landing.py` makes it anew."""
    page = (Path(__file__).parents[2] / "book" / "figures" / "landing.html").read_text(encoding="utf-8")
    for name in ("figure.js", "animation.js"):
        assert asset(name) in page, f"{name} has changed since the figure was drawn"
