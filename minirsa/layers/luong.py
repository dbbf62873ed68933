"""Luong's attention: which source words does a decoder look at before it writes the next word?

Source: Luong, Pham and Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015,
section 3. Book: chapter 1.

    target states h_t (B, n, C) ─┐
                                 ├─ score (B, n, m) ─ softmax ─ weights a_t (B, n, m) ─┐
    source states h_s (B, m, C) ─┴─────────────────────────────────────────────────────┴─ context c_t (B, n, C)

    global    every source word; a_t(s) = softmax_s score(h_t, h_s)                                    (his eq. 7)
    local-m   only |s - p_t| <= D, with p_t = t: translation goes straight on
    local-p   p_t = S sigmoid(v_p^T tanh(W_p h_t)), and a Gaussian of sigma = D / 2 around it          (his eqs 9, 10)

Positions count from 0. A mask is torch.bool, True where a source word may be attended.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minirsa.layers.attention import check_mask, check_sequence, initialize_linear, masked_softmax

SCORES = ("dot", "general", "concat")
ALIGNMENTS = ("monotonic", "predictive")


class AlignmentScore(nn.Module):
    """How well a target state and a source state fit: (..., n, C), (..., m, C) -> (..., n, m).

    dot: h_t . h_s, without parameters; general: h_t . W_a h_s; concat: v_a . tanh(W_a [h_t; h_s]). Linear maps
    without bias, Xavier uniform. Luong et al. 2015, section 3.1. Book: chapter 1, Three scores.

    Raises ValueError for another `score`, and for states that are not C wide.
    """

    def __init__(self, width: int, score: str = "general"):
        super().__init__()
        if width < 1 or score not in SCORES:
            raise ValueError(f"expected width >= 1 and score in {SCORES}, got width={width}, score={score!r}")
        self.width, self.kind = width, score
        self.W_a = self.v_a = None
        if score == "general":
            self.W_a = nn.Linear(width, width, bias=False)
        elif score == "concat":
            self.W_a, self.v_a = nn.Linear(2 * width, width, bias=False), nn.Linear(width, 1, bias=False)
        self.apply(initialize_linear)

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """(..., n, C), (..., m, C) -> scores (..., n, m), not yet normalised."""
        if target.shape[-1] != self.width or source.shape[-1] != self.width:
            raise ValueError(
                f"expected target (..., n, {self.width}) and source (..., m, {self.width}), "
                f"got {tuple(target.shape)} and {tuple(source.shape)}"
            )
        if self.kind == "dot":
            return target @ source.transpose(-1, -2)
        if self.kind == "general":
            return target @ self.W_a.weight @ source.transpose(-1, -2)  # on the side with fewer states
        # W_a [h_t; h_s] is a sum of two products: each state is multiplied once, not once a pair.
        of_target, of_source = self.W_a.weight.split(self.width, dim=1)
        both = (target @ of_target.T)[..., :, None, :] + (source @ of_source.T)[..., None, :, :]  # (..., n, m, C)
        return self.v_a(both.tanh()).squeeze(-1)


class LuongAttention(nn.Module):
    """Global attention: each target state looks at every source state. (B, n, C), (B, m, C) -> context (B, n, C).

    Args:
        width: C of target and source states.
        score: "dot", "general" or "concat".

    Luong et al. 2015, eq. 7. Book: chapter 1, From loop to module.
    """

    def __init__(self, width: int, score: str = "general"):
        super().__init__()
        self.score = AlignmentScore(width, score)

    def forward(
        self, target: Tensor, source: Tensor, *, mask: Tensor | None = None, return_weights: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Context vectors (B, n, C) and, with `return_weights`, the alignment weights (B, n, m).

        mask: bool (B, 1, m) or (B, n, m), True where a source word may be attended; a row without any gives zeros.
        Raises ValueError for other shapes, an empty source, or a mask that is not torch.bool.
        """
        _check(target, source, mask, self.score.width)
        weights = masked_softmax(self.score(target, source), mask)  # (B, n, m)
        context = weights @ source  # (B, n, C)
        return (context, weights) if return_weights else context


class LocalAttention(nn.Module):
    """Local attention: each target state looks at the source words within D of one position p_t.

    Args:
        width: C of target and source states.
        window: D; 2 D + 1 source words at most are looked at (the paper uses D = 10).
        alignment: "monotonic" (local-m: p_t = t) or "predictive" (local-p: p_t is computed from h_t, and a Gaussian
            of standard deviation D / 2 multiplies the weights, which then sum to less than one).
        score: "dot", "general" or "concat".

    Only the window is gathered and scored: O(n D C) however long the source is. Luong et al. 2015, section 3.2,
    eqs 9 and 10. Book: chapter 1, Local attention.
    """

    def __init__(self, width: int, window: int = 10, *, alignment: str = "predictive", score: str = "general"):
        super().__init__()
        if not isinstance(window, int) or window < 1 or alignment not in ALIGNMENTS:
            raise ValueError(
                f"expected a whole window >= 1 and alignment in {ALIGNMENTS}, got {window!r} and {alignment!r}"
            )
        self.window, self.alignment = window, alignment
        self.score = AlignmentScore(width, score)
        self.W_p = self.v_p = None
        if alignment == "predictive":
            self.W_p, self.v_p = nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)
        self.apply(initialize_linear)

    def positions(self, target: Tensor, lengths: Tensor, *, start: int = 0) -> Tensor:
        """The centre p_t of every window: target (B, n, C), lengths (B,) -> (B, n), in source words from 0.

        At least float32: bfloat16 cannot tell 257 from 256. start: t of the first target state, for a decoder that
        sends one state at a time.
        """
        dtype = torch.promote_types(target.dtype, torch.float32)
        if self.alignment == "monotonic":
            steps = torch.arange(start, start + target.shape[1], device=target.device, dtype=dtype)
            return steps.expand(target.shape[:2])
        return lengths[:, None] * self.v_p(self.W_p(target).tanh()).squeeze(-1).to(dtype).sigmoid()

    def forward(
        self,
        target: Tensor,
        source: Tensor,
        *,
        mask: Tensor | None = None,
        start: int = 0,
        return_weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Context vectors (B, n, C) and, with `return_weights`, the weights over the whole source (B, n, m).

        mask: bool (B, 1, m), True at the words of the source, False at the padding behind them; S of eq. 9 is the
        number of words. A window that holds no word (local-m far behind the source's end) gives zeros.
        Raises ValueError for other shapes, an empty source, a mask that is not torch.bool or has gaps.
        """
        _check(target, source, mask, self.score.width)
        batch, n, _ = target.shape
        m = source.shape[1]
        lengths = torch.full((batch,), m, device=target.device) if mask is None else _lengths(mask).expand(batch)
        p = self.positions(target, lengths, start=start)[..., None]  # (B, n, 1)
        first = (p.detach() - self.window).ceil().long()
        s = first + torch.arange(2 * self.window + 1, device=target.device)  # (B, n, 2 D + 1)
        inside = (s >= 0) & (s < lengths[:, None, None]) & ((s - p.detach()).abs() <= self.window)
        index = s.clamp(0, m - 1)
        near = source[torch.arange(batch, device=target.device)[:, None, None], index]  # (B, n, 2 D + 1, C)
        scores = self.score(target[:, :, None], near).squeeze(2)  # (B, n, 2 D + 1)
        weights = masked_softmax(scores, inside)
        if self.alignment == "predictive":
            weights = weights * torch.exp(-2 * ((s - p) / self.window) ** 2).to(weights)  # sigma = D / 2 in eq. 10
        context = (weights[..., None, :] @ near).squeeze(2)  # (B, n, C)
        if not return_weights:
            return context
        return context, weights.new_zeros(batch, n, m).scatter_add(2, index, weights)


def _lengths(mask: Tensor) -> Tensor:
    """Words of each source, (B,), from a padding mask (B, 1, m)."""
    if mask.ndim != 3 or mask.shape[1] != 1:
        raise ValueError(f"local attention expects a padding mask (B, 1, m), got {tuple(mask.shape)}")
    if (mask[..., 1:] & ~mask[..., :-1]).any():
        raise ValueError("local attention expects padding behind the words only, got a mask that is False before True")
    return mask.sum((1, 2))


def _check(target: Tensor, source: Tensor, mask: Tensor | None, width: int) -> None:
    """Raise ValueError unless target is (B, n, C), source (B, m, C) and the mask (B, 1 or n, m) of torch.bool."""
    check_sequence(target, width, "target")
    check_sequence(source, width, "source")
    if target.shape[0] != source.shape[0]:
        raise ValueError(f"expected one source for each target, got {source.shape[0]} and {target.shape[0]}")
    if mask is not None:
        check_mask(mask, (target.shape[0], target.shape[1], source.shape[1]))
