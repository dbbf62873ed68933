"""The space-time cost benchmark: its formulas are the counters', memory without contents is memory, ratios are sums."""

import json
import math

import pytest
import torch

from benchmarks import space_time_cost as cost
from benchmarks.provenance import ROOT
from minirsa import complexity
from minirsa.models.timesformer import SCHEMES

RESULTS = ROOT / "benchmarks" / "results" / "space_time_cost.json"


@pytest.fixture(scope="module")
def committed():
    return json.loads(RESULTS.read_text())


def inputs(frames, size, width):
    grid = cost.grid_of(frames, size)
    return torch.randn(1, *grid, width), torch.randn(1, 1, width)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("frames", "size"), [(2, 32), (4, 64), (6, 96)])
def test_formulas_are_what_the_counter_counts(scheme, frames, size):
    with torch.device("meta"):
        block = cost.Block(scheme, 24, 4)
        counted = complexity.measure(block, *inputs(frames, size, 24)).macs
    assert counted == cost.attention_macs(scheme, frames, size, 24) + cost.linear_macs(scheme, frames, size, 24)


def test_formulas_of_the_model_are_the_published_counts():
    for scheme, gmacs in (("space", 140.5), ("joint", 179.56), ("divided", 195.83)):
        assert sum(cost.model_macs(scheme, 8, 224)) / 1e9 == pytest.approx(gmacs, rel=1e-3)
    assert sum(cost.model_macs("divided", 96, 224)) / 1e9 == pytest.approx(2379.86, rel=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("written_out", [False, True])
def test_memory_counted_without_contents_is_that_of_a_real_pass(scheme, written_out):
    block, (patches, token) = cost.Block(scheme, 24, 4), inputs(4, 64, 24)
    patches.requires_grad_()
    token.requires_grad_()
    real = cost.kept_bytes(lambda: block(patches, token, written_out), block.parameters())
    shapes = [tuple(patches.shape), tuple(token.shape)]
    assert cost.kept_without_contents(block, shapes, return_weights=written_out) == real


def test_written_out_weights_are_kept_and_fused_ones_are_not():
    heads, grid = 4, cost.grid_of(4, 128)
    n, shapes = math.prod(grid) + 1, [(1, *grid, 24), (1, 1, 24)]
    block = cost.Block("joint", 24, heads)
    fused, full = (cost.kept_without_contents(block, shapes, return_weights=weights) for weights in (False, True))
    assert full - fused == pytest.approx(4 * heads * n**2, rel=0.05)


def test_kept_bytes_of_a_product_are_its_factors():
    x, weight = torch.randn(5, 3, requires_grad=True), torch.randn(3, 7, requires_grad=True)
    assert cost.kept_bytes(lambda: x @ weight, [weight]) == 5 * 3 * 4
    assert cost.kept_bytes(lambda: x @ weight, []) == (5 * 3 + 3 * 7) * 4
    with pytest.raises(ValueError, match="needs a gradient"):
        cost.kept_bytes(lambda: x.detach() @ weight.detach(), [])


def test_crossings_are_where_the_counts_cross():
    found = cost.crossing(cost.dearer_than_linear)
    for frames, size in ((found["frames"], 224), (8, found["size"])):
        attention, rest = cost.model_macs("joint", frames, size)
        assert attention > rest
    for frames, size in ((found["frames"] - 1, 224), (8, found["size"] - cost.PATCH)):
        attention, rest = cost.model_macs("joint", frames, size)
        assert attention <= rest
    # 2 n^2 D > 12 n D^2 as soon as n > 6 D, but for the patch embedding
    assert found["frames"] == math.ceil(6 * cost.WIDTH / 196)


def test_blocks_times_are_those_of_its_own_passes(monkeypatch):
    monkeypatch.setattr(cost, "TIMED", dict.fromkeys(SCHEMES, cost.PASSES))
    monkeypatch.setattr(cost, "pass_seconds", lambda scheme, frames, size, which: 2.0 if size == 224 else 3.0)
    result = cost.one_round(8, 336)
    assert set(result) == set(SCHEMES) - {"local_global"}  # 21 x 21 patches
    assert result["joint"] == dict.fromkeys(cost.PASSES, 1.5)
    assert set(cost.one_round(8, 448)) == set(SCHEMES)


def test_passes_that_are_too_long_are_left_out(monkeypatch):
    assert cost.timed("divided", 8, 224) == list(cost.PASSES)
    assert cost.timed("joint", 96, 224) == []
    assert cost.timed("space", 8, 224) == ["forward"]
    assert cost.timed("local_global", 8, 336) == []
    monkeypatch.setattr(cost, "LIMITS", dict.fromkeys(cost.PASSES, 1e18))
    assert cost.timed("joint", 96, 224) == list(cost.PASSES)


@pytest.mark.parametrize("which", cost.PASSES)
@pytest.mark.parametrize("scheme", ["joint", "divided", "axial"])
def test_a_pass_takes_time(scheme, which):
    assert cost.pass_seconds(scheme, 2, 32, which, width=24, heads=4) > 0


@pytest.fixture
def record():
    """Two rounds in which joint takes T^2 N^2 and divided T N, at every point."""
    rounds = {}
    for frames, size in cost.POINTS:
        n = frames * (size // 16) ** 2
        rounds[cost.name(frames, size)] = [
            {"joint": {"forward": noise * n**2}, "divided": {"forward": noise * n}} for noise in (1.0, 2.0)
        ]
    blank = {"macs": 1, "attention macs": 1, "kept bytes": 1, "kept bytes, weights": 1}
    rows = [
        {"scheme": scheme, "frames": frames, "size": size, **blank}
        for scheme in SCHEMES
        for frames, size in cost.POINTS
        if cost.fits(scheme, frames, size)
    ]
    return {"model": rows, "block": rows, "rounds": rounds}


def test_exponents_are_those_of_each_round(record):
    found = cost.exponents(record)
    for axis in ("frames", "patches"):
        joint, divided = found[axis]["joint"], found[axis]["divided"]
        assert joint["forward"]["all"] == {"exponent": 2.0, "lowest": 2.0, "highest": 2.0}
        assert divided["forward"]["largest two"]["exponent"] == 1.0
        assert joint["forward"]["macs"] == {"all": 0.0, "largest two": 0.0}
        assert joint["forward+backward"] is None
    assert found["frames"]["joint"]["points"] == [8, 16, 32, 64, 96]
    assert found["patches"]["joint"]["points"] == [196, 441, 784, 1225]
    assert found["patches"]["local_global"]["points"] == [196, 784]


def test_joint_is_compared_with_divided_within_a_round(record):
    table = cost.joint_to_divided(record)
    assert [(row["frames"], row["size"]) for row in table] == cost.POINTS
    for row in table:
        n = row["frames"] * (row["size"] // 16) ** 2
        assert row["forward"] == {"time": n, "lowest": n, "highest": n}
        assert row["forward+backward"] is None
        assert row["model: macs"] == 1


def test_attentions_share_is_taken_within_a_round():
    row = {"scheme": "joint", "frames": 8, "size": 224}
    rounds = [{"joint": {"forward": 2.0, "attention alone": 1.0}}, {"joint": {"forward": 10.0, "attention alone": 3.0}}]
    got = cost.with_times(row, {"8 x 224": rounds})
    assert got["attention share"] == {"time": 0.4, "lowest": 0.3, "highest": 0.5}
    assert got["forward+backward"] is None


def test_summary_is_median_lowest_and_highest():
    assert cost.summary([3.0, 1.0, 2.0]) == {"time": 2.0, "lowest": 1.0, "highest": 3.0}
    assert cost.fit([8, 16, 32], [1, 2, 8]) == {"all": 1.5, "largest two": 2.0}
    assert cost.fit([8], [1]) is None


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cost.grid_of(0, 224), "at least one frame"),
        (lambda: cost.grid_of(8, 225), "16 divides"),
        (lambda: cost.grid_of(8, 0), "16 divides"),
        (lambda: cost.fits("diagonal", 8, 224), "diagonal"),
        (lambda: cost.pass_seconds("joint", 2, 32, "backward"), "backward"),
        (lambda: cost.first(lambda value: value > 3, range(3)), "none"),
    ],
)
def test_errors_say_what_was_expected(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("arguments", [["--rounds", "-1"], ["--minutes", "-2"]])
def test_nonsense_on_the_command_line_is_refused(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["space_time_cost.py", *arguments])
    with pytest.raises(SystemExit):
        cost.main()
    assert "from 0" in capsys.readouterr().err


def test_the_command_resumes_and_stops_in_time(monkeypatch, tmp_path, capsys):
    path, counts = tmp_path / "cost.json", {"macs": 2, "attention macs": 1, "kept bytes": 1, "kept bytes, weights": 3}
    monkeypatch.setattr(cost, "count_model", lambda *args: counts)
    monkeypatch.setattr(cost, "count_block", lambda *args: counts)
    monkeypatch.setattr(cost, "pass_seconds", lambda *args: 1.0)
    threads = torch.get_num_threads()
    try:
        for arguments in (["--rounds", "1"], ["--rounds", "3"], ["--rounds", "9", "--minutes", "0"]):
            monkeypatch.setattr("sys.argv", ["space_time_cost.py", *arguments, "--output", str(path)])
            cost.main()
            monkeypatch.setattr(cost, "count_model", None)  # what is counted is not counted again
    finally:
        torch.set_num_threads(threads)
    record = json.loads(path.read_text())
    assert {len(rounds) for rounds in record["rounds"].values()} == {3}
    row = record["joint to divided"][0]
    assert (row["model: macs"], row["forward"]["time"]) == (1, 1)
    assert capsys.readouterr().out.count("\n") == 3 * len(cost.POINTS)


KEYS = {"scheme", "frames", "size", "macs", "attention macs", "kept bytes", "kept bytes, weights"}


def test_committed_counts_are_of_this_code(committed):
    assert committed["crossings"]["attention above linear layers"] == cost.crossing(cost.dearer_than_linear)
    assert committed["crossings"]["joint above divided"] == cost.crossing(cost.dearer_than_divided)
    for part, count, extra in (
        ("model", cost.count_model, {"params"}),
        ("block", cost.count_block, {*cost.PASSES, "attention share"}),
    ):
        stored = {(row["scheme"], row["frames"], row["size"]): row for row in committed[part]}
        assert list(stored) == [(s, *point) for s in SCHEMES for point in cost.POINTS if cost.fits(s, *point)]
        assert all(set(row) == KEYS | extra for row in stored.values())
        for point in (("joint", 8, 448), ("divided", 8, 448)):
            assert stored[point].items() >= count(*point).items()


def test_committed_times_are_of_the_committed_rounds(committed):
    assert committed["provenance"]["command"].startswith("python -m benchmarks.space_time_cost")
    assert "1 threads" in committed["provenance"]["hardware"]
    assert min(len(rounds) for rounds in committed["rounds"].values()) >= 1
    for row in committed["block"]:
        assert row == cost.with_times(row, committed["rounds"])
        timed = cost.timed(row["scheme"], row["frames"], row["size"])
        for which in cost.PASSES:
            assert (row[which] is not None) == (which in timed)
            assert which not in timed or row[which]["lowest"] <= row[which]["time"] <= row[which]["highest"]
    assert committed["joint to divided"] == cost.joint_to_divided(committed)
    assert committed["exponents"] == cost.exponents(committed)
