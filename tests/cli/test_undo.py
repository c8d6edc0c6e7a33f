"""history, diff, rollback and retract, and a budget that is exceeded, from the command line."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from gorp.cli.main import main
from gorp.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(forgetful, tmp_path_factory):
    """A run that has learnt three tasks."""
    folder = tmp_path_factory.mktemp("undo")
    settings = {**forgetful, "method": "gorp", "training": {"epochs": 1, "batch_size": 16}, "gorp": {"rank": 2}}
    (folder / "desk.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as stop:
        main(["run", str(folder / "desk.yaml"), "--out", str(folder / "desk"), "--quiet"])
    assert not stop.value.code
    return folder / "desk"


def test_undoing_from_the_command_line(gorp, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "desk")
    code, out, _ = gorp("rollback", run, "--to", "animal")
    assert (code, out.splitlines()) == (
        0,
        [
            f"{run}: stands after task 'animal'",
            "no longer known: act; until something else is learnt, --to act puts them back",
        ],
    )
    code, out, _ = gorp("history", run)
    assert code == 0
    assert "3 act (rolled back)" in out and "rolled back to 'animal'" in out
    told = json.loads(gorp("history", run, "--json")[1])
    assert [(stage["task"], stage["rolled_back"]) for stage in told["stages"]] == [
        ("colour", False),
        ("animal", False),
        ("act", True),
    ]
    assert [event["kind"] for event in told["events"]] == ["learnt", "learnt", "learnt", "rolled back"]
    assert 'data-task="act"' not in (run / "report.html").read_text()
    assert gorp("rollback", run, "--to", "act")[1].splitlines()[1] == "put back: act"

    code, out, _ = gorp("retract", run, "act")
    assert code == 0
    assert "directions given back; it is protected no more" in out
    code, out, _ = gorp("retract", run, "act")
    assert (code, "its directions were given back before; it is protected no more" in out) == (0, True)
    assert "no longer wanted: act" in gorp("inspect", run)[1]
    assert "retracted 'act'" in gorp("history", run)[1]
    assert "no longer wanted" in (run / "report.html").read_text()
    told = json.loads(gorp("retract", run, "animal", "--json", "--tolerance", 0.5)[1])
    assert set(told["after"]) == {"colour"}
    assert told["after"]["colour"] <= told["before"]["colour"]


def test_a_task_that_only_waited_is_no_way_back(gorp, finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "desk")
    folder = RunFolder(run)
    waiting, record = replace(folder.tasks()[0], name="waiting"), folder.record()
    record.tasks.append("waiting")
    folder.add_tasks([waiting], record)
    again = shutil.copytree(run, tmp_path / "again")
    assert gorp("rollback", run, "--to", "act")[1].splitlines()[1] == "no longer known: waiting"
    out = gorp("rollback", again, "--to", "colour")[1]
    assert "animal, act, waiting; until something else is learnt, --to act puts them back" in out
    assert gorp("rollback", again, "--to", "act")[1].splitlines()[1] == "put back: animal, act, waiting"


def test_differences(gorp, finished):
    code, out, err = gorp("diff", finished, "colour", "act")
    assert code == 0, err
    assert "moved from colour to act" in out and "colour (old)" in out
    told = json.loads(gorp("diff", finished, "colour", "act", "--json")[1])
    assert all(layer["moved"] > 0 for layer in told["layers"].values())
    assert all(layer["shares"]["colour"] < 1e-9 for layer in told["layers"].values())
    assert all(0 < sum(layer["shares"].values()) <= 1 + 1e-6 for layer in told["layers"].values())
    record = json.loads((finished / "record.json").read_text())
    lost = record["stages"][0]["scores"][0] - record["stages"][2]["scores"][0]
    assert told["tasks"]["colour"]["lost"]["points"] == pytest.approx(lost)
    assert [name for name, task in told["tasks"].items() if task["old"]] == ["colour"]
    same = json.loads(gorp("diff", finished, "animal", "animal", "--json")[1])
    assert {layer["moved"] for layer in same["layers"].values()} == {0.0}
    assert gorp("diff", finished, "base", "colour")[0] == 0


def test_a_budget_that_is_exceeded_is_exit_code_3_with_a_report(gorp, forgetful, tmp_path):
    settings = {**forgetful, "budget": {"max_forgetting": 1.0}}
    (tmp_path / "desk.yaml").write_text(yaml.safe_dump(settings))
    run = tmp_path / "desk"
    command = ("run", tmp_path / "desk.yaml", "--out", run, "--quiet")
    code, out, err = gorp(*command)
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "task 'animal' cost earlier tasks more points than the 1 allowed: colour" in err
    assert "cost more than the 1 points that it was allowed to cost" in (run / "report.html").read_text()
    rows = tmp_path / "size.jsonl"
    words = [(number, word) for number in range(40) for word in ("big", "small")]
    texts = [{"text": f"a {word} cat {number}", "label": word} for number, word in words]
    rows.write_text("".join(json.dumps(text) + "\n" for text in texts))
    assert gorp("rollback", run, "--to", "animal")[0] == 0  # forget that the third task waits
    code, _, err = gorp("learn", run, rows, "--quiet")
    assert (code, "--accept-breach" in err) == (3, True), err
    code, _, err = gorp("learn", run, rows, "--quiet", "--accept-breach", "--max-forgetting", 100)
    assert code == 0, err
    assert "accepted what 'animal' cost" in gorp("history", run)[1]
    assert gorp("learn", run, rows, "--on-breach", "pray", "--quiet")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("rollback", "{run}", "--to", "akt"),
            "no task 'akt' was learnt (did you mean 'act'?); accepted: base, colour",
        ),
        (("diff", "{run}", "akt", "base"), "no task 'akt' was learnt (did you mean 'act'?)"),
        (("retract", "{run}", "akt"), "no task 'akt' is protected (did you mean 'act'?)"),
        (("history", "{run}/none"), "no run here"),
        (("retract", "{run}/none", "act"), "no run here"),
    ],
)
def test_mistakes_end_with_2_and_one_line(gorp, finished, arguments, message):
    code, out, err = gorp(*(argument.format(run=finished) for argument in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
