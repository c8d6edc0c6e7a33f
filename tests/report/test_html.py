from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gorp.report.html import render_report, write_report
from gorp.report.record import RunRecord

MakeRecord = Callable[..., RunRecord]
Matrices = dict[str, dict[int, dict[str, float | None]]]


class MatrixReader(HTMLParser):
    """Reads the accuracy matrices back out of a page: run -> stage -> task -> score; and the tags it met."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices: Matrices = {}
        self.tags: list[str] = []
        self._run, self._stage = "", -1

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag == "table" and given.get("data-run"):
            self._run = str(given["data-run"])
            self.matrices[self._run] = {}
        elif tag == "tr" and "data-stage" in given:
            self._stage = int(str(given["data-stage"]))
            self.matrices[self._run][self._stage] = {}
        elif tag == "td" and "data-task" in given:
            value = given["data-score"]
            self.matrices[self._run][self._stage][str(given["data-task"])] = float(value) if value else None


def read(page: str) -> MatrixReader:
    reader = MatrixReader()
    reader.feed(page)
    return reader


def expected(record: RunRecord) -> dict[int, dict[str, float | None]]:
    rows = {0: record.zero_shot_row, **{stage.index + 1: record.matrix[stage.index] for stage in record.stages}}
    return {stage: dict(zip(record.tasks, row, strict=True)) for stage, row in rows.items()}


@pytest.mark.parametrize("tasks", [1, 5, 15])
def test_the_matrix_can_be_read_out_of_the_page(make_record: MakeRecord, tasks: int) -> None:
    record = make_record(tasks)
    assert read(render_report([record])).matrices == {"gorp-0": expected(record)}


def test_several_runs_are_compared_on_one_page(make_record: MakeRecord) -> None:
    runs = [make_record(), make_record(seed=1), make_record(method="seq-lora"), make_record(method="joint")]
    page = render_report(runs)
    assert read(page).matrices == {run.name: expected(run) for run in runs}
    assert "81.5 ± 0.7" in page
    assert "gorp (mean of 2 runs)" in page
    assert "Task by task" not in page


def test_two_runs_are_set_against_each_other(make_record: MakeRecord) -> None:
    runs = [make_record(2, leak=1e-2), make_record(3, method="seq-lora", lost_per_stage=30)]
    for run in runs:
        run.scored_rows = dict.fromkeys(run.tasks, 100)
    page = render_report(runs)
    assert "gorp-0 against seq-lora-0" in page
    assert re.findall(r'data-difference="([^"]*)"', page) == ["task-1", "task-2", "task-3", "mean, both learnt"]
    assert page.count('class="higher"') == 3
    assert '<th scope="row">method.<wbr>name</th><td><code>gorp</code></td><td><code>seq-lora</code></td>' in page


def test_headings_go_down_one_level_at_a_time(make_record: MakeRecord) -> None:
    for runs in (
        [make_record(2)],
        [make_record(2), make_record(2, "seq-lora")],
        [make_record(2, seed=s) for s in (0, 1, 2)],
    ):
        levels = [int(level) for level in re.findall(r"<h(\d)", render_report(runs))]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_the_page_loads_nothing_and_runs_its_own_script_alone(make_record: MakeRecord) -> None:
    page = render_report([make_record(), make_record(method="joint")])
    assert not {"link", "img", "iframe", "object"} & set(read(page).tags)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'".replace("'", "&#39;") in page
    assert not re.search(r"@import|@font-face|url\((?!#)", page)
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert addresses <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}


def test_hostile_names_stay_text(make_record: MakeRecord) -> None:
    evil = '<script>alert("$x$")</script>'
    record = make_record([evil, "b' onclick='x", "$\\frac$"], name=f"{evil}-run", method=f"{evil}-method")
    record.config, record.environment = {evil: evil}, {"a": [evil]}
    record.stages[0].layers = {evil: record.stages[0].layers["encoder.block.0.SelfAttention.q"]}
    for page in (render_report([record]), render_report([record, make_record()])):
        reader = read(page)
        assert reader.tags.count("script") == page.count("<script") == 1
        assert reader.matrices[f"{evil}-run"] == expected(record)


def test_ids_are_unique_on_the_page(make_record: MakeRecord) -> None:
    ids = re.findall(r'\bid="([^"]*)"', render_report([make_record(), make_record(method="seq-lora")]))
    assert len(ids) == len(set(ids))


def test_colours_are_all_variables_of_the_page(make_record: MakeRecord) -> None:
    page = render_report([make_record()])
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert drawings
    assert not re.search(r"#[0-9a-f]{6}\b(?![^<]*</text>)", "".join(drawings))


def test_the_same_runs_give_the_same_page(make_record: MakeRecord) -> None:
    assert render_report([make_record(1)]) == render_report([make_record(1)])


def test_runs_without_layers_losses_or_stages_have_a_page() -> None:
    empty = RunRecord(name="r", method="gorp", model="m", stream="s", tasks=["a"])
    page = render_report([empty])
    assert "Nothing is learnt yet" in page
    assert read(page).matrices == {"r": {}}
    with pytest.raises(ValueError, match="at least one run"):
        render_report([])


def test_many_layers_fold_away(make_record: MakeRecord) -> None:
    assert "32 more layers" in render_report([make_record(2, layers=40)])


def test_a_leak_is_flagged_on_top(make_record: MakeRecord) -> None:
    page = render_report([make_record(2, leak=1e-2)])
    assert page.index("changed on protected directions") < page.index("<table")
    assert page.count('class="leaks"') == 1


def test_the_page_goes_into_the_run_folder(make_record: MakeRecord, tmp_path: Path) -> None:
    assert write_report([make_record(1)], tmp_path) == tmp_path / "report.html"
    assert write_report([make_record(1)], tmp_path / "new" / "page.html").exists()
    assert write_report([make_record(1)], tmp_path / "other") == tmp_path / "other" / "report.html"


def test_a_browser_shows_the_matrix(make_record: MakeRecord, tmp_path: Path, dump_dom: Callable[..., str]) -> None:
    runs = [make_record(), make_record(method="seq-lora", lost_per_stage=4), make_record(method="joint")]
    page = write_report(runs, tmp_path)
    dom = dump_dom(
        page, script="document.body.dataset.cell = document.querySelector('tr[data-stage=\"5\"] td').innerText"
    )
    assert read(dom).matrices == {run.name: expected(run) for run in runs}
    assert 'data-cell="78.0"' in dom


def test_a_phone_never_scrolls_sideways(make_record: MakeRecord, tmp_path: Path, dump_dom: Callable[..., str]) -> None:
    long = make_record(15, layers=20, name="a-run-with-a-name-as-long-as-nobody-would-choose-but-somebody-will")
    page = write_report([long, make_record(3, "seq-lora")], tmp_path)
    frame = tmp_path / "frame.html"
    inner = page.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    frame.write_text(f'<iframe style="width:375px;height:800px;border:0" srcdoc="{inner}"></iframe></body>')
    measure = (
        "const inner = document.querySelector('iframe').contentDocument;"
        "inner.querySelectorAll('details').forEach(part => part.open = true);"
        "document.body.dataset.widths = inner.documentElement.clientWidth + ' ' + inner.documentElement.scrollWidth"
    )
    assert 'data-widths="375 375"' in dump_dom(frame, script=measure)
