"""`gorp plan` on a terminal, as JSON, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gorp.cli.main import build_app, main
from gorp.forecast import Forecast
from gorp.report.forecast import size


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A small run of the built-in model."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "model: t5-tiny\nmethod: seq-lora\ndata: {train_rows: 8, test_rows: 4, validation_rows: 2}\n"
        "training: {epochs: 1}\nevaluation: {batch_size: 4}\n"
    )
    return path


@pytest.mark.slow
def test_tables_for_people_and_json_for_scripts(config: Path, tmp_path: Path) -> None:
    arguments = ["plan", str(config), "--no-probe", "--method", "gorp", "--tasks", "30", "--share", "0.05"]
    done = CliRunner().invoke(build_app("plan"), [*arguments, "--out", str(tmp_path / "plan.json")])
    assert done.exit_code == 0, done.output
    for told in ("cores", "temporary", "at the peak", "topic", "task 16 is the first", "5.00% a task", "not told:"):
        assert told in done.output
    found = Forecast.model_validate(json.loads((tmp_path / "plan.json").read_text()))
    assert found.space is not None and found.space.after_tasks == 30 and found.steps == [1] * 5


def test_what_is_wrong_is_named(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", str(config), "--set", "model=nowhere/at-all", "--no-probe"])
    assert stop.value.code == 2
    assert "model 'nowhere/at-all': no configuration to plan by" in capsys.readouterr().err


def test_figures_are_short() -> None:
    assert [size(count) for count in (0, 999, 1000, 123_456, 7e9)] == ["0 B", "999 B", "1 kB", "123 kB", "7 GB"]
