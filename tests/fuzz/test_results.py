"""Results of experiments, and records of runs, that may be anything, to their tables and pages."""

import json
from html.parser import HTMLParser
from importlib.resources import files as files_of

import pytest
from fuzzing import attempt, changed, damaged, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from gorp.compare.page import write_files
from gorp.compare.results import read_results
from gorp.report.html import write_report
from gorp.report.pair import pair_runs
from gorp.report.record import RunRecord
from gorp.report.tables import matrix_grid, scores_csv, to_markdown
from gorp.report.words import against


def cell(name, method, seed):
    return {
        "cell": name,
        "method": method,
        "stream": "desk.yaml",
        "seed": seed,
        "tasks": ["old", "new"],
        "zero_shot": [1.0, None],
        "matrix": [[80.0, 10.0], [75.0 + seed, 60.0]],
        "summary": {"AP": 67.5 + seed, "BWT": -5.0 + seed, "FWT": None, "forgetting": 5.0},
        "worst_leak_over_bound": 0.1,
        "seconds": {"train": 10.0, "memory": 1.0},
        "peak_memory_bytes": 10**9,
        "config": {"method": method},
        "environment": {"device": "cpu", "torch": "2.13"},
        "tuning": {"tried": [[{"training.lr": 0.1}, 60.0]], "chosen": {"training.lr": 0.1}},
    }


RESULTS = {f"{name}/desk/{seed}": cell(name, "gorp", seed) for name in ("gorp", "other") for seed in (0, 1)}
METER = {"leak": 1e-6, "leak_bound": 1e-5, "drift": {"old": 0.1}, "coverage": {"old": 0.9}, "width": 6, "cap": 4}
FIRST = {"index": 0, "task": "old", "scores": [80.0, 10.0], "seconds": {"train": 5.0}, "layers": {"a.b": METER}}
SECOND = {"index": 1, "task": "new", "scores": [75.0, 60.0], "train_loss": [[1, 2.0]], "unseen": {"other": 4.0}}
RECORD = {
    "format_version": 1,
    "name": "desk",
    "method": "gorp",
    "model": "t5-tiny",
    "stream": "desk.yaml",
    "tasks": ["old", "new"],
    "zero_shot": [1.0, None],
    "unseen_zero_shot": {"other": 3.0},
    "scored_by": {"new": "rouge_l"},
    "scored_rows": {"old": 100, "new": 3, "other": 5},
    "stages": [FIRST, SECOND],
    "config": {"training": {"lr": 0.1}},
    "environment": {"device": "cpu"},
    "finished": True,
}


SCRIPT = (files_of("gorp.report") / "templates" / "page.js").read_text(encoding="utf-8")


def check(page):
    """Refuse a page with an element that runs or fetches something, but for its own script and the link to its text."""
    text = page.read_text()
    for own in (f"<script>{SCRIPT}</script>", '<a class="skip" href="#main">'):
        before, found, after = text.partition(own)
        assert found
        text = before + after
    Reader().feed(text)


class Reader(HTMLParser):
    """Refuses elements that run or fetch something."""

    def handle_starttag(self, tag, attrs):
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"}
        assert not [name for name, value in attrs if name.startswith("on") or "javascript:" in (value or "").lower()]


def files(valid):
    near = changed(valid, most=2).map(json.dumps).map(str.encode)
    return st.one_of(near, near, damaged(json.dumps(valid).encode(), most=2))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@fuzzed(0.05, few=15)
@given(content=files(RESULTS))
def test_results_files(home, content):
    file = home / "results.json"
    file.write_bytes(content)
    results = attempt(lambda: read_results(file), None, file.name)
    if results:
        page = attempt(lambda: write_files(results, "<title>", "<about>", "gorp", home / "out"), home / "out", "cell")
        check(page)


@fuzzed(0.05, few=15)
@given(content=files(RECORD))
def test_records(home, content):
    file = home / "record.json"
    file.write_bytes(content)
    record = attempt(lambda: RunRecord.load(file), None, file.name)
    if record is not None:
        to_markdown(matrix_grid(record)).encode()
        scores_csv([record]).encode()
        page = attempt(lambda: write_report([record], home / "page.html"), home, "record")
        check(page)
        against(pair_runs(record, record))
