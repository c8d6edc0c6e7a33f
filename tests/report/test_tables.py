from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pytest
from rich.console import Console

from gorp.report.comparison import Spread, group_runs
from gorp.report.record import RunRecord
from gorp.report.tables import comparison_grid, matrix_grid, needs_compact, scores_csv, to_markdown, to_rich
from gorp.report.terminal import print_records

MakeRecord = Callable[..., RunRecord]


def printed(*records: RunRecord, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_records(records, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_matrix_has_a_zero_shot_row_and_a_row_per_stage(make_record: MakeRecord) -> None:
    grid = matrix_grid(make_record(2))
    assert grid.header == ("after learning", "task-1", "task-2")
    assert grid.rows == (
        ("zero-shot", "10.0", "11.0"),
        ("1 task-1", "80.0", "11.0"),
        ("2 task-2", "79.5", "81.0"),
        ("change since", "\N{MINUS SIGN}0.5", "\N{EN DASH}"),
    )


def test_joint_has_one_row_for_all_tasks(make_record: MakeRecord) -> None:
    assert [row[0] for row in matrix_grid(make_record(3, "joint")).rows] == ["zero-shot", "3 all 3 tasks"]


def test_a_single_task_needs_no_change_row(make_record: MakeRecord) -> None:
    assert [row[0] for row in matrix_grid(make_record(1)).rows] == ["zero-shot", "1 task-1"]


def test_a_title_wider_than_its_table_is_whole(make_record: MakeRecord) -> None:
    record = make_record(1)
    title, words = matrix_grid(record).title, printed(record).split()
    assert len(title) > 24 and words[: len(title.split())] == title.split()


def test_fifteen_tasks_fit_a_terminal(make_record: MakeRecord) -> None:
    record = make_record(15)
    assert needs_compact(record)
    text = printed(record)
    assert "…" not in text
    assert "94" in text


def test_no_two_groups_have_one_label(make_record: MakeRecord) -> None:
    def labels(*changes: dict[str, object]) -> list[str]:
        return [group.label for group in group_runs([make_record().model_copy(update=change) for change in changes])]

    first, other = {"name": "a", "stream": "s/1"}, {"config": {"method": "gorp", "training": {"lr": 1.0}}}
    assert labels(first, {**first, **other, "name": "b"}) == ["gorp (a)", "gorp (b)"]
    assert labels(first, {**first, "stream": "s/2"}) == ["gorp (s/1)", "gorp (s/2)"]
    assert labels(first, {**first, **other}) == ["gorp (1)", "gorp (2)"]


def test_seeds_of_a_method_become_one_row_with_a_spread(make_record: MakeRecord) -> None:
    groups = group_runs([*(make_record(seed=seed) for seed in (0, 1, 2)), make_record(method="seq-lora")])
    assert [(group.label, len(group.records)) for group in groups] == [("gorp", 3), ("seq-lora", 1)]
    rows = comparison_grid(groups).rows
    assert rows[0][:3] == ("gorp", "3", "82.0 ± 1.0")
    assert rows[1][:3] == ("seq-lora", "1", "81.0")


def test_what_no_run_measured_has_no_column(make_record: MakeRecord) -> None:
    record = make_record(2)
    record.zero_shot = [None, None]
    assert "FWT" not in comparison_grid(group_runs([record])).header
    assert "FWT" in comparison_grid(group_runs([record, make_record(2, "seq-lora")])).header


def test_runs_of_one_method_that_are_set_up_differently_stay_apart(make_record: MakeRecord) -> None:
    low, high = make_record(name="low"), make_record(name="high")
    high.config = {**high.config, "rank": 64}
    assert [group.label for group in group_runs([low, high])] == ["gorp (low)", "gorp (high)"]


def test_a_spread_is_undefined_where_a_run_is() -> None:
    assert Spread.of([1.0, None]) is None
    assert Spread.of([]) is None
    spread = Spread.of([1.0, 3.0])
    assert spread is not None
    assert spread.mean == 2.0
    assert spread.deviation == pytest.approx(2**0.5)


def test_names_cannot_break_the_tables() -> None:
    from gorp.report.tables import Grid

    grid = Grid("[red]t[/red]", ("a|b", "x"), (("<i>[bold]", "1"),))
    assert to_markdown(grid).splitlines()[2:] == ["| a\\|b | x |", "| --- | ---: |", r"| &lt;i>\[bold\] | 1 |"]
    console = Console(file=io.StringIO(), width=60)
    console.print(to_rich(grid))
    assert isinstance(console.file, io.StringIO)
    assert "<i>[bold]" in console.file.getvalue()


def test_the_csv_has_every_measured_score_once(make_record: MakeRecord) -> None:
    records = [make_record(2), make_record(2, "joint")]
    rows = list(csv.DictReader(io.StringIO(scores_csv(records))))
    assert len(rows) == 6 + 4
    assert list(rows[4].values()) == ["gorp-0", "gorp", "0", "2", "task-2", "task-1", "79.5"]


def test_the_terminal_says_what_was_learnt_and_compares(make_record: MakeRecord) -> None:
    text = printed(make_record(), make_record(method="seq-lora", lost_per_stage=5), width=120)
    assert "All 5 tasks are learnt" in text
    assert "the most was lost on task-1" in text
    assert text.rstrip().splitlines()[-1].split()[:3] == ["seq-lora", "1", "72.0"]
