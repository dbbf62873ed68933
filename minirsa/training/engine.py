"""The training loop of the book's large runs: one recipe, any number of processes, any number of interruptions.

    recipe, data -> for every epoch: for every step: clips -> net -> loss -> gradient -> clip -> SGD -> row of the log
                                     validation, checkpoint

    run = train(load_recipe("motion-ci"), "runs/first")
    run.exit_code, run.best, read_log("runs/first")

A run killed at any moment goes on from its last checkpoint, and ends, on a CPU, with the weights and the log that it
would have had: order, augmentation and learning rate are functions of epoch and step, and what else draws numbers is
in the checkpoint. `minirsa.training.loop` is the same loop as a reader would write it. Book: chapter 16, The loop.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from minirsa.data.motion import mix_seeds
from minirsa.models.checkpoint import BUILDERS
from minirsa.models.resnet import TSNResNet, load_torchvision
from minirsa.training import checkpoints, inputs, meters
from minirsa.training.distributed import Processes, processes
from minirsa.training.guards import StopSignals, autocast, fast_convolutions, only_writer
from minirsa.training.meters import Clock, Totals, is_finite
from minirsa.training.recipes import TrainingRecipe, unknown
from minirsa.training.runlog import ProgressLine, RunLog
from minirsa.training.schedule import learning_rate, parameter_groups

RESUME = ("auto", "never", "must")
SMALLEST_SCALE = 1.0
"""Where a GradScaler's scale falls below this, gradients overflow whatever they are multiplied by."""


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is not finite: `epoch`, `step` (of the epoch) and `names` of the clips of that step."""

    def __init__(self, message: str, epoch: int, step: int, names: tuple[str, ...]):
        super().__init__(message)
        self.epoch, self.step, self.names = epoch, step, names


@dataclass(frozen=True)
class RunResult:
    """How a call of `train` ended.

    output: the run's folder. epoch, step: where it stands: `step` steps of epoch `epoch` are done. finished: whether
    that is the end. interrupted: the signal that stopped it, or 0. best: the validation kept as best, with its epoch;
    last: the last one. Both are {"epoch", "loss", "top1", "top5", "class_accuracy", "clips"}, shares in [0, 1].
    """

    output: Path
    epoch: int
    step: int
    finished: bool
    interrupted: int = 0
    best: dict[str, float] | None = None
    last: dict[str, float] | None = None

    @property
    def exit_code(self) -> int:
        """What a program that trained should leave with: 0, or 128 + the signal (130 after Ctrl-C)."""
        return 128 + self.interrupted if self.interrupted else 0


def build_model(recipe: TrainingRecipe) -> nn.Module:
    """The recipe's net, freshly initialised from torch's global generator: (B, 3, T, H, W) -> (B, classes).

    Raises ValueError for a model that is not among `BUILDERS`, or options that do not fit it.
    """
    if recipe.model not in BUILDERS:
        raise ValueError("model: " + unknown(recipe.model, BUILDERS, "model"))
    options = {"dropout": recipe.dropout, "keep": 1.0 - recipe.stochastic_depth, **recipe.model_options}
    try:
        return BUILDERS[recipe.model](recipe.classes, recipe.frames, **options)
    except TypeError as error:
        raise ValueError(f"model_options: {recipe.model} does not take {recipe.model_options}: {error}") from error


def restore_model(path: str | PathLike[str]) -> tuple[nn.Module, TrainingRecipe, tuple[str, ...]]:
    """The net of a checkpoint (or of the best one in a run's folder) in evaluation mode, its recipe, its classes.

    Raises FileNotFoundError, and ValueError naming the file if it is no checkpoint of `train`.
    """
    path = Path(path)
    if path.is_dir():
        path = path / checkpoints.BEST if (path / checkpoints.BEST).is_file() else path / checkpoints.LAST
    state = checkpoints.load(path)
    recipe = TrainingRecipe.from_dict(state["recipe"])
    model = build_model(recipe)
    model.load_state_dict(state["model"])
    return model.eval(), recipe, tuple(state["classes"])


def train(
    recipe: TrainingRecipe,
    output: str | PathLike[str],
    *,
    data_root: str | PathLike[str] | None = None,
    pretrained: str | PathLike[str] | None = None,
    resume: str = "auto",
    device: str | torch.device | None = None,
    tensorboard: bool = False,
    on_event: Callable[[Mapping[str, object]], None] | None = None,
) -> RunResult:
    """Train by a recipe into a folder, from the start or from where an earlier call was stopped.

    data_root: the data set's folder; the motion set needs none. pretrained: with `initialisation="imagenet"`, the
    file of torchvision's ResNet-50 weights. resume: "auto" goes on if the folder holds a checkpoint, "must" needs one,
    "never" refuses one. device: as for `processes`. on_event(row) hears every row of the log as it is written, and
    {"kind": "saved" | "resumed" | "interrupted", ...}.

    Ctrl-C (SIGINT) and SIGTERM finish the step, save and return; a second Ctrl-C stops at once. Under torchrun every
    process calls this with the same arguments.

    Raises ValueError for a recipe that does not fit the data, the processes or the checkpoint; FileNotFoundError for
    files that are not there; NonFiniteError (a FloatingPointError) at the first loss or gradient that is not finite,
    with nothing of it in a checkpoint; BlockingIOError if another process trains into the folder.
    """
    if resume not in RESUME:
        raise ValueError(f"resume: expected one of {', '.join(RESUME)}, got {resume!r}")
    output = Path(output)
    with processes(device) as group, checkpoints.own_randomness(recipe.seed, group.device):
        inputs.check_share(recipe, group.world)
        found = _find_checkpoint(output, resume)
        state = None
        if found is not None:
            state = checkpoints.load(found)
            checkpoints.check_recipe(state, recipe, found)
        if len(set(group.gather((state["epoch"], state["step"]) if state else None))) > 1:
            raise ValueError(f"expected one folder for all processes, got different checkpoints in {output}: share it")
        clips = inputs.open_data(recipe, data_root)
        lock = only_writer(output) if group.main else nullcontext()
        with lock, fast_convolutions(group.device), StopSignals() as signals:
            run = _Run(recipe, output, group, clips, signals, on_event)
            run.start(state, found, pretrained, tensorboard)
            try:
                return run.go()
            finally:
                run.close()


def _find_checkpoint(output: Path, resume: str) -> Path | None:
    found = checkpoints.newest(output)
    if found is None and resume == "must":
        raise FileNotFoundError(f"no checkpoint to go on from in {output}: start it with resume auto or never")
    if found is not None and resume == "never":
        raise ValueError(f"expected a folder without a run, got {found}: choose another folder, or resume auto")
    return found


class _Run:
    """One call of `train`: the state of a run and the steps that change it."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        output: Path,
        group: Processes,
        clips: tuple[inputs.Clips, inputs.Clips],
        signals: StopSignals,
        on_event: Callable[[Mapping[str, object]], None] | None,
    ):
        self.recipe, self.output, self.group = recipe, output, group
        self.training, self.validation = clips
        self.signals = signals
        self.on_event = on_event or (lambda row: None)
        self.steps = inputs.steps_per_epoch(self.training, recipe)
        self.epoch, self.step = 0, 0  # the next step to do
        self.totals, self.recent = Totals(), Totals()  # of this epoch, and since the last row of the log
        self.clock, self.recent_clock = Clock(), Clock()
        self.best: dict[str, float] | None = None
        self.last: dict[str, float] | None = None
        self.line = ProgressLine()
        self.line.shown = self.line.shown and group.main

    # Start -----------------------------------------------------------------------------------------------------------

    def start(
        self,
        state: dict[str, object] | None,
        found: Path | None,
        pretrained: str | PathLike[str] | None,
        tensorboard: bool,
    ) -> None:
        """Build everything, and put it into a checkpoint's state if there is one."""
        recipe, group = self.recipe, self.group
        model = build_model(recipe)
        source = None if state else self._initialise(model, pretrained)
        model = model.to(group.device)
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last_3d)
        if recipe.sync_batch_norm and group.world > 1:
            if group.device.type != "cuda":
                raise ValueError("sync_batch_norm: expected GPUs, which torch's SyncBatchNorm needs, got a CPU")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model
        self.optimizer = torch.optim.SGD(
            parameter_groups(model, recipe), lr=recipe.peak_lr, momentum=recipe.momentum, nesterov=recipe.nesterov
        )
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=recipe.precision == "fp16")
        torch.manual_seed(mix_seeds(recipe.seed, group.rank))  # dropout: each process draws its own
        if state:
            self._restore(state)
        if recipe.compile:
            self.model.compile()
        self.net = group.wrap(self.model)
        # The log is the first process's: the others wait until it is cut to where the checkpoint stands.
        keep = state["log_rows"] if state else 0
        self.log = RunLog(
            self.output, keep=keep, writes=group.main, tensorboard=tensorboard, step=self.epoch * self.steps + self.step
        )
        if group.main:
            (self.output / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
        if not state:
            row = {"kind": "recipe", "recipe": recipe.to_dict(), "pretrained": source, "steps_per_epoch": self.steps}
            self._write(row)
        self.log.write_session(self._session(found))
        if state:
            self.on_event({"kind": "resumed", "path": str(found), "epoch": self.epoch, "step": self.step})
        group.wait()

    def _initialise(self, model: nn.Module, pretrained: str | PathLike[str] | None) -> dict[str, str] | None:
        """Fill the net with ImageNet weights if the recipe says so; which file that was."""
        if self.recipe.initialisation == "scratch":
            if pretrained is not None:
                raise ValueError(f'initialisation: expected "imagenet" to use {pretrained}, got "scratch"')
            return None
        if pretrained is None:
            raise ValueError(
                "this recipe starts from ImageNet weights: give the file of torchvision's ResNet-50 "
                "(resnet50-0676ba61.pth or resnet50-19c8e357.pth), or set initialisation=scratch"
            )
        if not isinstance(model, TSNResNet):
            raise ValueError(
                f"initialisation: expected a ResNet to start from ImageNet weights, got {self.recipe.model}"
            )
        load_torchvision(model, pretrained)
        return {"file": Path(pretrained).name, "sha256": hashlib.sha256(Path(pretrained).read_bytes()).hexdigest()}

    def _restore(self, state: Mapping[str, object]) -> None:
        if (state["clips"], state["classes"]) != (len(self.training), list(self.training.classes)):
            raise ValueError(
                f"expected the {state['clips']} clips of {len(state['classes'])} classes that the run began with, got "
                f"{len(self.training)} of {len(self.training.classes)}: the data set has changed"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.totals, self.recent = Totals(*state["totals"]), Totals(*state["recent"])
        self.best, self.last = state["best"], state["last"]
        states = state["random"]
        if len(states) == self.group.world:
            checkpoints.restore_random_states(states[self.group.rank], self.group.device)
        else:  # fewer or more processes than before: each draws anew, from where the run stands
            place = self.epoch * self.steps + self.step
            torch.manual_seed(mix_seeds(mix_seeds(self.recipe.seed, place), self.group.rank))

    def _session(self, found: Path | None) -> dict[str, object]:
        device = self.group.device
        return {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "from": found.name if found else None,
            "epoch": self.epoch,
            "step": self.step,
            "processes": self.group.world,
            "clips_at_once": inputs.check_share(self.recipe, self.group.world),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " CPU",
            "threads": torch.get_num_threads(),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }

    def close(self) -> None:
        """Leave files and processes; the last thing that is done with a run."""
        self.log.close()
        self.line.close()
        # DistributedDataParallel must not outlive torch's process group. If it held the last reference, the group would
        # be taken down by a thread that has Python's lock and waits for one of gloo's, which may wait for the lock.
        self.net = None

    # Epochs ----------------------------------------------------------------------------------------------------------

    def go(self) -> RunResult:
        """Train to the end, or to a signal."""
        while self.epoch < self.recipe.epochs:
            if not self._train_epoch():
                return self._interrupted()
            validated = None
            if self.recipe.validates(self.epoch):
                validated = self._validate()
                if validated is None:
                    return self._interrupted()
            self._end_epoch(validated)
            if self.signals.hear(self.group.sum(self.signals.flags())) and self.epoch < self.recipe.epochs:
                return self._interrupted()
        return self._result(0)

    def _train_epoch(self) -> bool:
        """The rest of an epoch's steps; False if a signal came, after saving."""
        recipe, group = self.recipe, self.group
        self.model.train()
        self.training.set_epoch(self.epoch)
        plan = inputs.training_plan(len(self.training), recipe, self.epoch, self.step, group.rank, group.world)
        self.clock = Clock()
        with closing(inputs.read(self.training, plan, group, recipe.workers, recipe.seed)) as batches:
            while self.step < self.steps:
                totals, stop = self._train_step(batches)
                for sums in (self.totals, self.recent):
                    sums.add(totals)
                self.step += 1
                done = self.epoch * self.steps + self.step
                if done % recipe.log_every == 0:
                    self._log_steps(done)
                self.line.update(self._progress())
                if stop or (recipe.save_every and done % recipe.save_every == 0 and self.step < self.steps):
                    self._save()
                if stop:
                    return False
        return True

    def _log_steps(self, done: int) -> None:
        row = {"kind": "train", "epoch": self.epoch, "step": self.step, "lr": self._rate(self.step - 1)}
        row |= self.recent.means()
        if self.scaler.is_enabled():
            row["scale"] = self.scaler.get_scale()
        self._write({**row, "timing": self.recent_clock.row(self.group.device)}, step=done)
        self.recent, self.recent_clock = Totals(), Clock()

    def _end_epoch(self, validated: dict[str, float] | None) -> None:
        better = False
        if validated is not None:
            self.last = {"epoch": self.epoch, **validated}
            score = self.recipe.best_by
            better = self.best is None or validated[score] > self.best[score]
            self.best = self.last if better else self.best
        row = {"kind": "epoch", "epoch": self.epoch, "lr": self._rate(self.steps - 1), **self.totals.means()}
        row |= {"clips": int(self.totals.clips), "validation": validated, "timing": self.clock.row(self.group.device)}
        self._write(row, step=(self.epoch + 1) * self.steps)
        self.epoch, self.step, self.totals = self.epoch + 1, 0, Totals()
        self._save(best=better)

    def _rate(self, step: int) -> float:
        return learning_rate(self.recipe, self.epoch, step, self.steps)

    # Steps -----------------------------------------------------------------------------------------------------------

    def _train_step(self, batches: Iterator[object]) -> tuple[Totals, bool]:
        """One step of the optimiser, over all processes: what it summed up to, and whether a signal came."""
        recipe, group, parts = self.recipe, self.group, self.recipe.accumulation
        for entry in self.optimizer.param_groups:
            entry["lr"] = self._rate(self.step) * entry["lr_scale"]
        self.optimizer.zero_grad(set_to_none=True)
        scores, names = [], []
        waited = worked = 0.0
        self.clock.lap()
        for part in range(parts):
            batch = next(batches)
            waited += self.clock.lap()
            scores.append(self._accumulate(batch, last=part == parts - 1))
            names.append(batch.names)
            worked += self.clock.lap()
        self.scaler.unscale_(self.optimizer)
        parameters = [parameter for entry in self.optimizer.param_groups for parameter in entry["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, recipe.clip_norm or math.inf)
        values = torch.cat([torch.stack(scores).flatten(), norm.float()[None]]).tolist()  # here the GPU is waited for
        rows, norm = list(zip(*[iter(values[:-1])] * 3)), values[-1]
        bad = [part for part in range(parts) if not math.isfinite(rows[part][0])]
        if not bad and not math.isfinite(norm) and not self.scaler.is_enabled():  # a scaler leaves such a step out
            bad = list(range(parts))
        clips = sum(map(len, names))
        *sums, clips, wrong, first, second = group.sum([*map(sum, zip(*rows)), clips, len(bad), *self.signals.flags()])
        if wrong:
            what = f"not finite: loss {sums[0] / clips:g}, norm of the gradient {norm:g},"
            self._fail([name for part in bad for name in names[part]], what)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            self._fail([name for part in names for name in part], "gradients overflow at any scale")
        worked += self.clock.lap()
        for clock in (self.clock, self.recent_clock):
            clock.add(waited, worked, int(clips))
        return Totals(*sums, clips), self.signals.hear([first, second])

    def _accumulate(self, batch: object, *, last: bool) -> torch.Tensor:
        """Forward and backward of one part of a batch; its `meters.score`. Gradients travel with the last part only."""
        with nullcontext() if last or self.group.world == 1 else self.net.no_sync():
            with autocast(self.recipe.precision, self.group.device):
                logits = self.net(batch.videos)
            smoothing = self.recipe.label_smoothing
            loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=smoothing)  # float32 whatever the net
            self.scaler.scale(loss / self.recipe.accumulation).backward()
        return meters.score(logits.detach(), batch.labels, loss.detach())

    def _fail(self, names: list[str], what: str) -> None:
        """Stop the run at something that is not finite. Every process comes here, with the names that it has."""
        found = tuple(name for part in self.group.gather(names) for name in part)
        kept = checkpoints.newest(self.output)
        raise NonFiniteError(
            f"epoch {self.epoch}, step {self.step}: {what} in {self.recipe.precision}. "
            + (f"Its clips: {', '.join(found)}. " if found else "")
            + "Look at the clips, lower lr or clip_norm, or leave fp16; "
            + (f"the run can go on from {kept}" if kept else "there is no checkpoint yet"),
            self.epoch,
            self.step,
            found,
        )

    # Validation ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _validate(self) -> dict[str, float] | None:
        """One view of every validation clip; None if a signal came, after saving."""
        recipe, group = self.recipe, self.group
        group.same_buffers(self.model)
        self.model.eval()
        totals = Totals()
        right, seen = torch.zeros(recipe.classes), torch.zeros(recipe.classes)
        plan = inputs.validation_plan(
            len(self.validation), inputs.check_share(recipe, group.world), group.rank, group.world
        )
        batches = inputs.read(self.validation, plan, group, recipe.workers, recipe.seed)
        for number, batch in enumerate(batches):
            scores = [0.0, 0.0, 0.0, 0]
            if batch is not None:
                with autocast(recipe.precision, group.device):
                    logits = self.model(batch.videos)
                loss = F.cross_entropy(logits.float(), batch.labels)
                scores = [*meters.score(logits, batch.labels, loss).tolist(), len(batch.labels)]
                labels = batch.labels.cpu()
                seen += labels.bincount(minlength=recipe.classes)
                right += labels[logits.argmax(1).cpu() == labels].bincount(minlength=recipe.classes)
            *sums, first, second = group.sum([*scores, *self.signals.flags()])
            totals.add(Totals(*sums))
            self.line.update(f"epoch {self.epoch + 1}/{recipe.epochs}  validation {number + 1}/{len(plan)}")
            if self.signals.hear([first, second]):
                self._save()
                return None
        right, seen = (torch.tensor(group.sum(counts.tolist())) for counts in (right, seen))
        present = seen > 0
        mean = (right[present] / seen[present]).mean().item()
        return {**totals.means(), "class_accuracy": mean, "clips": int(totals.clips)}

    # Files -----------------------------------------------------------------------------------------------------------

    def _save(self, *, best: bool = False) -> None:
        """Write a checkpoint, on the first process; all must call it."""
        self.group.same_buffers(self.model)
        if not is_finite(self.model.state_dict()):
            self._fail([], "weights or batch statistics are not finite")
        states = self.group.gather(checkpoints.random_states(self.group.device))
        if self.group.main:
            self.log.sync()
            state = {
                "recipe": self.recipe.to_dict(),
                "classes": list(self.training.classes),
                "clips": len(self.training),
                "epoch": self.epoch,
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "totals": list(vars(self.totals).values()),
                "recent": list(vars(self.recent).values()),
                "best": self.best,
                "last": self.last,
                "random": states,
                "log_rows": self.log.rows,
            }
            checkpoints.save(self.output / checkpoints.LAST, state)
            if best:
                kept = {name: state[name] for name in ("recipe", "classes", "epoch", "model", "best")}
                checkpoints.save(self.output / checkpoints.BEST, kept)
        self.on_event({"kind": "saved", "epoch": self.epoch, "step": self.step, "best": best})

    def _write(self, row: Mapping[str, object], *, step: int | None = None) -> None:
        self.log.write(row, step=step)
        self.line.close()
        self.on_event(row)

    def _progress(self) -> str:
        clock, means = self.clock, self.totals.means()
        left = (self.recipe.epochs - self.epoch) * self.steps - self.step
        seconds = round(left * self.recipe.batch_size / clock.clips_per_s)
        return (
            f"epoch {self.epoch + 1}/{self.recipe.epochs}  step {self.step}/{self.steps}  loss {means['loss']:.3f}  "
            f"top-1 {100 * means['top1']:.1f} %  {clock.clips_per_s:.1f} clips/s  data {100 * clock.data_share:.0f} %  "
            f"{datetime.timedelta(seconds=seconds)} left"
        )

    def _interrupted(self) -> RunResult:
        row = {"kind": "interrupted", "signal": self.signals.number, "epoch": self.epoch, "step": self.step}
        self.on_event(row)
        return self._result(self.signals.number)

    def _result(self, interrupted: int) -> RunResult:
        finished = self.epoch >= self.recipe.epochs
        return RunResult(self.output, self.epoch, self.step, finished, int(interrupted), self.best, self.last)
