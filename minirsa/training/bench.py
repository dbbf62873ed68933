"""How fast is a recipe on this machine? What `minirsa bench` prints before a run of days is begun.

    recipe -> net, clips of random numbers on the device -> inference, training: clips a second, memory
              its own clips, read or drawn           -> data: clips a second

Training is limited by the smaller of the two last rates. A step is a whole one: forward, backward, clipping and SGD,
with the recipe's batch, precision and memory format. On a GPU the clock waits for the GPU. Book: chapter 16, How long
will it take?
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from minirsa import complexity
from minirsa.training import inputs
from minirsa.training.distributed import processes
from minirsa.training.engine import build_model
from minirsa.training.guards import autocast, fast_convolutions
from minirsa.training.meters import peak_memory
from minirsa.training.recipes import TrainingRecipe
from minirsa.training.schedule import parameter_groups


@dataclass(frozen=True)
class Speed:
    """What a machine makes of a recipe.

    params; macs: multiply-adds of one clip. inference, training: clips a second through the net; data: clips a second
    from disk or drawn, None if not measured. step_s: seconds of a training step. memory_mib: most memory held during
    it: of the GPU, or of the whole process; None where the system does not tell. clips: training clips of the whole
    run, None where the data set was not opened.
    """

    params: int
    macs: int
    inference: float
    training: float
    step_s: float
    memory_mib: float | None
    data: float | None
    clips: int | None

    @property
    def hours(self) -> float | None:
        """Hours of the whole run's training steps at the smaller of both rates, validation left out."""
        if self.clips is None:
            return None
        return self.clips / min(self.training, self.data or math.inf) / 3600


def measure(
    recipe: TrainingRecipe,
    *,
    data_root: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    steps: int = 10,
    warmup: int = 3,
) -> Speed:
    """Time `steps` steps after `warmup` that are not timed, in one process.

    data_root: the data set's folder; without it only the motion set, which needs none, is measured. device: as for
    `processes`. Raises ValueError for fewer than one step, and what `train` raises for a recipe or data set.
    """
    if steps < 1 or warmup < 0:
        raise ValueError(f"expected at least 1 step and no negative warm-up, got {steps} and {warmup}")
    with processes(device) as group, fast_convolutions(group.device):
        batch = inputs.check_share(recipe, 1)
        with torch.device("meta"):
            shape = complexity.measure(build_model(recipe), torch.empty(1, 3, recipe.frames, recipe.size, recipe.size))
        torch.manual_seed(recipe.seed)
        model = build_model(recipe).to(group.device)
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last_3d)
        if recipe.compile:
            model.compile()
        clips = torch.randn(batch, 3, recipe.frames, recipe.size, recipe.size, device=group.device)
        labels = torch.arange(batch, device=group.device) % recipe.classes
        step = _training_step(model.train(), recipe, clips, labels, group.device)
        step_s = _seconds(step, warmup, steps, group.device)
        memory = peak_memory(group.device)
        model.eval()
        with torch.no_grad():
            forward = _seconds(lambda: _forward(model, recipe, clips, group.device), warmup, steps, group.device)
        data = total = None
        if recipe.data == "motion" or data_root is not None:
            training, _ = inputs.open_data(recipe, data_root)
            total = inputs.steps_per_epoch(training, recipe) * recipe.batch_size * recipe.epochs
            data = _data_rate(training, recipe, group, warmup, steps)
    return Speed(
        params=shape.params,
        macs=shape.macs,
        inference=batch / forward,
        training=recipe.batch_size / step_s,
        step_s=step_s,
        memory_mib=memory,
        data=data,
        clips=total,
    )


def _training_step(
    model: nn.Module, recipe: TrainingRecipe, clips: torch.Tensor, labels: torch.Tensor, device: torch.device
):
    groups = parameter_groups(model, recipe)
    optimizer = torch.optim.SGD(groups, lr=1e-6, momentum=recipe.momentum, nesterov=recipe.nesterov)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    parameters = [parameter for entry in groups for parameter in entry["params"]]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for _ in range(recipe.accumulation):
            logits = _forward(model, recipe, clips, device)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
            scaler.scale(loss / recipe.accumulation).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm or math.inf)
        scaler.step(optimizer)
        scaler.update()

    return step


def _forward(model: nn.Module, recipe: TrainingRecipe, clips: torch.Tensor, device: torch.device) -> torch.Tensor:
    with autocast(recipe.precision, device):
        return model(clips)


def _seconds(work, warmup: int, steps: int, device: torch.device) -> float:
    """Mean seconds of a call."""
    for _ in range(warmup):
        work()
    _wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        work()
    _wait(device)
    return (time.perf_counter() - start) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _data_rate(training: inputs.Clips, recipe: TrainingRecipe, group, warmup: int, steps: int) -> float:
    """Clips a second that arrive on the device, the first `warmup` batches left out."""
    training.set_epoch(0)
    plan = inputs.training_plan(len(training), recipe, 0, 0, 0, 1)
    short = plan[: (warmup + steps) * recipe.accumulation]
    batches = inputs.read(training, short, group, recipe.workers, recipe.seed)
    first = min(warmup * recipe.accumulation, len(short) - 1)
    for _ in range(first):
        next(batches)
    _wait(group.device)
    start, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch.names)
    _wait(group.device)
    return count / (time.perf_counter() - start)
