"""The pages in a browser, at three widths, light and dark: axe-core's rules, sideways scrolling, the keyboard."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gorp.compare.page import render_page
from gorp.compare.results import CellResult, Tuning
from gorp.report.html import render_report
from gorp.report.record import RunRecord

MakeRecord = Callable[..., RunRecord]
CHECK = Path(__file__).parent / "browser" / "check.mjs"
LONG = "a-name-as-long-as-nobody-would-choose-but-somebody-will"


@pytest.fixture(scope="session")
def faults(browser: str) -> Callable[[Path], list[str]]:
    """Opens a page and returns what is wrong with it; skips without node or what it runs on."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    if not (CHECK.parent / "node_modules" / "axe-core").exists():
        pytest.skip(f"no axe-core here; npm ci --prefix {CHECK.parent}")

    def check(page: Path) -> list[str]:
        command = [node, str(CHECK), browser, str(page)]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=500)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return check


def one_run(make_record: MakeRecord) -> str:
    record = make_record([LONG, *(f"task-{number}" for number in range(9))], layers=10, leak=1e-2)
    record.unseen_zero_shot = {"never": 50.0}
    for stage in record.stages:
        stage.unseen = {"never": 49.0}
        stage.skipped_steps = 1
    return render_report([record])


def two_runs(make_record: MakeRecord) -> str:
    records = [make_record(3, name=LONG, finished=False), make_record(4, "seq-lora", lost_per_stage=9)]
    for record in records:
        record.scored_rows = dict.fromkeys(record.tasks, 100)
    return render_report(records)


def several_runs(make_record: MakeRecord) -> str:
    return render_report([make_record(2), make_record(2, seed=1), make_record(2, method="joint")])


def comparison(_: MakeRecord) -> str:
    results = {
        f"{cell}/{seed}": CellResult(
            cell=cell,
            method=cell,
            stream="two/1",
            seed=seed,
            tasks=["old", "new"],
            zero_shot=[1.0, 2.0],
            matrix=[[80.0, 10.0], [final + seed, 60.0]],
            summary={"AP": (final + seed + 60) / 2, "BWT": final + seed - 80, "FWT": 8.0, "forgetting": 1.0},
            seconds={"train": 10.0},
            config={},
            environment={"device": "cpu"},
            tuning=Tuning(tried=[({"lr": 0.1}, 60.0), ({"lr": 0.2}, 50.0)], chosen={"lr": 0.1}),
        )
        for cell, final in (("gorp", 79.0), ("seq-lora", 40.0))
        for seed in range(2)
    }
    return render_page(results, LONG, "which one?", "gorp")


@pytest.mark.parametrize("make_page", [one_run, two_runs, several_runs, comparison])
def test_no_fault_is_found(make_page, make_record: MakeRecord, faults, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(make_page(make_record), encoding="utf-8")
    assert faults(page) == []


def test_planted_faults_are_found(make_record: MakeRecord, faults, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = two_runs(make_record)
    for whole, broken in {
        "--muted: #585d65": "--muted: #b8b8b8",
        "<main": '<div style="width: 1400px">wide</div><main',
        "row.hidden = !words": "row.hidden = false && !words",
        "if (!next) return;": "return;",
        '<a class="skip"': '<a tabindex="-1" class="skip"',
        '<html lang="en">': "<html>",
        "next.focus();": "next.focus(); fetch('https://example.org/');",
        'event.key === "Escape"': "false",
    }.items():
        assert whole in text
        text = text.replace(whole, broken)
    page.write_text(text, encoding="utf-8")
    found = "\n".join(faults(page))
    for fault in (
        "page.html, light, 1280 wide: color-contrast",
        "dark, 360 wide: html-has-lang",
        "light, 768 wide: scrolls",
        "the first Tab does not lead to the skip link",
        "the filter shows",
        "marks tell",
        "Escape does not take away",
    ):
        assert fault in found
    assert "dark, 1280 wide: color-contrast" not in found
