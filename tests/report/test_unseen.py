"""What the tables and the page say about tasks that are never learnt, and about how tasks are scored."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest

from gorp.report.comparison import group_runs
from gorp.report.html import render_report
from gorp.report.record import RunRecord
from gorp.report.tables import comparison_grid, scores_csv, unseen_grid
from gorp.report.words import findings, scoring

MakeRecord = Callable[..., RunRecord]


@pytest.fixture
def measured(make_record: MakeRecord) -> RunRecord:
    """Two tasks learnt, two more measured: 10 and 30 before, then 20 and 30, then 40 and 35."""
    record = make_record(2)
    record.unseen_zero_shot = {"x": 10.0, "y": 30.0}
    record.stages[0].unseen = {"x": 20.0, "y": 30.0}
    record.stages[1].unseen = {"x": 40.0, "y": 35.0}
    return record


def test_the_table_has_a_row_per_task_and_their_mean(measured: RunRecord, make_record: MakeRecord) -> None:
    grid = unseen_grid(measured)
    assert grid is not None
    assert grid.header[1:] == ("zero-shot", "1", "2")
    assert grid.rows == (
        ("x", "10.0", "20.0", "40.0"),
        ("y", "30.0", "30.0", "35.0"),
        ("mean", "20.0", "25.0", "37.5"),
    )
    assert unseen_grid(make_record(2)) is None


def test_joint_training_is_measured_once(make_record: MakeRecord) -> None:
    joint = make_record(3, "joint")
    joint.unseen_zero_shot, joint.stages[0].unseen = {"x": 10.0}, {"x": 20.0}
    assert joint.unseen_matrix == [[None], [None], [20.0]]
    grid = unseen_grid(joint)
    assert grid is not None
    assert grid.header[1:] == ("zero-shot", "3")


def test_the_mean_stands_beside_the_other_figures(measured: RunRecord, make_record: MakeRecord) -> None:
    assert measured.summary()["unseen"] == pytest.approx(37.5)
    assert any("The 2 tasks never learnt score on average 37.5, 20.0 before any" in f.text for f in findings(measured))
    groups = group_runs([measured, make_record(2, "seq-lora")])
    grid = comparison_grid(groups)
    assert [row[grid.header.index("unseen")] for row in grid.rows] == ["37.5", "\N{EN DASH}"]
    assert "unseen" not in comparison_grid(group_runs([make_record(2)])).header


def test_runs_that_measure_other_tasks_do_not_repeat_each_other(measured: RunRecord) -> None:
    other = measured.model_copy(deep=True)
    del other.unseen_zero_shot["y"]
    assert len(group_runs([measured, other])) == 2


def test_the_csv_has_them_last(measured: RunRecord) -> None:
    rows = list(csv.reader(io.StringIO(scores_csv([measured]))))[1:]
    assert [row[3:] for row in rows[-6:]] == [
        ["0", "", "x", "10.0"],
        ["0", "", "y", "30.0"],
        ["1", "task-1", "x", "20.0"],
        ["1", "task-1", "y", "30.0"],
        ["2", "task-2", "x", "40.0"],
        ["2", "task-2", "y", "35.0"],
    ]


def test_the_page_shows_them_where_there_are_any(measured: RunRecord, make_record: MakeRecord) -> None:
    page = render_report([measured])
    assert "<h2>Tasks never learnt</h2>" in page
    assert '<dd data-figure="unseen">37.5</dd>' in page
    assert "unseen the mean score of the tasks that are never learnt" in render_report([measured, make_record(2)])
    assert "never learnt" not in render_report([make_record(2), make_record(2, "joint")])


def test_it_is_said_how_tasks_are_scored(measured: RunRecord, make_record: MakeRecord) -> None:
    assert scoring([measured]) == "exact match"
    assert "Score in percent, by exact match." in render_report([measured])
    measured.scored_by = {"task-2": "rouge_l", "x": "rouge_l"}
    assert scoring([measured]) == "exact match (task-1, y) and ROUGE-L (task-2, x)"
    record = make_record(2)
    record.scored_by = dict.fromkeys(record.tasks, "rouge_l")
    assert "scoring on average 80.2 by ROUGE-L" in findings(record)[0].text
    assert "Score in percent, by ROUGE-L." in render_report([record])
