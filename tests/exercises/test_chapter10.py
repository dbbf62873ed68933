"""The checkers of chapter 10 accept right answers and refuse known wrong ones, naming the mistake."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minirsa.exercises import chapter10
from minirsa.models import vivit
from minirsa.models.vivit import ViViT, initialize_tubelets, tubelets

BOOK = Path(__file__).resolve().parents[2] / "book"


def test_the_chapters_solutions_are_right(capsys):
    cells = json.loads((BOOK / "10_vivit.ipynb").read_text(encoding="utf-8"))["cells"]
    prose = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    names = {"torch": torch, "F": F, "vivit": vivit, "ViViT": ViViT}  # what the chapter has defined before
    for source in re.findall(r"```python\n(.*?)```", prose, re.DOTALL):
        exec(source, names)
    chapter10.check_tubelets(names["my_tubelets"])
    chapter10.check_start(names["my_start"])
    chapter10.check_factorised_attention(names["my_attention"])
    exchanged, reversed_ = map(float, capsys.readouterr().out.split())
    assert exchanged < 1e-4 < reversed_


def cut(clips, size):
    (t, h, w), (B, C, T, H, W) = size, clips.shape
    a, b, c = T // t, H // h, W // w
    x = clips[:, :, : a * t, : b * h, : c * w].reshape(B, C, a, t, b, h, c, w)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(B, a, b, c, -1)


def permuted(*order):
    def wrong(clips, size):
        (t, h, w), (B, C, T, H, W) = size, clips.shape
        a, b, c = T // t, H // h, W // w
        x = clips[:, :, : a * t, : b * h, : c * w].reshape(B, C, a, t, b, h, c, w)
        return x.permute(*order).reshape(B, a, b, c, -1)

    return wrong


def frames_apart(clips, size):
    (t, h, w), (B, C, T, H, W) = size, clips.shape
    a, b, c = T // t, H // h, W // w
    x = clips[:, :, : a * t, : b * h, : c * w].reshape(B, C, t, a, b, h, c, w)
    return x.permute(0, 3, 4, 6, 1, 2, 5, 7).reshape(B, a, b, c, -1)


def pieces(clips, size):
    a, b, c = (side // n for side, n in zip(clips.shape[2:], size))
    whole = clips[:, :, : a * size[0], : b * size[1], : c * size[2]]
    return whole.reshape(len(clips), a, b, c, -1)


def padded(clips, size):
    rest = [-side % n for side, n in zip(clips.shape[2:], size)]
    return cut(F.pad(clips, (0, rest[2], 0, rest[1], 0, rest[0])), size)


def test_tubelets_are_accepted():
    assert "to spare" in chapter10.check_tubelets(cut)
    chapter10.check_tubelets(tubelets)


@pytest.mark.parametrize(("wrong", "reason"), [
    (pieces, "pieces of memory"),
    (frames_apart, "frames that are n_t apart"),
    (permuted(0, 2, 4, 6, 3, 5, 7, 1), "channel comes last"),
    (permuted(0, 2, 4, 6, 3, 1, 5, 7), "frames come before channels"),
    (permuted(0, 2, 4, 6, 1, 3, 7, 5), "exchanged inside"),
    (lambda clips, size: cut(clips[:, :, :: size[0]], (1, *size[1:])), "first frame"),
    (padded, "shape"),
    (lambda clips, size: cut(clips, size).flatten(1, 3), "shape"),
    (lambda clips, size: cut(clips.flip(2), size), "largest error"),
])  # fmt: skip
def test_wrong_tubelets_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter10.check_tubelets(wrong)


def start(image, length, method):
    if method == "inflate":
        return image[:, :, None].repeat(1, 1, length, 1, 1) / length
    weight = image.new_zeros(*image.shape[:2], length, *image.shape[2:])
    weight[:, :, length // 2] = image
    return weight


def packages_start(image, length, method):
    weight = image.new_empty(*image.shape[:2], length, *image.shape[2:])
    initialize_tubelets(weight, image, method)
    return weight


def central_at(place):
    def wrong(image, length, method):
        if method == "inflate":
            return start(image, length, method)
        weight = torch.zeros_like(start(image, length, method))
        weight[:, :, place(length)] = image
        return weight

    return wrong


def test_starts_are_accepted():
    assert "both starts" in chapter10.check_start(start)
    chapter10.check_start(packages_start)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda image, length, method: start(image, length, method) * (length if method == "inflate" else 1), "divided"),
    (central_at(lambda length: 0), "first frame"),
    (central_at(lambda length: length - 1), "last frame|largest error"),
    (central_at(lambda length: (length - 1) // 2), r"first frame|\(t - 1\)"),
    (lambda image, length, method: start(image, length, "inflate"), "other method"),
    (lambda image, length, method: start(image, length, "central"), "other method"),
    (lambda image, length, method: start(image, length, method) / (length if method == "central" else 1), "averaged"),
    (lambda image, length, method: start(image, length, method).transpose(1, 2), "time comes before"),
    (lambda image, length, method: start(image, length, method)[:, :, 0], "shape"),
    (lambda image, length, method: start(image, length, method).roll(1, 0), "largest error"),
])  # fmt: skip
def test_wrong_starts_are_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter10.check_start(wrong)


def attend(q, k, v, *, scale=True):
    """(groups, n, heads, d) -> the same: every head among the n tokens of its group."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    weights = q @ k.mT
    weights = (weights / q.shape[-1] ** 0.5 if scale else weights).softmax(-1)
    return (weights @ v).transpose(1, 2)


def space(q, k, v, **options):
    return attend(q, k, v, **options)


def in_time(q, k, v, **options):
    return attend(*(x.transpose(0, 1) for x in (q, k, v)), **options).transpose(0, 1)


def everywhere(q, k, v):
    return attend(*(x.flatten(0, 1)[None] for x in (q, k, v)))[0].unflatten(0, q.shape[:2])


def halves(q, first, second):
    half = q.shape[2] // 2
    return torch.cat([first[:, :, :half], second[:, :, half:]], 2).flatten(2)


def factorised(q, k, v):
    return halves(q, space(q, k, v), in_time(q, k, v))


def taking_turns(q, k, v):
    even = (torch.arange(q.shape[2]) % 2 == 0)[:, None]
    return torch.where(even, space(q, k, v), in_time(q, k, v)).flatten(2)


def over_queries(q, k, v):
    """The softmax runs over queries in place of keys."""

    def wrong(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-2) @ v).transpose(1, 2)

    late = wrong(*(x.transpose(0, 1) for x in (q, k, v))).transpose(0, 1)
    return halves(q, wrong(q, k, v), late)


def test_factorised_attention_is_accepted():
    assert "half at the place" in chapter10.check_factorised_attention(factorised)


@pytest.mark.parametrize(("wrong", "reason"), [
    (lambda q, k, v: halves(q, in_time(q, k, v), space(q, k, v)), "exchanged"),
    (taking_turns, "take turns|largest error"),
    (lambda q, k, v: everywhere(q, k, v).flatten(2), "model 1"),
    (lambda q, k, v: space(q, k, v).flatten(2), "every head looks in space"),
    (lambda q, k, v: in_time(q, k, v).flatten(2), "every head looks in time"),
    (lambda q, k, v: (space(q, k, v) + in_time(q, k, v)).flatten(2), "added"),
    (lambda q, k, v: torch.cat([space(q, k, v).flatten(2), in_time(q, k, v).flatten(2)], 2), "divided between"),
    (lambda q, k, v: halves(q, space(q, k, v, scale=False), in_time(q, k, v, scale=False)), "root of d"),
    (lambda q, k, v: factorised(q, k, v).unflatten(2, q.shape[2:]).mT.flatten(2), "channels are exchanged"),
    (over_queries, "largest error"),
    (lambda q, k, v: factorised(q, k, v).flatten(0, 1), "shape"),
])  # fmt: skip
def test_wrong_attention_is_refused(wrong, reason):
    with pytest.raises(AssertionError, match=reason):
        chapter10.check_factorised_attention(wrong)
