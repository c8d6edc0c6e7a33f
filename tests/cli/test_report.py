from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gorp.cli.main import build_app
from gorp.cli.report import find_runs
from gorp.errors import InputError
from gorp.report.record import RunRecord, Stage


def save_run(folder: Path, method: str = "gorp") -> Path:
    folder.mkdir(parents=True)
    stages = [
        Stage(index=0, task="a", scores=[90.0, 10.0], seconds={"train": 5.0}, steps=10),
        Stage(index=1, task="b", scores=[88.0, 80.0], seconds={"train": 6.0}, steps=10),
    ]
    RunRecord(
        name=folder.name,
        method=method,
        model="tiny",
        stream="mine",
        tasks=["a", "b"],
        zero_shot=[5.0, 6.0],
        stages=stages,
        finished=True,
    ).save(folder)
    return folder


def report(*arguments: Path | str) -> str:
    done = CliRunner().invoke(build_app("report"), ["report", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_one_run_gets_its_page_in_its_folder(tmp_path: Path) -> None:
    run = save_run(tmp_path / "desk")
    output = report(run)
    assert "2 b" in output
    assert "84.0" in output
    assert str(run / "report.html") in output
    assert 'data-score="88.0"' in (run / "report.html").read_text()


def test_a_folder_of_runs_is_compared_there(tmp_path: Path) -> None:
    for method in ("gorp", "seq-lora"):
        save_run(tmp_path / "demo" / method, method)
    assert "seq-lora" in report(tmp_path / "demo")
    assert "gorp against seq-lora" in (tmp_path / "demo" / "report.html").read_text()


def test_several_runs_share_a_page_where_asked_or_above_them(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / "x" / "one"), save_run(tmp_path / "x" / "two", "joint")]
    report(*runs, "--quiet")
    assert (tmp_path / "x" / "report.html").exists()
    assert report(*runs, "--quiet", "--out", tmp_path / "new" / "page.html") == ""
    assert (tmp_path / "new" / "page.html").exists()


def test_one_run_against_another_has_a_page_beside_its_own(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / "desk"), save_run(tmp_path / "old" / "shelf", "seq-lora")]
    page = runs[0] / "against-shelf.html"
    assert str(page) in report(runs[0], "--against", runs[1])
    assert "desk against shelf" in page.read_text()
    assert not (runs[0] / "report.html").exists()
    report(runs[0] / "record.json", "--against", runs[1] / "record.json", "--out", tmp_path / "page.html", "--quiet")
    assert (tmp_path / "page.html").read_text() == page.read_text()
    with pytest.raises(InputError, match="2 runs; --against sets one run against one other"):
        report(*runs, "--against", runs[1])


def test_every_plot_as_png(tmp_path: Path) -> None:
    run = save_run(tmp_path / "desk")
    assert f"plots: 2 in {tmp_path / 'plots'}" in report(run, "--png", tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "01-score-of-a-after-each-stage.png",
        "02-score-of-b-after-each-stage.png",
    ]


def test_the_figures_as_csv_and_markdown(tmp_path: Path) -> None:
    run = save_run(tmp_path / "desk")
    report(run, "--quiet", "--csv", tmp_path / "scores.csv", "--markdown", tmp_path / "tables.md")
    assert (tmp_path / "scores.csv").read_text().splitlines()[-1] == "desk,gorp,0,2,b,b,80.0"
    assert "| 2 b | 88.0 | 80.0 |" in (tmp_path / "tables.md").read_text()


def test_what_is_no_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no record\.json"):
        find_runs([tmp_path])
    run = save_run(tmp_path / "desk")
    with pytest.raises(InputError, match="no such record"):
        report(run, tmp_path / "missing")
    assert not (run / "report.html").exists()


def test_help_shows_an_example() -> None:
    assert "gorp report runs/desk" in report("--help")
