"""Every task comes back, also when a process dies over one; what the function raises is raised."""

import math

import pytest

from minirsa.data.parallel import WorkerDied, run_all

# Tasks for eval, which a new process finds without importing this file.
DEADLY = "__import__('os')._exit(3)"


@pytest.mark.parametrize("workers", [0, 2])
def test_every_result_comes_with_its_task(workers):
    results = dict(run_all(math.sqrt, [float(n) for n in range(20)], workers))
    assert results == {float(n): math.sqrt(n) for n in range(20)}


def test_a_task_that_kills_its_process_is_found_and_the_others_are_done():
    tasks = [f"{n} + 1" for n in range(12)]
    tasks.insert(5, DEADLY)
    results = list(run_all(eval, tasks, 2))
    assert sorted(task for task, _ in results) == sorted(tasks)
    for task, result in results:
        assert result == (WorkerDied() if task == DEADLY else int(task.split()[0]) + 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_function_raises_ends_the_run(workers):
    with pytest.raises(ValueError, match=r"math domain error|expected a nonnegative input"):
        list(run_all(math.sqrt, [1.0, -1.0, 4.0], workers))


def test_no_tasks_give_nothing():
    assert list(run_all(math.sqrt, [], 2)) == []
