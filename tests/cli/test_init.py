"""`gorp init`: from somebody's files to two that can be run, whatever the files are like."""

import csv
import json
import random

import pytest

from gorp.cli import init
from gorp.cli.main import main
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream

HEADER = ("ticket_id", "created", "message", "category")


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["init", *map(str, arguments)])
    return exit_.value.code or 0


def tickets(count=60):
    generator = random.Random(0)
    labels = {"billing": "was charged twice", "shipping": "parcel is late", "account": "cannot log in"}
    for number in range(count):
        label, words = generator.choice(list(labels.items()))
        yield (str(number), f"2026-01-{number % 28 + 1:02d}", f"my {words}, order {number}; please help", label)


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([HEADER, *rows])
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stream():
    return load_stream(RunConfig.from_yaml("gorp.yaml"))


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_a_csv_of_any_dialect_becomes_a_run(folder, capsys, delimiter, encoding):
    write_csv(folder / "data" / "tickets.csv", tickets(), delimiter, encoding)
    assert run("data", "--yes") == 0
    printed = capsys.readouterr()
    assert "gorp run gorp.yaml" in printed.out and printed.err == ""
    (task,) = stream()
    assert (task.name, task.labels) == ("tickets", ("account", "billing", "shipping"))
    assert len(task.train) + len(task.validation) + len(task.test) == 60
    assert task.train[0].prompt.startswith("Which category fits the text? Choose one from the option.\nOption: acc")
    assert RunConfig.from_yaml("gorp.yaml").training.max_source_length == 128


def test_every_line_of_both_files_is_explained(folder):
    write_csv(folder / "tickets.csv", tickets())
    assert run("tickets.csv", "--yes") == 0
    for name in ("gorp.yaml", "stream.yaml"):
        lines = (folder / name).read_text().splitlines()
        assert lines and not [line for line in lines if "#" not in line and not line.endswith(":") and line], name


def test_files_of_several_forms_are_tasks_of_one_stream(folder):
    write_csv(folder / "data" / "a-train.csv", tickets())
    write_csv(folder / "data" / "a-test.csv", tickets(9))
    rows = [{"question": f"what is {n} and one", "answer": f"it is {n + 1} I think"} for n in range(150)]
    (folder / "data" / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    turns = [[{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": "hello"}] for n in range(20)]
    (folder / "data" / "c.jsonl").write_text("".join(json.dumps({"chat": turn}) + "\n" for turn in turns))
    assert run("data", "--yes") == 0
    a, b, c = stream()
    assert (len(a.test), b.labels, c.labels) == (9, (), ())
    assert b.train[0].prompt.startswith("what is") and c.train[0].messages


def test_rows_without_text_or_label_are_left_out_and_repeated_ones_told(folder, capsys):
    rows = [list(row) for row in tickets()]
    rows[3][3] = rows[4][3] = rows[5][2] = ""
    rows[7][2] = rows[6][2]
    write_csv(folder / "tickets.csv", rows)
    assert run("tickets.csv", "--yes") == 0
    printed = capsys.readouterr().out
    assert "rows left out: 1 without message, 2 without category" in printed
    assert "1 rows have the text of another row" in printed
    assert sum(map(len, (stream()[0].train, stream()[0].validation, stream()[0].test))) in (56, 57)


def test_what_cannot_be_understood_is_left_out_and_named(folder, capsys):
    write_csv(folder / "data" / "tickets.csv", tickets())
    (folder / "data" / "photo.csv").write_bytes(bytes(range(256)))
    (folder / "data" / "empty.jsonl").write_text("")
    (folder / "data" / "same.csv").write_text("text,label\n" + "the same words,a\nother words,b\n" * 20)
    (folder / "data" / "few.csv").write_text("text,label\nsome text,a\nmore text,b\nsome more,a\nand more,b\n")
    assert run("data", "--yes") == 0
    printed = capsys.readouterr().out
    assert "photo.csv:2: byte 0x80 is not UTF-8" in printed
    assert "empty.jsonl: holds no rows" in printed
    assert "few.csv: 4 different texts with an answer; at least 5 are needed" in printed
    assert "same.csv: 2 different texts with an answer" in printed
    assert [task.name for task in stream()] == ["tickets"]


def test_a_file_without_a_line_of_names_is_noticed(folder, capsys):
    (folder / "rows.csv").write_text("".join(f"some words number {n},{'ab'[n % 2]}\n" for n in range(40)))
    assert run("rows.csv", "--yes") == 0
    assert "'a' names a column and is a value in it: does the file lack a line of names?" in capsys.readouterr().out


def test_texts_that_are_left_out_are_named(folder, capsys):
    rows = [
        {"premise": f"it rains on day {n} here", "hypothesis": f"day {n} is wet", "label": ["yes", "no"][n % 2]}
        for n in range(20)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("pairs.jsonl", "--yes") == 0
    assert "left out, though texts: hypothesis; to learn from them" in capsys.readouterr().out


def test_a_question_of_yes_or_no_is_put_as_one(folder):
    rows = [json.dumps({"text": f"words number {n}", "is_spam": n % 2 == 0}) + "\n" for n in range(20)]
    (folder / "mail.jsonl").write_text("".join(rows))
    assert run("mail.jsonl", "--yes") == 0
    assert stream()[0].train[0].prompt.startswith("Is the text spam? Choose one from the option.\nOption: False, True")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "rows.csv: holds no rows"),
        (bytes(range(256)), "rows.csv:2: byte 0x80 is not UTF-8"),
        (b"text,label\n" + b"some words,spam\n" * 9, "column 'label' holds 'spam' in every row"),
        (b"a,b\n" + b"".join(b"%d,%d\n" % (n, n) for n in range(9)), "no telling which column is the text, and which"),
    ],
)
def test_one_bad_file_is_an_error_and_nothing_is_written(folder, capsys, content, message):
    (folder / "rows.csv").write_bytes(content)
    assert run("rows.csv", "--yes") == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert not (folder / "gorp.yaml").exists() and not (folder / "stream.yaml").exists()


def test_nothing_is_written_over(folder, capsys):
    write_csv(folder / "tickets.csv", tickets())
    (folder / "gorp.yaml").write_text("mine")
    assert run("tickets.csv", "--yes") == 2
    assert "gorp.yaml: is there already; accepted: --force" in capsys.readouterr().err
    assert (folder / "gorp.yaml").read_text() == "mine"
    assert run("tickets.csv", "--yes", "--force") == 0 and stream()


@pytest.mark.parametrize("further", [(), ("--force",)])
def test_settings_and_tasks_do_not_go_to_one_file(folder, capsys, further):
    write_csv(folder / "tickets.csv", tickets())
    assert run("tickets.csv", "--yes", "--out", folder / "stream.yaml", *further) == 2
    assert "stream.yaml: is the file that the tasks go to; accepted: another name" in capsys.readouterr().err
    assert not (folder / "stream.yaml").exists()


def test_a_folder_and_a_file_of_one_name_are_two_tasks(folder):
    write_csv(folder / "data" / "b.csv", tickets())
    (folder / "data" / "b").mkdir()
    write_csv(folder / "data" / "b" / "train.csv", tickets())
    assert run("data", "--yes") == 0
    assert [task.name for task in stream()] == ["b", "b.csv"]


def test_whole_numbers_with_a_point_are_labels(folder):
    rows = [json.dumps({"text": f"words number {n}", "stars": [1.0, 2.0, None][n % 3]}) + "\n" for n in range(30)]
    (folder / "reviews.jsonl").write_text("".join(rows))
    assert run("reviews.jsonl", "--yes") == 0
    assert stream()[0].labels == ("1", "2")


def test_columns_are_corrected_for_all_files_or_one(folder, capsys):
    write_csv(folder / "data" / "a.csv", tickets())
    write_csv(folder / "data" / "b.csv", tickets())
    assert run("data", "--yes", "--columns", "label=category", "--columns", "b:label=created") == 0
    a, b = stream()
    assert a.labels == ("account", "billing", "shipping") and b.labels[0] == "2026-01-01"
    assert run("data", "--force", "--columns", "label=categroy") == 2
    assert "no column 'categroy' (did you mean 'category'?)" in capsys.readouterr().err
    assert run("data", "--force", "--columns", "c:label=category") == 2
    assert "there is no file 'c'; found: a, b" in capsys.readouterr().err
    assert run("data", "--force", "--columns", "label") == 2
    assert "expected PART=COLUMN" in capsys.readouterr().err


def test_data_elsewhere_has_its_stream_file_beside_it(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_csv(elsewhere / "tickets.csv", tickets())
    assert run(elsewhere, "--yes") == 0
    assert (elsewhere / "stream.yaml").exists() and not (folder / "stream.yaml").exists()
    assert [task.name for task in stream()] == ["tickets"]


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked(folder, monkeypatch, answer):
    write_csv(folder / "tickets.csv", tickets())
    monkeypatch.setattr(init.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(init.typer, "confirm", lambda question, default: answer)
    assert run("tickets.csv") == (0 if answer else 1)
    assert (folder / "gorp.yaml").exists() == answer


def test_without_a_terminal_the_guess_is_taken_with_a_notice(folder, capsys):
    write_csv(folder / "tickets.csv", tickets())
    assert run("tickets.csv") == 0
    assert "without asking: the input is no terminal" in capsys.readouterr().err


@pytest.mark.slow
def test_a_million_rows(folder):
    write_csv(folder / "tickets.csv", tickets(1_000_000))
    assert run("tickets.csv", "--yes") == 0
    assert "path: tickets.csv" in (folder / "stream.yaml").read_text()
