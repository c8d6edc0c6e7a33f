from __future__ import annotations

import io
import warnings

import pytest
from rich.console import Console

from gorp.errors import FullSpaceWarning
from gorp.progress import (
    LineProgress,
    Progress,
    RichProgress,
    SilentProgress,
    describe_duration,
    describe_scores,
    open_progress,
    passing_on,
)


def play(progress: Progress) -> None:
    """A run of two tasks, resumed in the middle of the first stage."""
    with progress:
        progress.run_started("runs/[desk]", ["a", "b"])
        progress.evaluation_step("a", 2, 2)
        progress.task_evaluated("a", 10.0)
        for index, task in enumerate("ab"):
            progress.stage_started(index, task, 50)
            for step in range(20, 51):
                progress.training_step(step, 1 / step if step % 10 == 0 else None)
            progress.evaluation_step(task, 1, 2)
            progress.evaluation_step(task, 2, 2)
            progress.task_evaluated(task, 90.0)
            progress.stage_finished(index, task, [90.0, None][: index + 1], 65.0)
        progress.warning("a [layer] is full")
        progress.run_finished()


def test_a_log_gets_a_line_per_stage() -> None:
    stream = io.StringIO()
    play(LineProgress(stream))
    *lines, end = stream.getvalue().splitlines()
    assert lines == [
        "runs/[desk]: 2 tasks",
        "stage 1/2 a: 1 min 05 s; a 90.0",
        "stage 2/2 b: 1 min 05 s; a 90.0",
        "warning: a [layer] is full",
    ]
    assert end.startswith("finished in 0")


def test_a_resumed_run_says_how_far_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    LineProgress().run_started("r", ["a", "b"], done=1)
    assert capsys.readouterr().err == "r: 2 tasks, 1 already learnt\n"


def test_a_terminal_shows_bars_and_keeps_the_stages() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    play(RichProgress(console))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for expected in ("1/2 learn a", "1/2 a  1 min 05 s", "warning: a [layer] is full", "finished in"):
        assert expected in text


def test_bars_survive_events_outside_a_run() -> None:
    progress = RichProgress(Console(file=io.StringIO(), force_terminal=True))
    with progress:
        progress.training_step(3, 0.5)
        progress.evaluation_step("a", 1, 2)
        progress.task_evaluated("a", 1.0)
        progress.stage_finished(0, "a", [1.0], 1.0)
        progress.run_started("r", [])
        progress.stage_started(0, "unannounced", 0)
        progress.training_step(1)


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    play(SilentProgress())
    play(open_progress(quiet=True))
    assert capsys.readouterr() == ("", "")


def test_the_kind_follows_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert isinstance(open_progress(), LineProgress)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(open_progress(), RichProgress)


def test_durations_and_scores_in_words() -> None:
    told = {0.00007: "0 s", 0.0312: "0.03 s", 4.44: "4.4 s", 9.96: "10 s", 42.3: "42 s", 185: "3 min 05 s"}
    assert {seconds: describe_duration(seconds) for seconds in told} == told
    assert describe_duration(7800) == "2 h 10 min"
    assert describe_scores(["a", "b"], [91.0, None]) == "a 91.0"
    assert describe_scores(["a"], [None]) == "not evaluated"


def test_warnings_of_one_category_become_lines_of_the_progress() -> None:
    lines = io.StringIO()
    with pytest.warns(UserWarning, match="other"), passing_on(FullSpaceWarning, LineProgress(lines)):  # noqa: PT031
        warnings.warn("a layer is full", FullSpaceWarning, stacklevel=1)
        warnings.warn("something other", UserWarning, stacklevel=1)
    assert lines.getvalue().splitlines() == ["warning: a layer is full"]
