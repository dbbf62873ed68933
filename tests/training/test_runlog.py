"""The log of a run, its line on a terminal, its curves for TensorBoard."""

import io
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minirsa.training.engine import train
from minirsa.training.runlog import LOG, ProgressLine, RunLog, read_log

from .conftest import tiny


def test_rows_come_back_and_those_after_the_checkpoint_are_cut(tmp_path):
    log = RunLog(tmp_path, keep=0, writes=True)
    for step in range(3):
        log.write({"kind": "train", "step": step})
    log.sync()
    log.close()
    again = RunLog(tmp_path, keep=2, writes=True)
    again.write({"kind": "train", "step": 7})
    again.close()
    again.close()
    assert [row["step"] for row in read_log(tmp_path)] == [0, 1, 7]
    assert again.rows == 3


def test_other_processes_count_rows_and_write_none(tmp_path):
    log = RunLog(tmp_path, keep=0, writes=False)
    log.write({"kind": "train"})
    assert log.rows == 1
    assert not list(tmp_path.iterdir())


def test_a_row_that_is_no_json_is_named_and_a_last_line_cut_short_is_left_out(tmp_path):
    (tmp_path / LOG).write_text('{"kind": "recipe"}\n{"kind": "tra')
    assert read_log(tmp_path) == [{"kind": "recipe"}]
    (tmp_path / LOG).write_text('{"kind": "recipe"}\nnothing\n')
    with pytest.raises(ValueError, match=r"line 2 of .*log\.jsonl is no row of a log"):
        read_log(tmp_path)


def test_tensorboard_has_the_curves_of_the_log(tmp_path):
    train(tiny(epochs=2), tmp_path, device="cpu", tensorboard=True)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    epochs = [row for row in read_log(tmp_path) if row["kind"] == "epoch"]
    losses = board.Scalars("epoch/loss")
    assert [event.step for event in losses] == [6, 12]
    assert [event.value for event in losses] == pytest.approx([row["loss"] for row in epochs])
    tops = [event.value for event in board.Scalars("epoch/validation/top1")]
    assert tops == pytest.approx([row["validation"]["top1"] for row in epochs])
    assert {"train/loss", "train/lr", "epoch/timing/clips_per_s"} <= set(board.Tags()["scalars"])


def test_without_tensorboard_the_wish_for_it_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    for name in ("torch.utils.tensorboard", "tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"pip install minirsa\[tensorboard\]"):
        RunLog(tmp_path, keep=0, writes=True, tensorboard=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_progress_line_is_written_over_and_leaves_nothing_behind():
    stream = Terminal()
    line = ProgressLine(stream)
    line.update("one")
    line.update("two")  # sooner than a fifth of a second after the first: not shown
    line.close()
    assert stream.getvalue() == "\r\x1b[Kone\r\x1b[K"


def test_where_there_is_no_terminal_nothing_is_shown():
    stream = io.StringIO()
    line = ProgressLine(stream)
    line.update("one")
    line.close()
    assert stream.getvalue() == ""
