"""Forks a training process for every line of JSON on standard input: importing torch once is what takes the time.

A job is {"output", "recipe": values over TINY, "world", "port", and what is to go wrong}. Answers, a line each: the
process ids, then [exit code, report] of every rank.
"""

import gc
import json
import os
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo  # an optimiser imports it, and each child would do so again
from torch import nn

torch.set_num_threads(1)

from conftest import Plain, tiny  # noqa: E402

from minirsa.data.datasets import MotionDataset  # noqa: E402
from minirsa.models.checkpoint import BUILDERS  # noqa: E402
from minirsa.training import checkpoints  # noqa: E402
from minirsa.training.engine import train  # noqa: E402


def die_at_rename(number):
    """Kill this process just before the rename of that number, from 0."""
    rename, calls = os.replace, iter(range(10**6))

    def replace(*paths):
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths)

    checkpoints.os.replace = replace


def poison(name):
    """Turn the clip of this name into numbers that are none."""
    draw = MotionDataset.batch

    def batch(self, indices, device="cpu"):
        found = draw(self, indices, device)
        for row, own in enumerate(found.names):
            if own == name:
                found.videos[row] = float("nan")
        return found

    MotionDataset.batch = batch


def count_at_the_end(report):
    """Put into the report how many DistributedDataParallel still live when torch's process group is taken down."""
    destroy = torch.distributed.destroy_process_group

    def counted():
        alive = [thing for thing in gc.get_objects() if isinstance(thing, nn.parallel.DistributedDataParallel)]
        report["wrapped nets at the end"] = len(alive)
        destroy()

    torch.distributed.destroy_process_group = counted


def work(job, rank):
    BUILDERS["plain"] = Plain
    if job["world"] > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(job["world"]), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(job["port"]), "GLOO_SOCKET_IFNAME": "lo"}
    if "die_at_rename" in job:
        die_at_rename(job["die_at_rename"])
    if "poison" in job:
        poison(job["poison"])

    report = {}
    if job.get("count_at_the_end"):
        count_at_the_end(report)

    def hear(row):
        if job.get("interrupt") == [row["kind"], row.get("epoch"), row.get("step")]:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        result = train(tiny(**job["recipe"]), job["output"], data_root=job.get("root"), on_event=hear, device="cpu")
    except (ValueError, FloatingPointError, OSError) as error:
        return 1, str(error)
    return result.exit_code, report | {"epoch": result.epoch, "step": result.step, "finished": result.finished}


def main():
    for line in sys.stdin:
        job = json.loads(line)
        pids = []
        for rank in range(job["world"]):
            report = Path(job["output"] + f".rank{rank}.json")
            report.unlink(missing_ok=True)
            pid = os.fork()
            if pid == 0:
                code = 70
                try:
                    code, text = work(job, rank)
                    report.write_text(json.dumps(text))
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            pids.append(pid)
        print(json.dumps(pids), flush=True)
        answers = []
        for rank, pid in enumerate(pids):
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            report = Path(job["output"] + f".rank{rank}.json")
            answers.append([code, json.loads(report.read_text()) if report.is_file() else None])
        print(json.dumps(answers), flush=True)


main()
