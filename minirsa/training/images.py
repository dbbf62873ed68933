"""Training on images: a finite set, kept in memory and seen again and again, each time shifted and mirrored.

    shape_images(length, seed=...)    ShapeSet -> images (N, 3, H, W) with mean about 0, shapes, textures (N,)
    shape_batches(recipe, images, labels)      -> (B, 3, H, W), (B,) for every step of the recipe
    OneFrame(net)                              a net for clips as a net for images

How much a net learns from how many images is a question of chapter 5, so that here, unlike in `motion_batches`, the
number of training images is a number of its own. Book: chapter 5, "How many images", and chapter 6.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from minirsa.data.shapes import ShapeBatch, ShapeSet
from minirsa.training.loop import Recipe

MEAN, STD = 0.5, 0.25
"""What is taken from every channel of an image in [0, 1], and what it is divided by."""


def normalize_images(images: Tensor) -> Tensor:
    """Pixels from [0, 1] to [-2, 2], the same for every channel: any shape -> the same shape."""
    return (images - MEAN) / STD


def shape_images(length: int, *, seed: int, cues: str = "independent", size: int = 32) -> ShapeBatch:
    """All images of a `ShapeSet`, normalised, in memory: images (N, 3, size, size), shapes (N,), textures (N,).

    Use different seeds for training and testing. Raises ValueError for options that do not fit.
    """
    data = ShapeSet(length, seed=seed, cues=cues, size=size)
    parts = [data.batch(part) for part in torch.arange(length).split(1024)]  # rendered in parts: it takes much memory
    images, shapes, textures = (torch.cat(tensors) for tensors in zip(*parts))
    return ShapeBatch(normalize_images(images), shapes, textures)


def shape_batches(
    recipe: Recipe, images: Tensor, labels: Tensor, *, shift: int = 2, mirror: bool = True
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a recipe from a finite set: (N, 3, H, W), (N,) -> (B, 3, H, W), (B,) for every step.

    Passes over the set follow one another, each in an order of its own; every image comes once a pass. Each time it
    is shifted by up to `shift` pixels each way, its border repeated, and mirrored left to right with probability 1/2.
    Order, shifts and mirrors come from the recipe's seed alone: two nets trained by one recipe see the same batches.

    Raises ValueError for images and labels that do not fit together, no images, or a negative shift.
    """
    if images.ndim != 4 or len(images) == 0 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"expected images (N, C, H, W) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if shift < 0:
        raise ValueError(f"expected a shift of at least 0 pixels, got {shift}")
    return _draw(recipe, images, labels, shift, mirror)


def _draw(recipe: Recipe, images: Tensor, labels: Tensor, shift: int, mirror: bool) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(recipe.seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(recipe.steps):
        while len(order) < recipe.batch_size:
            order = torch.cat([order, torch.randperm(len(images), generator=generator)])
        chosen, order = order[: recipe.batch_size].to(labels.device), order[recipe.batch_size :]
        moves = torch.randint(-shift, shift + 1, (recipe.batch_size, 2), generator=generator)
        turned = torch.rand(recipe.batch_size, generator=generator) < (0.5 if mirror else 0.0)
        yield shift_and_mirror(images[chosen], moves, turned), labels[chosen]


def shift_and_mirror(images: Tensor, moves: Tensor, mirrored: Tensor) -> Tensor:
    """Move each image down and right by its own (dy, dx), then mirror some left to right: (B, C, H, W) -> the same.

    moves: (B, 2) whole pixels; the border's pixels are repeated. mirrored: (B,) bool.
    """
    height, width = images.shape[2:]
    rows = (torch.arange(height) - moves[:, :1]).clamp(0, height - 1)  # (B, H): where each row comes from
    columns = torch.arange(width).expand(len(images), -1)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = (columns - moves[:, 1:]).clamp(0, width - 1)  # (B, W)
    rows, columns = rows.to(images.device), columns.to(images.device)
    items = torch.arange(len(images), device=images.device)[:, None, None]
    return images.movedim(1, -1)[items, rows[:, :, None], columns[:, None]].movedim(-1, 1).contiguous()


class OneFrame(nn.Module):
    """A net for clips, made for one frame, as a net for images: (B, 3, H, W) -> (B, num_classes).

    `net` is a `TSNResNet(num_classes, 1, ...)` or any other net for clips (B, 3, 1, H, W).
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        return self.net(images.unsqueeze(2))
