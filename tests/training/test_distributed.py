"""Several processes do what one would: the same clips, the same step, the same log."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from minirsa.cli import main
from minirsa.data.motion import mix_seeds
from minirsa.training import distributed
from minirsa.training.checkpoints import LAST, load
from minirsa.training.distributed import processes
from minirsa.training.evaluation import Scores
from minirsa.training.inputs import check_share, epoch_order, training_plan, validation_plan
from minirsa.training.runlog import SESSIONS, read_log

from .conftest import assert_equal_states, rows, tiny

PLAIN = {"model": "plain", "epochs": 2}


@pytest.fixture(scope="module")
def alone(forker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert forker.run(folder, recipe=PLAIN)[0][0] == 0
    return folder


def assert_close_runs(one, other):
    """The same run up to the rounding of sums in another order."""
    a, b = load(one / LAST), load(other / LAST)
    for name, weight in a["model"].items():
        np.testing.assert_allclose(weight, b["model"][name], atol=2e-6, err_msg=name)
    for number, momentum in a["optimizer"]["state"].items():
        buffer = b["optimizer"]["state"][number]["momentum_buffer"]
        np.testing.assert_allclose(momentum["momentum_buffer"], buffer, atol=1e-5)
    assert len(rows(one)) == len(rows(other))
    for mine, theirs in zip(rows(one)[1:], rows(other)[1:]):
        for key in mine:
            assert mine[key] == pytest.approx(theirs[key], abs=1e-5), key


def test_two_processes_equal_one_with_the_doubled_batch(forker, alone, tmp_path):
    """Each of the two has half of every batch, without batch norm and dropout; then weights, momentum and log agree."""
    answers = forker.run(tmp_path, world=2, recipe=PLAIN)
    assert answers == [(0, {"epoch": 2, "step": 0, "finished": True})] * 2
    assert_close_runs(alone, tmp_path)
    (start,) = read_log(tmp_path / SESSIONS)
    assert (start["processes"], start["clips_at_once"]) == (2, 4)


def test_the_wrapped_net_is_gone_before_the_processes_part(forker, tmp_path):
    """Else the two may wait for each other's locks for ever, one run in some hundreds."""
    answers = forker.run(tmp_path, world=2, recipe=PLAIN, count_at_the_end=True)
    assert [report["wrapped nets at the end"] for _, report in answers] == [0, 0]


def test_two_processes_with_parts_are_stopped_and_one_goes_on(forker, alone, tmp_path):
    """Ctrl-C reaches both (here both send it), both leave with 130, and a single process finishes the run."""
    answers = forker.run(tmp_path, world=2, recipe=PLAIN | {"accumulation": 2}, interrupt=["train", 0, 4])
    assert answers == [(130, {"epoch": 0, "step": 5, "finished": False})] * 2
    assert forker.run(tmp_path, recipe=PLAIN) == [(0, {"epoch": 2, "step": 0, "finished": True})]
    assert_close_runs(alone, tmp_path)


def test_a_clip_that_is_not_finite_in_one_process_stops_both_with_its_name(forker, tmp_path):
    recipe = tiny(**PLAIN)
    order = epoch_order(48, recipe.seed, 1)
    index = 48 + int(order[3 * 8 + 6])  # fourth step of the second epoch, in the second process's half
    name = next(name for name in motion_names(recipe, 96) if name.split(":")[2] == str(index))
    answers = forker.run(tmp_path, world=2, recipe=PLAIN, poison=name)
    assert [code for code, _ in answers] == [1, 1]
    for _, message in answers:
        assert message.startswith("epoch 1, step 3: not finite: loss nan")
        assert name in message
    state = load(tmp_path / LAST)
    assert (state["epoch"], state["step"]) == (1, 2)
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())


def motion_names(recipe, count):
    from minirsa.data.datasets import MotionDataset

    clips = MotionDataset(count, seed=recipe.seed)
    return clips.batch(range(count)).names


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 2)])
def test_the_parts_of_all_processes_together_are_the_batch(world, accumulation):
    recipe = tiny(accumulation=accumulation)
    order = epoch_order(50, recipe.seed, 2)
    plans = [training_plan(50, recipe, 2, 1, rank, world) for rank in range(world)]
    for step in range(5):  # six whole batches of 8 in 50 clips, the first of them done
        parts = [part for plan in plans for part in plan[step * accumulation : (step + 1) * accumulation]]
        assert {len(part) for part in parts} == {8 // (world * accumulation)}
        assert [index for part in parts for index in part] == order[8 + 8 * step : 16 + 8 * step].tolist()
    assert {len(plan) for plan in plans} == {5 * accumulation}


def test_an_epoch_has_an_order_of_its_own_and_every_clip_once():
    orders = [epoch_order(40, 3, epoch) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(40)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert torch.equal(orders[1], epoch_order(40, 3, 1))
    assert not torch.equal(orders[1], epoch_order(40, 4, 1))


@pytest.mark.parametrize(("length", "batch", "world"), [(24, 8, 1), (25, 8, 2), (3, 8, 4), (17, 2, 3)])
def test_validation_sees_every_clip_once_in_as_many_rounds_everywhere(length, batch, world):
    plans = [validation_plan(length, batch, rank, world) for rank in range(world)]
    assert sorted(index for plan in plans for part in plan for index in part) == list(range(length))
    assert len({len(plan) for plan in plans}) == 1
    assert max(len(part) for plan in plans for part in plan) <= batch


def test_a_batch_that_does_not_divide_is_refused():
    assert check_share(tiny(accumulation=2), 2) == 2
    with pytest.raises(ValueError, match=r"expected a multiple of 6 \(3 processes x accumulation 2\), got 8"):
        check_share(tiny(accumulation=2), 3)


def test_one_process_sums_and_gathers_by_itself():
    with processes("cpu") as group:
        assert (group.rank, group.world, group.main, group.device.type) == (0, 1, True, "cpu")
        assert group.sum([1, True, 0.5]) == [1.0, 1.0, 0.5]
        assert group.gather({"a": 1}) == [{"a": 1}]
        model = torch.nn.BatchNorm1d(2)
        group.same_buffers(model)
        assert group.wrap(model) is model
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "expected RANK below WORLD_SIZE, got RANK=2"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "expected a whole number in the variable RANK, got 'one'"),
    ],
)
def test_variables_that_do_not_fit_are_refused(monkeypatch, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message), processes("cpu"):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="sees no CUDA GPU"), processes("cuda"):
        pass


def test_each_process_draws_dropout_of_its_own():
    assert len({mix_seeds(0, rank) for rank in range(64)}) == 64


ONE_MACHINE = ("--standalone", "--nproc-per-node", "2")


def torchrun(*arguments, start=ONE_MACHINE, **variables):
    """A process of torchrun with two of `minirsa`, as on a machine with two GPUs, here on a CPU."""
    command = [sys.executable, "-m", "torch.distributed.run", *start]
    command += ["--max-restarts", "1", "-m", "minirsa", *map(str, arguments), "--device", "cpu"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def training(folder, **options):
    """`minirsa train` into folder/run under torchrun."""
    (folder / "recipe.toml").write_text(tiny(model="rsanet_small", epochs=6).to_toml())
    return torchrun("train", "--recipe", folder / "recipe.toml", "--output", folder / "run", **options)


def children(process):
    """Ids of a process's children, oldest first."""
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_for_a_checkpoint(folder, *starts):
    """Until the run has one, or a start is over."""
    while not (folder / "run" / LAST).exists() and all(start.poll() is None for start in starts):
        time.sleep(0.01)


def ended(process, seconds=240):
    """Its exit code and what it wrote. One that hangs is ended with all its processes, and TimeoutExpired raised."""
    try:
        stdout, stderr = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun ends its processes, which no signal to its own session would reach
        process.communicate(timeout=60)
        raise
    return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def command_run(tmp_path_factory):
    """A run of the command under torchrun that nothing disturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("torchrun")
    code, stdout, stderr = ended(training(folder))
    assert code == 0, stderr[-2000:]
    return folder / "run", stdout


def test_the_command_runs_under_torchrun_and_one_process_speaks(command_run):
    output, stdout = command_run
    assert [start["processes"] for start in read_log(output / SESSIONS)] == [2]
    assert stdout.count("validation: loss") == 6
    state = load(output / LAST)
    assert (state["epoch"], state["step"]) == (6, 0)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in Linux's /proc")
def test_torchrun_starts_both_again_when_one_is_killed_and_the_run_ends_as_if_nothing_had_been(command_run, tmp_path):
    """torchrun keeps the addresses of the dead in its store; who takes them for new ones waits for ever."""
    process = training(tmp_path)
    wait_for_a_checkpoint(tmp_path, process)
    os.kill(children(process)[-1], signal.SIGKILL)
    code, _, stderr = ended(process)
    assert code == 0, stderr[-2000:]
    assert_went_on(tmp_path / "run", command_run[0])


def assert_went_on(run, undisturbed):
    """Started twice, the second time from a checkpoint, and the same in the end."""
    starts = read_log(run / SESSIONS)
    assert [start["processes"] for start in starts] == [2, 2]
    assert (starts[1]["epoch"], starts[1]["step"]) > (0, 0)
    assert_equal_states(load(run / LAST), load(undisturbed / LAST))
    assert rows(run) == rows(undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in Linux's /proc")
def test_two_torchruns_start_again_together_when_a_process_of_one_is_killed(command_run, tmp_path):
    """The command of two machines, here both on one: the one whose process dies counts a restart, the other none."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = f"localhost:{probe.getsockname()[1]}"
    start = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", meeting)
    machines = [training(tmp_path, start=start, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1") for _ in range(2)]
    wait_for_a_checkpoint(tmp_path, *machines)
    os.kill(children(machines[1])[-1], signal.SIGKILL)
    for code, _, stderr in map(ended, machines):
        assert code == 0, stderr[-2000:]
    assert_went_on(tmp_path / "run", command_run[0])


def test_two_processes_evaluate_as_one_and_one_speaks(command_run, tmp_path, capsys):
    """Two nets, so that the processes share out the clips twice; the second part of the report is the ensemble's."""
    sources = [tmp_path / name / LAST for name in ("a", "b")]
    for source in sources:
        source.parent.mkdir()
        shutil.copy(command_run[0] / LAST, source)
    code, stdout, stderr = ended(torchrun("evaluate", *sources, "--batch-size", "5"))
    assert code == 0, stderr[-2000:]
    assert main(["evaluate", str(command_run[0] / LAST), "--device", "cpu"]) == 0
    (path,) = command_run[0].glob("scores-*.safetensors")
    alone = Scores.load(path)
    path.unlink()
    said = capsys.readouterr().out
    assert stdout.startswith(2 * said)
    assert stdout.count("24 clips") == 3
    for source in sources:
        shared = Scores.load(source.parent / path.name)
        assert shared.names == alone.names
        assert torch.equal(shared.labels, alone.labels)
        torch.testing.assert_close(shared.logits, alone.logits, atol=1e-5, rtol=1e-5)


def test_machines_that_would_not_meet_again_are_refused(monkeypatch):
    """Each machine counts the restarts for itself, so that the count does not tell which addresses are new."""
    several = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in several.items() | {("TORCHELASTIC_MAX_RESTARTS", "3")}:
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"), processes("cpu"):
        pass


@pytest.mark.parametrize(("shared", "local", "start"), [("True", "2", 3), ("True", "1", 0), ("False", "1", 0)])
def test_restarts_tell_meetings_apart_only_where_all_processes_count_alike(monkeypatch, shared, local, start):
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": local, "RANK": "0", "TORCHELASTIC_USE_AGENT_STORE": shared}
    for name, value in (variables | {"TORCHELASTIC_RESTART_COUNT": "3", "TORCHELASTIC_MAX_RESTARTS": "0"}).items():
        monkeypatch.setenv(name, value)
    whole = torch.distributed.HashStore()
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda method: iter([(whole, 0, 2)]))
    for meeting in range(2):
        monkeypatch.setattr(distributed, "_MEETINGS", iter([meeting]))
        distributed._meeting_place().set("a", "here")
        assert whole.check([f"start {start}, meeting {meeting}/a"])
