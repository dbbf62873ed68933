"""The explorer as Python sees it: the bundle, the HTML's form, the widget's behaviour, and refused input."""

import re

import numpy as np
import pytest

from minirsa.viz import KernelExplorer
from minirsa.viz.dual import WIDGET_VIEW

CAPTION = "Kernels <forwards> & backwards."


@pytest.fixture
def explorer(scene):
    return KernelExplorer(*scene, caption=CAPTION)


def test_bundle_holds_a_live_widget_a_page_figure_and_a_line_of_text(explorer):
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {WIDGET_VIEW, "text/html", "text/plain"}
    assert bundle[WIDGET_VIEW]["version_major"] == 2
    assert isinstance(bundle[WIDGET_VIEW]["model_id"], str)
    assert bundle["text/plain"] == (
        "KernelExplorer(6 frames, 6 x 8 points, 3 x 5 x 3 kernels: "
        "attention, basic, relational; forwards and backwards)"
    )


def test_bundle_honours_include_and_exclude(explorer):
    assert set(explorer._repr_mimebundle_(include={"text/html"})) == {"text/html"}
    assert set(explorer._repr_mimebundle_(exclude={WIDGET_VIEW})) == {"text/html", "text/plain"}


def test_html_is_the_same_for_the_same_input_and_differs_for_another(scene, explorer):
    assert explorer.html() == KernelExplorer(*scene, caption=CAPTION).html()
    other = KernelExplorer(*scene, caption="Another caption.").html()
    identity = re.compile(r'data-minirsa="(\w+)"')
    assert identity.search(other)[1] != identity.search(explorer.html())[1]


def test_html_needs_nothing_from_elsewhere_and_closes_what_it_opens(explorer):
    page = explorer.html()
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page)
    assert page.count("<script") == page.count("</script>") == 1
    assert "<figcaption>Kernels &lt;forwards&gt; &amp; backwards.</figcaption>" in page
    assert re.search(r'<img class="mx-static" src="data:image/png;base64,[\w+/=]+" alt="[^"]{40,}">', page)
    assert "LIGHT" not in page
    assert "DARK" not in page


def test_a_name_cannot_break_out_of_the_script(scene):
    clip, fields, *_ = scene
    page = KernelExplorer(clip, {"</script><b>": fields["basic"]}, caption="").html()
    assert page.count("</script>") == 1
    assert "<b>" not in page


def test_frames_shared_by_both_directions_are_stored_once(scene, explorer):
    clip, fields, *_ = scene
    both = explorer.html().count("data:image/png")
    assert both == 1 + len(clip)
    shifted = KernelExplorer(clip, fields, 255 - clip, fields, caption="").html()
    assert shifted.count("data:image/png") == 1 + 2 * len(clip)


def test_a_page_carries_it_in_a_few_hundred_kilobytes():
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (8, 28, 28, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    latent = rng.normal(size=(2, 8, 14, 14, 8))
    fields = [
        {name: np.tensordot(part, rng.normal(size=(8, 5, 7, 7)), 1) for name in ("basic", "relational")}
        for part in latent
    ]
    assert len(KernelExplorer(clip, fields[0], clip[::-1], fields[1], caption="").html()) < 700_000


@pytest.mark.parametrize("control", ["Frame", "Row", "Column", "On picture"])
def test_widget_redraws_on_every_control(explorer, controls, control):
    parts = controls(explorer.widget())
    image = parts["Image"]
    before = bytes(image.value)
    assert before.startswith(b"\x89PNG")
    parts[control].value = "basic" if control == "On picture" else 1
    assert bytes(image.value) != before


def test_widget_shows_what_picture_draws(explorer, controls):
    parts = controls(explorer.widget())
    parts["Frame"].value, parts["Row"].value, parts["Column"].value = 2, 3, 8
    parts["On picture"].value = "nothing"
    assert bytes(parts["Image"].value) == explorer.picture(1, 2, 7, "nothing")


def test_widget_uses_only_what_ipywidgets_7_has(explorer):
    allowed = {"IntSlider", "Dropdown", "Image", "HBox", "VBox", "HTML"}
    todo = [explorer.widget()]
    while todo:
        each = todo.pop()
        todo.extend(getattr(each, "children", ()))
        assert type(each).__name__ in allowed


def test_one_direction_is_enough(scene):
    clip, fields, *_ = scene
    explorer = KernelExplorer(clip / 255, fields, caption="", query=(1.0, 0.0, 1.0))
    assert explorer.query == (5, 0, 7)
    assert '"title":"Backwards"' not in explorer.html()
    assert explorer.text().endswith("; forwards)")


def test_scale_is_shared_by_both_directions(scene):
    clip, fields, backwards, reversed_fields = scene
    reversed_fields = {**reversed_fields, "basic": 10 * fields["basic"]}
    explorer = KernelExplorer(clip, fields, backwards, reversed_fields, caption="")
    assert explorer.scales["basic"] > 3 * KernelExplorer(clip, fields, caption="").scales["basic"]


def refuse(scene, message, **changes):
    names = ("clip", "fields", "reversed_clip", "reversed_fields")
    arguments = {**dict(zip(names, scene)), **changes}
    with pytest.raises(ValueError, match=message):
        KernelExplorer(**arguments, caption="")


def test_refuses_what_does_not_fit(scene):
    clip, fields, backwards, reversed_fields = scene
    refuse(scene, "both or neither", reversed_fields=None)
    refuse(scene, "at least one field", fields={})
    refuse(scene, r"clip: expected shape \(T, H, W, 3\)", clip=clip[0])
    refuse(scene, r"fields\['basic'\]: expected shape \(6, gh, gw", fields={"basic": fields["basic"][:4]})
    refuse(scene, r"expected shape \(6, 6, 8, 3, 5, 3\)", fields={**fields, "basic": fields["basic"][..., :1]})
    refuse(scene, "expected the clip's shape", reversed_clip=backwards[:, :8])
    refuse(scene, "expected the names", reversed_fields=dict(reversed(reversed_fields.items())))
    refuse(scene, "finite", fields={**fields, "basic": np.full_like(fields["basic"], np.nan)})
    refuse(scene, "name the field otherwise", fields={"nothing": fields["basic"]})
    refuse(scene, "between 0 and 1", query=(0.5, 1.2, 0.5))
    refuse(scene, r"query: expected \(time, y, x\), 3 fractions .*, got \(0.5, 0.5\)", query=(0.5, 0.5))
