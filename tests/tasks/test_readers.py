"""Every file format is read, and every way a file can be wrong names the place."""

import gzip
import json
import struct

import pyarrow
import pyarrow.parquet
import pytest

from gorp.errors import InputError
from gorp.tasks.readers import SUFFIXES, read_records

ROWS = [
    {"text": "one", "label": "A"},
    {"text": 'two, with "quotes"\nand a break', "label": "B"},
    {"text": "drei ä", "label": "A"},
]


def write(path, rows=ROWS):
    opener = gzip.open if path.name.endswith(".gz") else open
    if ".parquet" in path.name:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if ".jsonl" in path.name:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        elif ".json" in path.name:
            json.dump(rows, file)
        else:
            file.write("text,label\r\n")
            for row in rows:
                text = row["text"].replace('"', '""')
                file.write(f'"{text}",{row["label"]}\r\n')
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    records = read_records(write(tmp_path / f"rows{suffix}"))
    assert [record.values for record in records] == ROWS


def test_records_know_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}\n')
    assert [record.where for record in read_records(path)] == [f"{path}:1", f"{path}:3"]
    path = write(tmp_path / "rows.csv")
    assert [record.where for record in read_records(path)] == [f"{path}:2", f"{path}:3", f"{path}:5"]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    for name, content in (("a.jsonl", '{"text": "a"}\n'), ("a.csv", "text\na\n"), ("a.json", '[{"text": "a"}]')):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert read_records(path)[0].values == {"text": "a"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_header_tells_what_parts_the_cells(tmp_path, delimiter):
    path = tmp_path / "rows.csv"
    path.write_text(
        delimiter.join(['"text, long"', "label", "n"]) + "\n" + delimiter.join(['"a, b; c"', "A", "1"]) + "\n"
    )
    assert read_records(path)[0].values == {"text, long": "a, b; c", "label": "A", "n": "1"}


def test_columns_without_a_name_may_be_several(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,label,,\na,b,,\n")
    assert read_records(path)[0].values == {"text": "a", "label": "b", "": ""}


@pytest.mark.parametrize("text", ["x" * 150_000, "a, b; c"])
def test_a_cell_is_as_long_as_its_text(tmp_path, text):
    path = tmp_path / "a.csv"
    path.write_text(f'text,label\n"{text}",A\n')
    assert read_records(path)[0].values == {"text": text, "label": "A"}


def test_tabs_part_a_tsv_and_old_line_ends_its_rows(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"text, cleaned\tlabel, gold, or not\ra\tb\r")
    assert [record.values for record in read_records(path)] == [{"text, cleaned": "a", "label, gold, or not": "b"}]


def test_a_parquet_column_that_is_no_text_is_an_error(tmp_path):
    path = tmp_path / "a.parquet"
    ends, content = struct.pack("<ii", 0, 1), b"\xff"
    broken = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, *map(pyarrow.py_buffer, (ends, content))])
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), path)
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_records(path)


def test_super_natural_instructions_instances(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"Definition": ["Do."], "Instances": [{"id": "1", "input": "x", "output": ["y"]}]}))
    assert read_records(path)[0].values["output"] == ["y"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "{path}: holds no rows"),
        ("a.jsonl", b"\n\n", "{path}: holds no rows"),
        ("a.csv", b"", "{path}: holds no rows"),
        ("a.csv", b"text,label\n", "{path}: holds no rows"),
        ("a.json", b"[]", "{path}: holds no rows"),
        ("a.json", b"", "{path}:1: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "b\n', "{path}:2: not valid JSON"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b',
            "{path}:2: not valid JSON (Unterminated string starting at, column 10); the file seems to be cut",
        ),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "{path}:2: expected an object"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "{path}:2: byte 0xff is not UTF-8"),
        ("a.csv", b"text,label\na,b\nc,\xe9\n", "{path}:3: byte 0xe9 is not UTF-8"),
        ("a.csv", b"text,label\na,b\nc\n", "{path}:3: a row of 1 cells, the header has 2"),
        ("a.csv", b"text,label\na,b,c\n", "{path}:2: a row of 3 cells, the header has 2"),
        ("a.csv", b'"te"xt,label\na,b\n', "{path}:1: not valid CSV"),
        ("a.csv", b'"text,label\na,b\n', "{path}:1: not valid CSV"),
        ("a.csv", b"text,label,text\na,b,c\n", "{path}:1: two columns are called 'text'; accepted: a name of its own"),
        ("a.csv", b'text,label\na,b\n"c,d\n', "{path}:3: not valid CSV"),
        ("a.json", b'[\n{"text": "a"},\n{"text": "b"', "{path}:3: not valid JSON"),
        ("a.json", b'{"rows": []}', "{path}: expected a JSON list of rows"),
        ("a.json", b'["a"]', "{path}, row 1: expected an object"),
        ("a.parquet", b"PAR1 not really", "{path}: not a readable Parquet file"),
        ("a.parquet", b"", "{path}: not a readable Parquet file"),
        ("a.jsonl.gz", b"plain text", "{path}:1: not a gzip file"),
        ("a.txt", b"text", "{path}: not a file that can be read; accepted: .jsonl, "),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_records(path)
    assert str(error.value).startswith(message.format(path=path))


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz", ".json.gz", ".parquet"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_truncated_packed_file_is_an_error(tmp_path, suffix, kept):
    path = write(tmp_path / f"rows{suffix}", [{"text": f"row {n * 7919 % 1009}", "label": "A"} for n in range(500)])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(InputError, match="cut short") as error:
        read_records(path)
    assert str(path) in str(error.value)


def test_a_damaged_gzip_file_is_an_error(tmp_path):
    path = write(tmp_path / "rows.jsonl.gz", [{"text": f"row {n}", "label": "A"} for n in range(500)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged|not UTF-8|not valid JSON"):
        read_records(path)


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(InputError, match=r"rows\.jsonl: no such file"):
        read_records(tmp_path / "rows.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="not a file that can be read"):
        read_records(tmp_path / "folder.jsonl")
