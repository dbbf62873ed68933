"""Docstrings as the site shows them: plain text must survive as it was meant."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "tools"))

from booksite import keep_numbered_equations, plain_paragraphs  # noqa: E402


def shown(text):
    """The docstring as docutils reads it: (kind of node, its text) in order, no warning allowed."""
    from docutils import nodes
    from docutils.core import publish_doctree
    from sphinx.directives.code import CodeBlock  # noqa: F401  registers code-block

    source = "\n".join(plain_paragraphs(text.splitlines()))
    tree = publish_doctree(source, settings_overrides={"report_level": 1, "halt_level": 2})
    kinds = (nodes.paragraph, nodes.literal_block, nodes.literal)
    return [(type(node).__name__, node.astext()) for node in tree.findall(lambda node: isinstance(node, kinds))]


def test_markup_characters_mean_nothing():
    (paragraph,) = shown("M = kT * kH * kW and **options, |x|, x_n^Q, trailing_ and a\\b stay.")
    assert paragraph == ("paragraph", "M = kT * kH * kW and **options, |x|, x_n^Q, trailing_ and a\\b stay.")


def test_backticks_mark_code():
    assert ("literal", "kernel_size") in shown("The `kernel_size` of it.")
    assert ("literal", "a * b_") in shown("Already ``a * b_`` double.")


def test_indented_block_is_set_in_fixed_type_with_or_without_a_blank_line():
    for gap in ("\n", ""):
        nodes = shown(f"It goes::\n{gap}    x (B, C) --+\n             +-- y\n{gap}and ends.")
        assert [kind for kind, _ in nodes] == ["paragraph", "literal_block", "paragraph"]
        assert nodes[0][1] == "It goes:"
        assert nodes[1][1].splitlines()[1].lstrip() == "+-- y"


def test_arguments_become_a_list():
    nodes = shown(
        "Do it.\n\nArgs:\n    first: one thing,\n        and more of it.\n    second: another.\n\nRaises ValueError."
    )
    texts = [text for kind, text in nodes if kind == "paragraph"]
    assert texts == ["Do it.", "first: one thing,\nand more of it.", "second: another.", "Raises ValueError."]


def test_dashes_become_a_list():
    nodes = shown("- one\n  goes on\n- two")
    assert [text for _, text in nodes] == ["one\ngoes on", "two"]


def test_a_numbered_equation_with_a_line_break_is_left_as_it_is():
    from docutils import nodes
    from docutils.utils import new_document

    document = new_document("chapter")
    texts = [r"x = \begin{cases} 1 \\ 2 \end{cases} \tag{1.1}", r"a \\ b", "y"]
    document += [nodes.math_block(text, text, nowrap=False) for text in texts]
    keep_numbered_equations(None, document)
    numbered, *others = document.findall(nodes.math_block)
    assert numbered.astext() == rf"\begin{{equation*}}{texts[0]}\end{{equation*}}"
    assert numbered["nowrap"]
    assert [(block.astext(), block["nowrap"]) for block in others] == [(text, False) for text in texts[1:]]
