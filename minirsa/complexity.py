"""What a network costs: parameters, multiply-adds, and how far its operations have to wait for each other.

The papers in this book call one multiplication followed by one addition a "FLOP"; `torch` counts it as
two operations. `measure` reports multiply-adds, so its figures can be laid beside the papers' tables:

    measure(rsanet_r50(), torch.empty(1, 3, 8, 224, 224))   ->   22.034 M parameters, 35.887 G multiply-adds

Counted are convolutions and matrix products, attention's two among them; element by element
arithmetic (norms, activations, additions, softmax) is not, as in the papers.

`sequential_products` and `path_length` measure the other two columns of table 1 of Vaswani et al. 2017: products that
must wait for each other, and steps that a signal needs from the first position of a sequence to the last.

Book: chapter 2, The table, measured; chapter 13, What a layer costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.utils._python_dispatch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class Complexity:
    """Cost of one forward pass.

    params: learned numbers, each shared parameter counted once.
    macs: multiply-adds of the whole input, batch included.
    """

    params: int
    macs: int

    def __str__(self) -> str:
        return f"{self.params / 1e6:.3f} M parameters, {self.macs / 1e9:.3f} G multiply-adds"


def measure(model: nn.Module, *inputs: Tensor, device: str | torch.device | None = "meta") -> Complexity:
    """Count the parameters of a model and the multiply-adds of `model(*inputs)`.

    By default the pass runs on the meta device: shapes only, so that a network of any size is measured in
    a moment, without memory for its activations; only the shapes and dtypes of `inputs` matter then, and
    `torch.empty(..., device="meta")` will do. `device=None` computes for real, where the model stands, which
    a model whose shapes depend on its values needs.

    The model is run in evaluation mode without gradients, and is given back as it came: train mode of
    every submodule, gradients, buffers on the meta run, and the state of torch's random generators.

    A module whose `forward` is written with operations that no counter sees (products and sums element by
    element), or in an order of its own, may offer `counted_forward(*inputs)`: the same result in the
    arrangement that its paper counts. It is run in place of `forward`.

    Raises TypeError if an input is not a tensor, and RuntimeError, naming the way out, if the model
    cannot run on the meta device.
    """
    for position, value in enumerate(inputs):
        if not isinstance(value, Tensor):
            raise TypeError(f"expected tensors as inputs, got {type(value).__name__} as input {position}")
    params = sum(parameter.numel() for parameter in model.parameters())
    counter = FlopCounterMode(display=False)
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=_cuda_devices(model)))
        stack.enter_context(_evaluating(model))
        stack.enter_context(_counted_forwards(model))
        stack.enter_context(_composite_layers())
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        if device is None:
            model(*inputs)
        else:
            _run_elsewhere(model, inputs, torch.device(device))
    return Complexity(params=params, macs=counter.get_total_flops() // 2)


def sequential_products(function: Callable[..., object], *inputs: Tensor) -> int:
    """The longest chain of products in `function(*inputs)` in which each waits for the one before it.

    A product is whatever `measure` counts: a matrix product, a convolution, each of attention's two. The number says
    how many of them a machine with unlimited parallel units would still have to run one after the other. An output
    written into a part of a tensor counts for all of this tensor. Runs for real, without gradients, where the inputs
    stand. Source: Vaswani et al. 2017, table 1, "Sequential Operations". Book: chapter 2, The table, measured.
    """
    chain = _LongestChain()
    with _composite_layers(), torch.no_grad(), chain:
        function(*inputs)
    return chain.longest


def path_length(
    step: Callable[[Tensor, Tensor, int], Tensor], x: Tensor, start: Tensor | None = None, *, limit: int | None = None
) -> int:
    """Steps until the last position of a sequence feels the first: the least number with a gradient that is not zero.

    Args:
        step: (state (n, d), x (n, d), index 0, 1, ...) -> next state (n, d); one layer, or one tick of a recurrence.
        x: the sequence (n, d), float64 lest a faint gradient should become zero.
        start: the state before the first step; x unless given.
        limit: steps to try, n unless given.

    Raises ValueError if x is not (n, d), and if the last position feels nothing after `limit` steps.
    Source: Vaswani et al. 2017, table 1, "Maximum Path Length". Book: chapter 2, The table, measured.
    """
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"expected a sequence (n, d) without empty axes, got {tuple(x.shape)}")
    limit = len(x) if limit is None else limit
    x = x.detach().requires_grad_()
    state = x if start is None else start
    direction = torch.linspace(1, 2, x.shape[1], dtype=x.dtype, device=x.device)  # a plain sum could cancel
    with torch.enable_grad():
        for index in range(limit):
            state = step(state, x, index)
            felt = (state[-1] * direction).sum()
            (gradient,) = torch.autograd.grad(felt, x, retain_graph=True, allow_unused=True)
            if gradient is not None and gradient[0].any():
                return index + 1
    raise ValueError(f"position {len(x) - 1} does not feel position 0 after {limit} steps")


class _LongestChain(torch.utils._python_dispatch.TorchDispatchMode):
    """Keeps for every tensor how many products had to follow one another until it was there."""

    def __init__(self):
        super().__init__()
        self.longest = 0
        self.waited = WeakIdKeyDictionary()  # tensor -> products behind it
        self.written: dict[int, tuple[object, int]] = {}  # storages changed in place: they must not be freed meanwhile

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        read = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        waited = max(map(self._behind, read), default=0) + (func.overloadpacket in flop_registry)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.waited[tensor] = max(waited, self.waited.get(tensor, 0))
                if func._schema.is_mutable:
                    storage = tensor.untyped_storage()
                    self.written[storage._cdata] = (storage, max(waited, self._behind(tensor)))
        self.longest = max(self.longest, waited)
        return result

    def _behind(self, tensor: Tensor) -> int:
        _, written = self.written.get(tensor.untyped_storage()._cdata, (None, 0))
        return max(written, self.waited.get(tensor, 0))


def _run_elsewhere(model: nn.Module, inputs: tuple[Tensor, ...], device: torch.device) -> None:
    """Run with stand-ins for parameters and buffers, leaving the model's own where they are."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    stand_ins = {name: torch.empty_like(tensor, device=device) for name, tensor in tensors.items()}
    try:
        functional_call(model, stand_ins, tuple(torch.empty_like(value, device=device) for value in inputs))
    except (NotImplementedError, RuntimeError) as error:
        if device.type != "meta":
            raise
        raise RuntimeError(
            f"{type(model).__name__} does not run on the meta device ({error}); "
            "call measure(..., device=None) to compute for real"
        ) from error


def _cuda_devices(model: nn.Module) -> list[int]:
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    return sorted(device.index for device in devices)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every submodule has the mode it had (frozen batch norms stay frozen)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _counted_forwards(model: nn.Module) -> Iterator[None]:
    """Let `counted_forward` stand for `forward` in every module that has one."""
    changed = [module for module in model.modules() if hasattr(module, "counted_forward")]
    for module in changed:
        module.forward = module.counted_forward
    try:
        yield
    finally:
        for module in changed:
            del module.forward


@contextmanager
def _composite_layers() -> Iterator[None]:
    """Keep attention and recurrence out of the fused paths that the counter does not see: attention's own kernel for
    CPUs, oneDNN's LSTM, and the evaluation path of torch.nn's transformer layers."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    onednn, *_ = torch.backends.mkldnn.set_flags(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mkldnn.set_flags(onednn)
        torch.backends.mha.set_fastpath_enabled(enabled)
