"""Results of an experiment that nobody ran."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gorp.compare.results import CellResult, Results, Tuning

MakeResult = Callable[..., CellResult]


def result(cell: str, seed: int, final: tuple[float, float], learnt: float | None, method: str = "gorp") -> CellResult:
    first = [learnt, 10.0] if learnt is not None else [None, None]
    matrix = [first, list(final)]
    bwt = None if learnt is None else final[0] - learnt
    return CellResult(
        cell=cell,
        method=method,
        stream="two/1",
        seed=seed,
        tasks=["old_task", "new"],
        zero_shot=[1.0, 2.0],
        matrix=matrix,
        summary={"AP": sum(final) / 2, "BWT": bwt, "FWT": None, "forgetting": None},
        seconds={"train": 10.0 + seed, "memory": 1.0, "evaluate": 5.0},
        peak_memory_bytes=(500 + seed) * 10**6,
        config={"method": method},
        environment={"device": "cpu", "torch": "2.13"},
        tuning=Tuning(tried=[({"training.lr": 0.1}, 60.0), ({"training.lr": 0.2}, None)], chosen={"training.lr": 0.1}),
    )


@pytest.fixture
def results() -> Results:
    """Two cells that learn in turn, on three seeds, and joint training on one."""
    cells = [result("gorp", seed, (80.0 + seed, 60.0), 81.0) for seed in range(3)]
    cells += [result("<plain>", seed, (40.0 + seed, 62.0), 82.0, "seq-lora") for seed in range(3)]
    cells += [result("joint", 0, (85.0, 71.0), None, "joint")]
    return {f"{cell.cell}/two-1/{cell.seed}": cell for cell in cells}
