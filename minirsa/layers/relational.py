"""Relational self-attention (RSA): kernels and contexts made from the relations of a space-time neighbourhood.

Source: Kim, Kwon, Wang, Kwak, Cho, "Relational Self-Attention: What's Missing in Attention for Video
Understanding", NeurIPS 2021 (arXiv 2111.01673), section 4. Book: chapter 13.

At every position n of a video, one query meets its neighbourhood of M = kT * kH * kW positions:

    basic kernel        k_n^V = x_n^Q P^T                        P (M, c)
    relational kernel   k_n^R = vec(1 (x_n^Q)^T * X_n^K) H       H (M c, M)
    basic context       X_n^V = X_n E^V
    relational context  X_n^R = X_n^V (X_n^V)^T G                G (M, c)
    output              y_n   = (k_n^V + k_n^R)(X_n^V + X_n^R)

where c = C / L is the width of one of the L queries of a position (the paper writes C for one query; keys and
values have width c too and are shared by the queries). With H = H1 H2^T and P = H2 P1^T (section 4.3)

    y_n = [x_n^Q P1 + vec(1 (x_n^Q)^T * X_n^K) H1] . [H2^T X_n^V] . [I + (X_n^V)^T G]
           latent kernel (1, D)                       (D, c)         (c, c)

so that each bracket is a convolution over the neighbourhood, and nothing of size M x c is stored:

    x (B, C, T, H, W) -- projection --+-- query (B, L, c, ...) --+
                                      +-- key   (B, c, ...) -- conv H1 + P1 - (B, c, D, ...) --+-- latent (B, L, D, ...)
                                      +-- value (B, c, ...) -- conv H2 ------ (B, c, D, ...) --+-- a (B, L, c, ...)
                                                            -- conv G ------- (B, c, c, ...) --+-- y = a I + a R

Facts that the paper leaves to its code, kept here: queries, keys and values are L2-normalised over their c
channels (1e-6 is added to the squared norm), neighbours outside the clip are zeros, there is no softmax, no bias
and no positional embedding, and the L outputs of a position are interleaved value channel first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

EPS = 1e-6
PARTS = ("V", "R", "VR")


def l2_normalize(x: Tensor, dim: int) -> Tensor:
    """Divide by the L2 norm over `dim`; the norm is taken in float32 (float64 for float64), same shape and dtype back.

    1e-6 is added to the squared norm before the root, as in the RSA release: a zero vector stays zero.
    """
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return (wide * (wide.square().sum(dim, keepdim=True) + EPS).rsqrt()).to(x.dtype)


def neighbourhood(x: Tensor, kernel_size: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    """Gather the neighbours of every position: (B, C, T, H, W) -> (B, M, C, T', H', W'), zeros outside the clip.

    M runs over (kT, kH, kW) in row-major order, so m = M // 2 is the position itself. T' = ceil(T / stride), and so on.
    """
    x = F.pad(x, [size // 2 for size in reversed(kernel_size) for _ in range(2)])
    for dim, size in enumerate(kernel_size):
        x = x.unfold(2 + dim, size, stride[dim])
    x = x.permute(0, 5, 6, 7, 1, 2, 3, 4)  # (B, kT, kH, kW, C, T', H', W')
    return x.flatten(1, 3)


def _dense_positions(x: Tensor) -> Tensor:
    """The tensor itself if its last three axes (T, H, W) lie densely in memory, else a copy in which they do."""
    _, H, W = x.shape[-3:]
    return x if x.stride()[-3:] == (H * W, W, 1) else x.contiguous()


class _Contract(torch.autograd.Function):
    """A small matrix product at every position, with positions as the last axes; see `contract`."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        if a.device.type != "cpu":
            return torch.einsum("blkthw,bkdthw->bldthw", a, b)
        half = a.dtype in (torch.float16, torch.bfloat16)
        dtype = torch.float32 if half else a.dtype
        shape = (a.shape[0], a.shape[1], b.shape[2], *a.shape[3:])
        out = torch.zeros(shape, dtype=dtype, device=a.device)
        # Batched 8 x 8 products cost far more than their arithmetic. Each step of this loop is one long fused
        # multiply-add over contiguous positions instead.
        for k in range(a.shape[2]):
            out.addcmul_(a[:, :, k, None].to(dtype), b[:, None, k].to(dtype))
        return out.to(a.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        grad_a = contract(grad, b.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        grad_b = contract(a.transpose(1, 2), grad) if ctx.needs_input_grad[1] else None
        return grad_a, grad_b


def contract(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices position by position: (B, L, K, T, H, W) x (B, K, D, T, H, W) -> (B, L, D, T, H, W).

    Half precision accumulates in float32. Differentiable any number of times.
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    return _Contract.apply(_dense_positions(a.to(dtype)), _dense_positions(b.to(dtype)))


def _stack_frames(x: Tensor, frames: int, stride: int) -> Tensor:
    """Put the kT neighbouring frames of every frame beside it: (N, T + kT - 1, H, W) -> (N * T', kT, H, W)."""
    return x.unfold(1, frames, stride).permute(0, 1, 4, 2, 3).flatten(0, 1)


def convolve_values(value: Tensor, weight: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Apply O kernels to every channel alike: (B, c, T + kT - 1, H, W), (O, 1, kT, kH, kW) -> (B, c, O, T', H', W').

    The clip comes padded in time, not in space. A 3-D convolution as a 2-D one whose input channels are the
    neighbouring frames: equal, and faster.
    """
    B, c = value.shape[:2]
    kT, kH, kW = weight.shape[2:]
    frames = _stack_frames(value.flatten(0, 1), kT, stride[0])  # (B c T', kT, H, W)
    out = F.conv2d(frames, weight[:, 0], stride=stride[1:], padding=(kH // 2, kW // 2))
    return out.unflatten(0, (B, c, -1)).transpose(2, 3)  # (B, c, O, T', H', W')


def convolve_keys(key: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int, int]) -> Tensor:
    """Apply D kernels of its own to each channel: (B, c, T + kT - 1, H, W), (c, D, kT, kH, kW) -> (B, c, D, ...).

    The clip comes padded in time, not in space. `bias` (c, D) is added. On a CPU a few wide channels are faster one by
    one than as a grouped convolution.
    """
    B, c = key.shape[:2]
    D, *size = weight.shape[1:]
    padding = [s // 2 for s in size]
    if key.device.type == "cpu" and c <= 16:
        outputs = []
        for channel in range(c):
            frames = _stack_frames(key[:, channel], size[0], stride[0])  # (B T', kT, H, W)
            channel_bias = None if bias is None else bias[channel]
            outputs.append(F.conv2d(frames, weight[channel], channel_bias, stride[1:], padding[1:]))
        out = torch.stack(outputs, 1)  # (B T', c, D, H', W')
        return out.unflatten(0, (B, -1)).permute(0, 2, 3, 1, 4, 5)
    bias = None if bias is None else bias.flatten()
    out = F.conv3d(key, weight.flatten(0, 1)[:, None], bias, stride, (0, *padding[1:]), groups=c)
    return out.unflatten(1, (c, D))


class Kernels(NamedTuple):
    """The composed kernels of every query and position, each (B, L, M, T', H', W'); a part that is off is zero."""

    basic: Tensor
    relational: Tensor

    @property
    def total(self) -> Tensor:
        """The kernel that is applied: basic + relational, (B, L, M, T', H', W')."""
        return self.basic + self.relational


class RelationalSelfAttention(nn.Module):
    """Relational self-attention over a space-time neighbourhood: (B, C, T, H, W) -> (B, C, T', H', W').

    Args:
        channels: C, input and output channels.
        queries: L, queries a position; each has c = C / L channels. L must divide C.
        kernel_size: (kT, kH, kW), each odd. Neighbours outside the clip are zeros, so a kernel may exceed the clip.
        latent: D of the decomposition H = H1 H2^T; c by default.
        groups: G of the query-key product. A group sums the products of c / G channels: G = 1 is the dot product,
            G = c (default) the Hadamard product. G must divide c.
        kernel: "V" basic, "R" relational, "VR" both. "V" alone has no P1 (P = H2), so it needs D = c.
        context: "V" basic, "R" relational, "VR" both.
        stride: an int (space) or (sT, sH, sW): positions that are computed, 0, s, 2 s, ...
        decomposed: False keeps the full H (M G, M) and P (M, c), and has no latent space.
        frames_at_once: transform so many frames at a time, and compute each part again in the backward pass: the same
            output in less memory and more time. None (default) transforms all frames together.

    Parameters (those that the options call for): `projection` 1x1x1 convolution C -> C [+ c] + c; `H1`
    (G, D, kT, kH, kW); `H2` (D, 1, kT, kH, kW); `P1` (c, D); `G` (c, 1, kT, kH, kW); `I` (c, c); not decomposed `H`
    (G, M, kT, kH, kW) and `P` (M, c) instead of H1, H2, P1.

    Raises ValueError for options that do not fit together and for an input of another shape.
    Kim et al. 2021, section 4. Book: chapter 13.
    """

    def __init__(
        self,
        channels: int,
        *,
        queries: int = 8,
        kernel_size: tuple[int, int, int] = (5, 7, 7),
        latent: int | None = None,
        groups: int | None = None,
        kernel: str = "VR",
        context: str = "VR",
        stride: int | tuple[int, int, int] = 1,
        decomposed: bool = True,
        frames_at_once: int | None = None,
    ):
        super().__init__()
        if kernel not in PARTS or context not in PARTS:
            raise ValueError(f"kernel and context must be one of {PARTS}, got kernel={kernel!r}, context={context!r}")
        if queries < 1 or channels < 1 or channels % queries:
            raise ValueError(f"queries must divide channels, got channels={channels}, queries={queries}")
        kernel_size = (kernel_size,) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(kernel_size) != 3 or any(s < 1 or s % 2 == 0 for s in kernel_size):
            raise ValueError(f"kernel_size must be three odd numbers (kT, kH, kW), got {kernel_size}")
        stride = (1, stride, stride) if isinstance(stride, int) else tuple(stride)
        if len(stride) != 3 or any(s < 1 for s in stride):
            raise ValueError(f"stride must be a positive int or (sT, sH, sW), got {stride}")
        width = channels // queries
        if not decomposed and latent is not None:
            raise ValueError(f"a layer that is not decomposed has no latent dimension, got latent={latent}")
        latent = width if latent is None else latent
        groups = width if groups is None else groups
        if frames_at_once is not None and (frames_at_once < 1 or not decomposed):
            raise ValueError(f"frames_at_once must be positive, of a decomposed layer, got {frames_at_once}")
        if latent < 1:
            raise ValueError(f"latent must be positive, got {latent}")
        if groups < 1 or width % groups:
            raise ValueError(f"groups must divide channels / queries = {width}, got {groups}")
        if decomposed and kernel == "V" and latent != width:
            raise ValueError(f"the basic kernel alone uses P = H2, so latent must be {width}, got {latent}")

        self.channels, self.queries, self.width = channels, queries, width
        self.kernel_size, self.stride, self.latent, self.groups = kernel_size, stride, latent, groups
        self.kernel, self.context, self.decomposed = kernel, context, decomposed
        self.frames_at_once = frames_at_once
        self.neighbours = kernel_size[0] * kernel_size[1] * kernel_size[2]  # M

        has_key = "R" in kernel
        self.projection = nn.Conv3d(channels, channels + width * (1 + has_key), 1, bias=False)
        names = {
            "H1": (groups, latent, *kernel_size) if decomposed and has_key else None,
            "H": (groups, self.neighbours, *kernel_size) if not decomposed and has_key else None,
            "H2": (latent, 1, *kernel_size) if decomposed else None,
            "P1": (width, latent) if decomposed and kernel == "VR" else None,
            "P": (self.neighbours, width) if not decomposed and "V" in kernel else None,
            "G": (width, 1, *kernel_size) if "R" in context else None,
            "I": (width, width) if context == "VR" else None,
        }
        for name, shape in names.items():
            self.register_parameter(name, None if shape is None else nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """He initialisation (fan-out, as the release does for convolutions), P1 and P normal, I the identity."""
        M = self.neighbours
        nn.init.kaiming_normal_(self.projection.weight, mode="fan_out", nonlinearity="relu")
        for name, parameter in self.named_parameters(recurse=False):
            if name == "I":
                nn.init.eye_(parameter)
            elif name in ("P1", "P"):
                nn.init.normal_(parameter, std=(M * self.latent) ** -0.5)
            else:  # H1, H, H2, G: convolutions with one input channel a group; fan-out = all their kernels * M
                kernels = parameter.shape[0] * parameter.shape[1]
                nn.init.normal_(parameter, std=(2 / (kernels * M)) ** 0.5)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Query (B, L, c, T', H', W'), key (B, c, T, H, W) or None, value (B, c, T, H, W), each L2-normalised."""
        if x.ndim != 5 or x.shape[1] != self.channels or 0 in x.shape:
            raise ValueError(f"expected (B, {self.channels}, T, H, W) without empty axes, got {tuple(x.shape)}")
        parts = self.projection(x)  # (B, C + c [+ c], T, H, W)
        query, *rest = parts.split([self.channels] + [self.width] * ((parts.shape[1] - self.channels) // self.width), 1)
        query = query.unflatten(1, (self.queries, self.width))  # (B, L, c, T, H, W)
        sT, sH, sW = self.stride
        query = l2_normalize(query[..., ::sT, ::sH, ::sW], 2)
        key, value = (None, *rest) if len(rest) == 1 else rest
        return query, None if key is None else l2_normalize(key, 1), l2_normalize(value, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T', H', W'): the convolution form, with its products in the cheapest order."""
        if not self.decomposed:
            return self.attention_form(x)
        query, key, value = self.project(x)
        half, step = self.kernel_size[0] // 2, self.stride[0]
        key, value = (None if v is None else F.pad(v, (0, 0, 0, 0, half, half)) for v in (key, value))
        if self.frames_at_once is None:
            return self._transform(query, key, value)
        outputs = []
        for start in range(0, query.shape[3], self.frames_at_once):
            part = query[:, :, :, start : start + self.frames_at_once]
            seen = slice(start * step, (start + part.shape[3] - 1) * step + self.kernel_size[0])
            inputs = (part, None if key is None else key[:, :, seen], value[:, :, seen])
            if torch.is_grad_enabled():
                outputs.append(checkpoint(self._transform, *inputs, use_reentrant=False))
            else:
                outputs.append(self._transform(*inputs))
        return torch.cat(outputs, 2)

    def _transform(self, query: Tensor, key: Tensor | None, value: Tensor) -> Tensor:
        """Query (B, L, c, T', H', W'), key and value (B, c, T + kT - 1, H, W) padded in time -> (B, C, T', H', W')."""
        if key is None:  # the basic kernel alone
            latent = query
        else:
            weight = self.H1.repeat_interleave(self.width // self.groups, 0)  # (c, D, kT, kH, kW)
            # x^Q P1 + (x^Q * X^K) H1 = x^Q (P1 + X^K H1): P1 is the bias of the key's convolution
            latent = contract(query, convolve_keys(key, weight, self.P1, self.stride))  # (B, L, D, ...)
        if self.G is None:  # the basic context alone
            basic, correlation = convolve_values(value, self.H2, self.stride), None
        else:
            maps = convolve_values(value, torch.cat((self.H2, self.G)), self.stride)  # (B, c, D + c, ...)
            basic, correlation = maps.split([self.latent, self.width], 2)
        gathered = contract(latent, basic.transpose(1, 2))  # (B, L, c, ...): the basic context under the kernel
        return self._add_relational_context(gathered, correlation)

    def _add_relational_context(self, gathered: Tensor, correlation: Tensor | None) -> Tensor:
        """a (B, L, c, ...), R = X^T G (B, c, c, ...) -> a (I + R) with channels value-major, (B, C, ...)."""
        if correlation is None:
            out = gathered
        else:
            out = contract(gathered, correlation)
            if self.I is not None:
                out = out + torch.einsum("blcthw,ce->blethw", gathered, self.I.to(gathered.dtype))
        return out.transpose(1, 2).flatten(1, 2)  # (B, c L, T', H', W')

    def counted_forward(self, x: Tensor) -> Tensor:
        """The same output in the paper's arrangement, for counting multiply-adds and for reading.

        Three 3-D convolutions, then latent kernel . ([H2^T X] . [I + X^T G]): what the published FLOPs count. It runs
        on the meta device. `forward` does fewer operations in another order.
        """
        if not self.decomposed:
            return self.attention_form(x)
        query, key, value = self.project(x)
        padding = [s // 2 for s in self.kernel_size]
        B, c = value.shape[:2]
        latent = query
        if key is not None:
            weight = self.H1.repeat_interleave(c // self.groups, 0).flatten(0, 1)[:, None]  # (c D, 1, kT, kH, kW)
            maps = F.conv3d(key, weight, None, self.stride, padding, groups=c).unflatten(1, (c, self.latent))
            if self.P1 is not None:
                maps = maps + self.P1[..., None, None, None]
            latent = torch.einsum("blcthw,bcdthw->bldthw", query, maps)
        channels = value.flatten(0, 1)[:, None]  # (B c, 1, T, H, W)
        transform = F.conv3d(channels, self.H2, None, self.stride, padding).unflatten(0, (B, c))
        transform = transform.transpose(1, 2)  # (B, D, c, ...)
        if self.G is not None:
            correlation = F.conv3d(channels, self.G, None, self.stride, padding).unflatten(0, (B, c))
            if self.I is not None:
                correlation = correlation + self.I[..., None, None, None]
            transform = torch.einsum("bdcthw,bcethw->bdethw", transform, correlation)
        return torch.einsum("bldthw,bdethw->belthw", latent, transform).flatten(1, 2)

    def kernels(self, x: Tensor) -> Kernels:
        """The kernels that RSA composes, (B, L, M, T', H', W') each, split into basic and relational, for looking at.

        k^V = x^Q P^T and k^R = vec(1 (x^Q)^T * X^K) H. Memory grows with M: use small inputs.
        """
        query, key, _ = self.project(x)
        return self._compose_kernels(query, key)

    def _compose_kernels(self, query: Tensor, key: Tensor | None) -> Kernels:
        """Query (B, L, c, ...), key (B, c, ...) -> basic and relational kernels (B, L, M, ...)."""
        basic = relational = None
        if "V" in self.kernel:
            basic = torch.einsum("blcthw,mc->blmthw", query, self._basic_matrix().to(query.dtype))
        if key is not None:
            product = neighbourhood(key, self.kernel_size, self.stride)  # (B, M, c, ...)
            first = self.H if self.H1 is None else self.H1  # (G, D or M, kT, kH, kW)
            weight = first.flatten(2).repeat_interleave(self.width // self.groups, 0)  # (c, D or M, M)
            maps = torch.einsum("bmcthw,cdm->bcdthw", product, weight.to(product.dtype))
            relational = torch.einsum("blcthw,bcdthw->bldthw", query, maps)  # (B, L, D or M, ...)
            if self.H2 is not None:
                relational = torch.einsum("bldthw,dm->blmthw", relational, self.H2.flatten(1).to(product.dtype))
        if basic is None:
            basic = torch.zeros_like(relational)
        return Kernels(basic, torch.zeros_like(basic) if relational is None else relational)

    def _basic_matrix(self) -> Tensor:
        """P (M, c): given, or H2 P1^T, or H2 where the basic kernel stands alone."""
        if self.P is not None:
            return self.P
        H2 = self.H2.flatten(1).T  # (M, D)
        return H2 if self.P1 is None else H2 @ self.P1.T

    def attention_form(self, x: Tensor) -> Tensor:
        """The same output with the kernels written out, shaped like attention: gather, correlate, add.

        a = k X^V (L, c), s = a (X^V)^T (L, M), y = a I + s G. Stores the neighbourhoods, M times the value's size.
        """
        query, key, value = self.project(x)
        kernel = self._compose_kernels(query, key).total  # (B, L, M, ...)
        value = neighbourhood(value, self.kernel_size, self.stride)  # (B, M, c, ...)
        gathered = torch.einsum("blmthw,bmcthw->blcthw", kernel, value)
        correlation = None
        if self.G is not None:
            correlation = torch.einsum("bmcthw,em->bcethw", value, self.G.flatten(1).to(value.dtype))
        return self._add_relational_context(gathered, correlation)

    def load_release(self, state_dict: Mapping[str, Tensor]) -> RelationalSelfAttention:
        """Take one layer's tensors under the RSA release's names, and then give the release's outputs.

        | release            | shape                 | here | shape             |
        |--------------------|-----------------------|------|-------------------|
        | projection.weight  | (C + c [+ c], C, 1, 1, 1) | projection.weight | the same |
        | H1.weight          | (c D, 1, kT, kH, kW)  | H1   | (c, D, kT, kH, kW) |
        | H2.weight          | (D, 1, kT, kH, kW)    | H2   | the same          |
        | G.weight           | (c, 1, kT, kH, kW)    | G    | the same          |
        | P1                 | (1, c, D)             | P1   | (c, D)            |
        | I                  | (1, c, c)             | I    | (c, c)            |

        Raises ValueError for a missing, unknown or wrongly shaped tensor. Returns the layer.
        """
        if not self.decomposed:
            raise ValueError("the release has no weights for a layer that is not decomposed")
        own = dict(self.named_parameters())
        names = {name if name in ("projection.weight", "P1", "I") else f"{name}.weight": name for name in own}
        missing, unknown = sorted(names.keys() - state_dict.keys()), sorted(state_dict.keys() - names.keys())
        if missing or unknown:
            raise ValueError(f"these are not the release's tensors of this layer: missing {missing}, unknown {unknown}")
        with torch.no_grad():
            for release_name, name in names.items():
                given, target = state_dict[release_name], own[name]
                axes = 3 if target.ndim == 5 else 2  # (kT, kH, kW) of a convolution, the matrix of P1 and I
                if given.numel() != target.numel() or given.shape[-axes:] != target.shape[-axes:]:
                    raise ValueError(f"{release_name}: cannot fill {tuple(target.shape)} from {tuple(given.shape)}")
                target.copy_(given.reshape(target.shape))
        return self

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, queries={self.queries}, kernel_size={self.kernel_size}, latent={self.latent}, "
            f"groups={self.groups}, kernel={self.kernel!r}, context={self.context!r}, stride={self.stride}, "
            f"decomposed={self.decomposed}"
        )


@torch.no_grad()
def relational_self_attention_loop(layer: RelationalSelfAttention, x: Tensor) -> Tensor:
    """RSA as plain loops over positions, queries and neighbours, straight from the equations; slow, for checking.

    (B, C, T, H, W) -> (B, C, T', H', W'), float64 inside. It uses the layer's parameters and none of its methods.
    """
    L, c, M = layer.queries, layer.width, layer.neighbours
    (kT, kH, kW), (sT, sH, sW) = layer.kernel_size, layer.stride
    x = x.double()
    B, C, T, H, W = x.shape
    weight = layer.projection.weight.double().reshape(-1, C)
    H2 = None if layer.H2 is None else layer.H2.double().reshape(-1, M).T  # (M, D)
    matrix_P = matrix_H = None
    if "V" in layer.kernel:  # (M, c): P, or H2 P1^T, or H2 alone
        matrix_P = layer.P.double() if layer.P is not None else H2
        if layer.P1 is not None:
            matrix_P = H2 @ layer.P1.double().T
    if "R" in layer.kernel:
        if layer.decomposed:
            H1 = layer.H1.double().reshape(layer.groups, -1, M)  # (G, D, M)
            matrix_H = torch.einsum("gdm,nd->gmn", H1, H2)  # (G, M, M): H = H1 H2^T
        else:
            matrix_H = layer.H.double().reshape(layer.groups, M, M).transpose(1, 2)
    G = None if layer.G is None else layer.G.double().reshape(c, M).T  # (M, c)

    def unit(vector: Tensor) -> Tensor:
        return vector / (vector.dot(vector) + EPS).sqrt()

    out = torch.zeros(B, C, -(-T // sT), -(-H // sH), -(-W // sW), dtype=torch.float64)
    for b in range(B):
        for t, h, w in ((t, h, w) for t in range(0, T, sT) for h in range(0, H, sH) for w in range(0, W, sW)):
            key, value = torch.zeros(M, c, dtype=torch.float64), torch.zeros(M, c, dtype=torch.float64)
            for m in range(M):
                i, j, k = m // (kH * kW) - kT // 2 + t, m // kW % kH - kH // 2 + h, m % kW - kW // 2 + w
                if 0 <= i < T and 0 <= j < H and 0 <= k < W:
                    projected = weight @ x[b, :, i, j, k]
                    value[m] = unit(projected[-c:])
                    if "R" in layer.kernel:
                        key[m] = unit(projected[C : C + c])
            context = torch.zeros(M, c, dtype=torch.float64)
            if "V" in layer.context:
                context = context + value
            if "R" in layer.context:
                context = context + value @ (value.T @ G)
            if layer.I is not None:  # the learned I stands in the basic context's place: (X I + X X^T G)
                context = value @ layer.I.double() + value @ (value.T @ G)
            for query_index in range(L):
                query = unit(weight[query_index * c : (query_index + 1) * c] @ x[b, :, t, h, w])
                kernel = torch.zeros(M, dtype=torch.float64)
                if matrix_P is not None:
                    kernel = kernel + matrix_P @ query
                if matrix_H is not None:
                    for channel in range(c):
                        group = channel // (c // layer.groups)
                        for m in range(M):
                            kernel = kernel + query[channel] * key[m, channel] * matrix_H[group, m]
                out[b, query_index::L, t // sT, h // sH, w // sW] = kernel @ context
    return out
