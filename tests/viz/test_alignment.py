"""The alignment map and the alignment picture as Python sees them; test_in_browser.py sees the page's script."""

import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from minirsa.viz import AlignmentExample, AlignmentMap, alignment
from minirsa.viz.alignment import drawable
from minirsa.viz.dual import WIDGET_VIEW

CAPTION = "Digits <look> at words."


@pytest.fixture
def figure(examples):
    return AlignmentMap(examples, caption=CAPTION)


def test_bundle_holds_a_live_widget_a_page_figure_and_a_line_of_text(figure):
    bundle = figure._repr_mimebundle_()
    assert set(bundle) == {WIDGET_VIEW, "text/html", "text/plain"}
    assert bundle["text/plain"] == "AlignmentMap(3 examples: 7 x 6, 10 x 8, 5 x 48)"


def test_html_is_the_same_for_the_same_input_and_needs_nothing_from_elsewhere(examples, figure):
    page = figure.html()
    assert page == AlignmentMap(examples, caption=CAPTION).html()
    assert "http" not in re.sub(r"data:image/\w+;base64,[\w+/=]+", "", page)
    assert page.count("<script") == page.count("</script>") == 1
    assert "<figcaption>Digits &lt;look&gt; at words.</figcaption>" in page
    assert len(page) < 60_000


def test_the_text_alternative_names_the_strongest_word_of_each_row(examples, figure):
    words = re.search(r' alt="([^"]+)">', figure.html())[1]
    gloss = examples[0].gloss
    pairs = [f"{t} at {gloss[s]}" for t, s in zip(examples[0].target, examples[0].weights.argmax(axis=1))]
    assert ", ".join(pairs) in words
    assert "7 output words down and 6 input words across" in words


def test_words_cannot_break_out_of_the_script():
    page = AlignmentMap([AlignmentExample(["</script><b>"], ["<i>"], np.ones((1, 1)))], caption="").html()
    assert page.count("</script>") == 1
    assert "<b>" not in page


@pytest.mark.parametrize(("control", "value"), [("Example", 1), ("Output word", 3)])
def test_widget_redraws_on_every_control(figure, controls, control, value):
    parts = controls(figure.widget())
    before = bytes(parts["Image"].value)
    assert before.startswith(b"\x89PNG")
    parts[control].value = value
    assert bytes(parts["Image"].value) != before


def test_widget_keeps_the_output_word_inside_the_example(figure, controls):
    parts = controls(figure.widget())
    parts["Example"].value = 1
    parts["Output word"].value = 10
    parts["Example"].value = 2
    assert (parts["Output word"].max, parts["Output word"].value) == (5, 5)
    assert bytes(parts["Image"].value) == figure.picture(2, 4)


def test_widget_uses_only_what_ipywidgets_7_has(figure):
    todo = [figure.widget()]
    while todo:
        each = todo.pop()
        todo.extend(getattr(each, "children", ()))
        assert type(each).__name__ in {"IntSlider", "Dropdown", "Image", "HBox", "VBox", "HTML"}


def test_pictures_use_the_gloss_where_the_font_lacks_letters(examples, figure):
    assert not drawable(examples[0].source)
    assert drawable(["words", "é", "√d", "2004-03-23"])
    assert examples[0].labels() == (examples[0].gloss, examples[0].target)
    assert examples[1].labels() == (examples[1].source, examples[1].target)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph it has not
        figure.picture(0, 1)
        figure.picture(1, 7)  # a blank in the output


def test_words_that_the_font_has_are_drawn_as_they_are_even_with_a_gloss():
    example = AlignmentExample(["eins"], ["one"], [[1.0]], gloss=["하나"])
    assert example.labels() == (["eins"], ["one"])


def test_alignment_draws_the_weights_with_their_words(examples):
    _, english, _ = examples
    figure = alignment(english.weights, english.source, english.target, title="A title")
    ax, bar = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == english.source
    assert [label.get_text() for label in ax.get_yticklabels()] == [c if c != " " else "␣" for c in english.target]
    assert np.array_equal(ax.images[0].get_array(), english.weights)
    assert ax.images[0].get_clim() == (0, english.weights.max())
    assert figure.get_suptitle() == "A title"
    assert bar.get_ylabel() == "weight"
    plt.close(figure)


def test_no_alignment_is_wider_than_the_page(examples):
    for example in examples[1:]:
        figure = alignment(example.weights, example.source, example.target)
        assert figure.get_size_inches()[0] <= 7.2 + 1e-9
        plt.close(figure)


def test_dollar_signs_are_words_and_no_formulas():
    figure = alignment([[1.0, 0.0]], ["$5", "$"], ["$x$"])
    figure.canvas.draw()
    assert not any(label.get_parse_math() for label in figure.axes[0].get_xticklabels())
    plt.close(figure)


def test_refuses_what_does_not_fit(examples):
    source, target, weights = ["a", "b"], ["c"], np.ones((1, 2))
    with pytest.raises(ValueError, match=r"weights: expected shape \(1, 2\), .*, got \(2, 1\)"):
        alignment(weights.T, source, target)
    with pytest.raises(ValueError, match="finite numbers >= 0"):
        alignment(-weights, source, target)
    with pytest.raises(ValueError, match="source: expected a list of words, got 'ab'"):
        alignment(weights, "ab", target)
    with pytest.raises(ValueError, match="target: expected at least one word"):
        AlignmentExample(source, [], np.ones((0, 2)))
    with pytest.raises(ValueError, match=r"source: the picture's font lacks letters.*romanise"):
        alignment(weights, ["이", "천"], target)
    with pytest.raises(ValueError, match=r"source: the picture's font lacks letters.*gloss"):
        AlignmentExample(["이", "천"], target, weights)
    with pytest.raises(ValueError, match=r"target: the picture's font lacks letters.*gloss"):
        AlignmentExample(source, ["이"], weights)
    with pytest.raises(ValueError, match="gloss of the source: expected 2, one a word, got 1"):
        AlignmentExample(source, target, weights, gloss=["a"])
    with pytest.raises(ValueError, match="at least one AlignmentExample"):
        AlignmentMap([], caption="")
    with pytest.raises(ValueError, match="expected AlignmentExample, got tuple"):
        AlignmentMap([(source, target, weights)], caption="")


def test_an_example_keeps_its_own_copy_of_the_weights():
    weights = np.ones((1, 2))
    example = AlignmentExample(["a", "b"], ["c"], weights)
    weights[:] = 5
    assert example.weights.max() == 1
