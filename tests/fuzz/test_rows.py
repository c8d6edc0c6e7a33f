"""Data rows that may be anything, in every format, from the file to token ids and to the rows that a run keeps."""

import csv
import gzip
import io
import json
import math

import pyarrow
import pyarrow.parquet
import pytest
from fuzzing import HOSTILE, SCALARS, VALUES, attempt, damaged, fuzzed, listing
from hypothesis import given
from hypothesis import strategies as st

from gorp.backbones import load_backbone
from gorp.encoding import Encoder
from gorp.saved_rows import read_rows, write_rows
from gorp.tasks import Limits, read_task
from gorp.tasks.check import problems, summarise

#: A text, a label and what they may be called; conversations; and what is none of these.
WORDS = st.sampled_from(["good", "bad", "a long text of several words", "yes", "no"])
CELLS = st.one_of(WORDS, WORDS, WORDS, VALUES)
ROLES = st.sampled_from(["user", "assistant"]) | VALUES
TURNS = st.lists(st.fixed_dictionaries({"role": ROLES, "content": CELLS}), max_size=3)
ROWS = st.one_of(
    st.fixed_dictionaries({"text": CELLS, "label": CELLS}),
    st.fixed_dictionaries({"text": WORDS, "label": st.sampled_from(["x", "y"])}, optional={"labels": VALUES}),
    st.fixed_dictionaries({"prompt": CELLS, "completion": CELLS}),
    st.fixed_dictionaries({"messages": TURNS | VALUES}),
    st.dictionaries(st.sampled_from(["text", "label", "input", "output", "sentence"]) | HOSTILE, VALUES, max_size=3),
    VALUES,
)
TABLES = st.one_of(st.lists(ROWS, max_size=8), ROWS.flatmap(lambda row: st.lists(st.just(row), min_size=3, max_size=5)))
GOOD = [{"text": f"text {number}", "label": "xy"[number % 2]} for number in range(8)]


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows):
    text = io.StringIO()
    writer = csv.writer(text)
    tables = [row for row in rows if isinstance(row, dict)]
    if tables:
        writer.writerow(tables[0])
        writer.writerows(row.values() for row in tables)
    return text.getvalue().encode(errors="surrogatepass")


def as_parquet(rows):
    """What of the rows a Parquet file can hold."""
    file = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row for row in rows if isinstance(row, dict)]), file)
    except (pyarrow.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GOOD), file)
    return file.getvalue()


def as_json(rows):
    return json.dumps({"Definition": ["Do it."], "Instances": rows} if len(rows) % 2 else rows).encode()


def zipped(write):
    return lambda rows: gzip.compress(write(rows), mtime=0)


FORMATS = {
    "rows.jsonl": as_lines,
    "rows.json": as_json,
    "rows.csv": as_csv,
    "rows.parquet": as_parquet,
    "rows.jsonl.gz": zipped(as_lines),
}
FILES = st.sampled_from(sorted(FORMATS)).flatmap(
    lambda name: st.tuples(
        st.just(name), st.one_of(TABLES.map(FORMATS[name]), TABLES.map(FORMATS[name]), damaged(FORMATS[name](GOOD)))
    )
)


@pytest.fixture(scope="module")
def encoder():
    backbone = load_backbone("t5-tiny")
    return Encoder(backbone.model, backbone.tokenizer, max_source_length=64)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("rows")


@fuzzed(0.25, few=120)
@given(file=FILES, labels=st.none() | st.just([]) | st.just(["x", "y"]), limit=st.none() | st.integers(1, 3))
def test_data_files(home, encoder, file, labels, limit):
    name, content = file
    path, run = home / name, home / "run"
    path.write_bytes(content)
    before = listing(home, without=run)

    def read():
        task = read_task(path, labels=labels, name_task_in_prompt=True, limits=Limits(limit, limit, None))
        task.fingerprint()
        summarise(task)
        problems(task)
        write_rows(run / "task-01-x", task)
        assert read_rows(run / "task-01-x" / "test.jsonl") == task.test
        encoder.check(task)
        for row in task.train:
            json.dumps(row.answer).encode()
            assert all(math.isfinite(token) for token in encoder.row(row).prompt)

    attempt(read, run, name, "task 'rows'")
    assert listing(home, without=run) == before


@fuzzed(0.05, few=20)
@given(content=st.one_of(SCALARS, VALUES).map(json.dumps).map(str.encode) | damaged(b'["x", "y"]'))
def test_labels(home, content):
    folder = home / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_bytes(as_lines(GOOD))
    (folder / "labels.json").write_bytes(content)
    attempt(lambda: read_task(folder), None, "labels.json", "train.jsonl")
