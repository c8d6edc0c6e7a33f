from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from gorp.errors import GorpError, InputError
from gorp.report.record import LayerMeter, RunRecord, Stage


def test_a_record_survives_saving_and_loading(record: RunRecord, tmp_path: Path) -> None:
    path = record.save(tmp_path)
    assert path == tmp_path / "record.json"
    assert RunRecord.load(tmp_path) == record == RunRecord.load(path)
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


def test_values_that_are_not_finite_survive(record: RunRecord, tmp_path: Path) -> None:
    record.stages[0].train_loss = [(1, math.nan), (2, math.inf)]
    loaded = RunRecord.load(record.save(tmp_path))
    assert math.isnan(loaded.stages[0].train_loss[0][1])
    assert loaded.stages[0].train_loss[1] == (2, math.inf)
    assert loaded.comparable() == record.comparable()


def test_the_matrix_is_placed_by_stage_index_and_padded(make_record: Callable[..., RunRecord]) -> None:
    joint = make_record(3, "joint")
    assert joint.matrix[:2] == [[None] * 3] * 2
    assert joint.matrix[2] == [79.0, 80.5, 82.0]
    later = RunRecord(
        name="r", method="gorp", model="m", stream="s", tasks=["a", "b"], stages=[Stage(index=0, task="a", scores=[9])]
    )
    assert later.matrix == [[9.0, None]]
    assert later.zero_shot_row == [None, None]


def test_the_summary_has_the_four_figures(record: RunRecord) -> None:
    summary = record.summary()
    assert summary["AP"] == pytest.approx(81.0)
    assert summary["BWT"] == pytest.approx(-1.25)
    assert summary["FWT"] == pytest.approx(0.0)
    assert summary["forgetting"] == pytest.approx(1.25)


def test_what_joint_leaves_undefined_is_none(make_record: Callable[..., RunRecord]) -> None:
    summary = make_record(3, "joint").summary()
    assert summary.pop("AP") == pytest.approx(80.5)
    assert set(summary.values()) == {None}


def test_a_run_without_stages_has_no_figures() -> None:
    empty = RunRecord(name="r", method="gorp", model="m", stream="s", tasks=["a"])
    assert empty.matrix == []
    assert set(empty.summary().values()) == {None}


def test_comparable_leaves_out_what_differs_between_equal_runs(record: RunRecord) -> None:
    other = record.model_copy(deep=True)
    other.name, other.environment = "elsewhere", {"python": "3.12"}
    other.stages[0].seconds = {"train": 1.0}
    assert other.comparable() == record.comparable()
    other.stages[0].scores[0] = 1.0
    assert other.comparable() != record.comparable()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: text.replace('"format_version": 1', '"format_version": 7'), "'format_version' is 7"),
        (lambda text: text.replace('"format_version": 1,', ""), "'format_version' is missing"),
        (lambda text: text.replace('"method": "gorp",', '"methud": "gorp",'), "'method'"),
        (lambda text: text.replace('"steps": 100', '"steps": "many"', 1), "'stages.0.steps'"),
        (lambda text: text.replace('"index": 1,', '"index": 0,'), "stages.index must increase"),
        (lambda text: "[]", "expected a JSON object"),
        (lambda text: "", "not valid JSON"),
    ],
)
def test_a_damaged_record_is_refused_by_file_and_key(
    record: RunRecord, tmp_path: Path, damage: Callable[[str], str], said: str
) -> None:
    path = tmp_path / "record.json"
    path.write_text(damage(record.model_dump_json(indent=1)))
    with pytest.raises(InputError) as caught:
        RunRecord.load(tmp_path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_changed_record_is_refused(record: RunRecord, tmp_path: Path) -> None:
    path = record.save(tmp_path)
    path.write_text(path.read_text().replace('"steps": 100', '"steps": 101', 1))
    with pytest.raises(InputError, match=r"record\.json: is damaged, or was changed .*remove that key to take it as"):
        RunRecord.load(tmp_path)


def test_a_missing_or_undecodable_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such record"):
        RunRecord.load(tmp_path)
    (tmp_path / "record.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="UTF-8"):
        RunRecord.load(tmp_path)


def test_more_scores_than_tasks_are_refused(record: RunRecord, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    plain = json.loads(record.model_dump_json())
    plain["stages"][2]["scores"].append(1.0)
    path.write_text(json.dumps(plain))
    with pytest.raises(InputError, match=r"stages\.2\.scores has 6 scores for 5 tasks"):
        RunRecord.load(path)


def test_a_failed_write_leaves_the_old_record(
    record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record.save(tmp_path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    record.name = "changed"
    with pytest.raises(GorpError, match="No space left"):
        record.save(tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize(
    ("leak", "bound", "leaks"), [(1e-7, 1e-6, False), (1e-5, 1e-6, True), (math.nan, 1e-6, True), (None, None, False)]
)
def test_a_leak_above_its_bound_or_unknown_counts(leak: float | None, bound: float | None, leaks: bool) -> None:
    assert LayerMeter(leak=leak, leak_bound=bound).leaks is leaks


def test_the_fuller_side_says_how_full_a_layer_is() -> None:
    assert LayerMeter(rank=10, width=100, cap=50).fullness == pytest.approx(0.2)
    assert LayerMeter(rank=10, width=100, cap=50, output_rank=20, output_width=80).fullness == pytest.approx(0.5)
    assert LayerMeter(rank=0, width=100, cap=0).fullness == 0.0
