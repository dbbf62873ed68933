"""One function, many tasks, several processes: results as they come, and no task is lost when a process dies.

    run_all(function, tasks, workers) -> (task, result), (task, result), ...

A decoder that meets a broken file may take its whole process down with it. Then the tasks that were under way are run
again, each alone, and the one that does it again comes back as `WorkerDied`. Processes end when the one that started
them does, however that ended. Book: chapter 16, "A data set on disk".
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import Any

__all__ = ["WorkerDied", "run_all"]


@dataclass(frozen=True)
class WorkerDied:
    """In the place of a result: the process that worked on this task ended without one."""


def run_all(function: Callable[[Any], Any], tasks: Iterable[Any], workers: int) -> Iterator[tuple[Any, Any]]:
    """``(task, function(task))`` of every task, in the order of finishing; 0 workers: in order, in this process.

    Function, tasks and results have to be picklable. What the function raises is raised here, and ends the run.
    """
    if workers == 0:
        for task in tasks:
            yield task, function(task)
        return
    tasks = iter(tasks)
    while True:
        suspects = yield from _run_pool(function, tasks, workers)
        if not suspects:
            return
        for task in suspects:
            again = yield from _run_pool(function, iter([task]), 1)
            if again:
                yield task, WorkerDied()


def _run_pool(function: Callable, tasks: Iterator, workers: int) -> Iterator[tuple[Any, Any]]:
    """Results until the tasks are used up or a process dies; returns the tasks that were under way then."""
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch and of decoders
    suspects = []
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start) as pool:
        running = {}
        while True:
            if not suspects:
                for task in islice(tasks, 2 * workers - len(running)):
                    try:
                        running[pool.submit(function, task)] = task
                    except BrokenProcessPool:
                        suspects.append(task)
                        break
            if not running:
                return suspects
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                task = running.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    suspects.append(task)
                else:
                    yield task, result


def _start() -> None:
    """In a new process: leave Ctrl-C to the parent, and leave when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
