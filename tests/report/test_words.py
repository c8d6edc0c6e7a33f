from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gorp.report.comparison import group_runs
from gorp.report.layers import digest_layers
from gorp.report.record import RunRecord
from gorp.report.words import change, changes_since_learnt, compare, findings, score, share, small, stage_label

MakeRecord = Callable[..., RunRecord]


def said(record: RunRecord, kind: str) -> str:
    return " ".join(finding.text for finding in findings(record) if finding.kind == kind)


def test_figures_are_printed_with_true_signs() -> None:
    assert [score(value) for value in (91.24, -3.15, -0.01, None)] == [
        "91.2",
        "\N{MINUS SIGN}3.1",
        "0.0",
        "\N{EN DASH}",
    ]
    assert [change(value) for value in (0.5, 0.04, -0.5)] == ["+0.5", "0.0", "\N{MINUS SIGN}0.5"]
    assert small(3.14e-7) == "3.1e\N{MINUS SIGN}07"
    assert share(0.423) == "42%"


def test_a_good_run_has_no_warnings(make_record: MakeRecord) -> None:
    record = make_record(lost_per_stage=0.1)
    assert said(record, "warning") == ""
    assert "All 5 tasks are learnt, scoring on average 81.8, from 12.0 before any learning." in said(record, "news")
    assert "Nothing was forgotten" in said(record, "news")
    assert "of the room for protected directions is still free" in said(record, "news")


def test_the_task_that_lost_most_is_named(make_record: MakeRecord) -> None:
    assert "the most was lost on task-1 (\N{MINUS SIGN}20.0)" in said(make_record(lost_per_stage=5), "news")


@pytest.mark.parametrize("leak", [1e-3, math.nan])
def test_a_leak_above_its_bound_is_flagged(make_record: MakeRecord, leak: float) -> None:
    record = make_record(leak=leak)
    assert "1 layer changed on protected directions" in said(record, "warning")
    assert "encoder.block.1.SelfAttention.q" in said(record, "warning")
    assert digest_layers(record)[0].name == "encoder.block.1.SelfAttention.q"


def test_a_method_that_promises_nothing_is_not_accused(make_record: MakeRecord) -> None:
    assert said(make_record(method="seq-lora", leak=1e-1), "warning") == ""


def test_frozen_layers_skipped_steps_and_unfinished_runs_are_flagged(make_record: MakeRecord) -> None:
    record = make_record(15, finished=False)
    record.stages[1].skipped_steps = 2
    warnings = said(record, "warning")
    assert "This run is not finished." in warnings
    assert "3 layers are full and frozen" in warnings
    assert "2 training steps were skipped" in warnings
    assert "No room is left" in said(record, "news")


def test_a_run_that_has_learnt_nothing_says_so() -> None:
    empty = RunRecord(name="r", method="gorp", model="m", stream="s", tasks=["a", "b"])
    assert said(empty, "warning") == "Nothing is learnt yet: 2 tasks to go."
    assert changes_since_learnt(empty) == [None, None]


def test_joint_training_is_not_said_to_forget(make_record: MakeRecord) -> None:
    record = make_record(3, "joint")
    assert stage_label(record, 2) == "all 3 tasks"
    assert changes_since_learnt(record) == [None] * 3
    assert "lost" not in said(record, "news")


def test_methods_are_ranked_by_their_average(make_record: MakeRecord) -> None:
    runs = [
        make_record(method="seq-lora", lost_per_stage=5),
        make_record(),
        make_record(seed=1),
        make_record(3, "joint"),
    ]
    texts = [finding.text for finding in compare(group_runs(runs))]
    assert texts[0].startswith(
        "gorp (mean of 2 runs) ends at 81.5 on average; earlier tasks changed by \N{MINUS SIGN}1.2"
    )
    assert texts[1] == "joint ends at 80.5 on average."
    assert texts[2].startswith("seq-lora ends at 72.0")
