"""What the demo claims, over three seeds. Slow: `make test PYTEST_ARGS='-m slow'`."""

from __future__ import annotations

from statistics import fmean

import pytest

from gorp.cli.demo import demo_config
from gorp.report.record import RunRecord
from gorp.run import run_stream
from gorp.run_setup import load_stream

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[RunRecord]]:
    out = tmp_path_factory.mktemp("demo")
    runs: dict[str, list[RunRecord]] = {}
    for method in ("gorp", "seq-lora", "joint"):
        configs = [demo_config(method, seed) for seed in SEEDS]
        runs[method] = [run_stream(c, out / f"{method}-{c.seed}", load_stream(c)) for c in configs]
    return runs


def mean(records: list[RunRecord], metric: str) -> float:
    values = [record.summary()[metric] for record in records]
    return fmean(value for value in values if value is not None)


@pytest.mark.slow
def test_the_unprotected_learner_forgets(records: dict[str, list[RunRecord]]) -> None:
    assert mean(records["seq-lora"], "BWT") <= -10


@pytest.mark.slow
def test_gorp_hardly_forgets(records: dict[str, list[RunRecord]]) -> None:
    assert mean(records["gorp"], "BWT") >= -2


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="not reached: docs/results.md has the figures and the reason")
def test_gorp_comes_near_joint_training(records: dict[str, list[RunRecord]]) -> None:
    assert mean(records["gorp"], "AP") >= mean(records["joint"], "AP") - 3


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="reached with seeds 0 and 1; topic is 68 with seed 2")
def test_joint_training_learns_every_task(records: dict[str, list[RunRecord]]) -> None:
    for record in records["joint"]:
        assert min(score for score in record.matrix[-1] if score is not None) >= 80


@pytest.mark.slow
def test_gorp_keeps_its_promise_in_every_layer_of_every_stage(records: dict[str, list[RunRecord]]) -> None:
    meters = [layer for record in records["gorp"] for stage in record.stages for layer in stage.layers.values()]
    measured = [meter for meter in meters if meter.leak is not None]
    assert measured
    assert not [meter for meter in measured if meter.leaks]
