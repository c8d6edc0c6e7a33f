from __future__ import annotations

from collections.abc import Callable

from gorp.report import words
from gorp.report.pair import pair_runs
from gorp.report.record import RunRecord

MakeRecord = Callable[..., RunRecord]


def counted(record: RunRecord, rows: int = 200) -> RunRecord:
    record.scored_rows = dict.fromkeys([*record.tasks, *record.unseen_zero_shot], rows)
    return record


def test_tasks_of_both_come_first_and_have_a_verdict_each(make_record: MakeRecord) -> None:
    ours, theirs = counted(make_record(["a", "b", "c"])), counted(make_record(["d", "a", "b"], "seq-lora"))
    ours.stages[-1].scores = [90.0, 50.0, 80.0]
    theirs.stages[-1].scores = [70.0, 70.0, 51.0]
    pair = pair_runs(ours, theirs)
    assert [(task.name, task.value, task.verdict) for task in pair.tasks] == [
        ("a", 20.0, "higher"),
        ("b", -1.0, "not shown to differ"),
        ("c", None, ""),
        ("d", None, ""),
    ]
    assert pair.mean is not None
    assert (pair.mean.value, pair.mean.verdict) == (9.5, "higher")
    (told,) = words.against(pair)
    assert told.text.startswith("gorp-0 less seq-lora-0: +9.5 points on average at the end (95% interval +")
    assert told.text.endswith("Of 2 tasks: 1 higher, 1 not shown to differ.")


def test_no_interval_where_rows_or_scores_are_missing(make_record: MakeRecord) -> None:
    ours, theirs = counted(make_record(2)), make_record(2, "seq-lora", lost_per_stage=30)
    pair = pair_runs(ours, theirs)
    assert {(task.interval, task.verdict) for task in pair.tasks} == {(None, "")}
    assert words.against(pair)[0].text == "gorp-0 less seq-lora-0: +14.8 points on average at the end."
    assert words.against(pair_runs(ours, make_record(["other"])))[0].text.startswith("No task was learnt")


def test_tasks_never_learnt_are_told_but_not_in_the_mean(make_record: MakeRecord) -> None:
    runs = [make_record(1), make_record(1, "seq-lora")]
    for run, score in zip(runs, (40.0, 10.0), strict=True):
        run.unseen_zero_shot, run.stages[0].unseen = {"never": 50.0}, {"never": score}
        counted(run)
    pair = pair_runs(*runs)
    assert [(task.name, task.value, task.verdict) for task in pair.tasks] == [
        ("task-1", 0.0, "not shown to differ"),
        ("never", 30.0, "higher"),
    ]
    assert pair.mean is not None
    assert pair.mean.value == 0.0


def test_settings_and_layers_that_differ(make_record: MakeRecord) -> None:
    ours, theirs = make_record(2, layers=3), make_record(2, layers=2)
    theirs.config = {"method": {"name": "gorp", "energy": 0.9}, "seed": 0, "rank": 4}
    theirs.stages[-1].layers["encoder.block.0.SelfAttention.q"].drift = {"task-1": 0.5}
    pair = pair_runs(ours, theirs)
    assert pair.settings == (("rank", "8", "4"), ("method.energy", "(not set)", "0.9"))
    assert [layer.name[-len("0.SelfAttention.q") :] for layer in pair.layers] == [
        "0.SelfAttention.q",
        "2.SelfAttention.q",
    ]
    assert pair.layers[1].theirs is None
    assert pair.alike == 1


def test_a_run_does_not_differ_from_itself(make_record: MakeRecord) -> None:
    pair = pair_runs(counted(make_record()), counted(make_record()))
    assert (pair.settings, pair.layers, pair.alike) == ((), (), 3)
    assert {task.verdict for task in pair.tasks} == {"not shown to differ"}
