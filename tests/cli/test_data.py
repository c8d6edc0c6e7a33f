"""`gorp data`: lists what there is, checks what is given."""

import json

import pytest

from gorp.cli.main import main


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["data", *map(str, arguments)])
    return exit_.value.code or 0


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "tickets.jsonl"
    values = [{"text": f"ticket {n}", "label": ["billing", "shipping"][n % 2]} for n in range(50)]
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def test_without_a_target_it_lists_the_streams(capsys):
    assert run() == 0
    printed = capsys.readouterr().out
    assert "builtin" in printed and "standard-cl/1   dbpedia, amazon, yahoo, agnews" in printed and "long/6" in printed
    assert "superni/2" in printed and "unseen/1        dbpedia, amazon, yahoo, agnews; measures MNLI, CB" in printed
    assert max(map(len, printed.splitlines())) <= 100


def test_a_file(rows, capsys):
    assert run(rows, "--labels", "shipping, billing", "--show", 1) == 0
    printed = capsys.readouterr().out
    figures = next(line for line in printed.splitlines() if "│ tickets" in line).replace("│", "").split()
    assert figures[:5] == ["tickets", "36", "4", "10", "2"]
    assert "Option: shipping, billing \nticket " in printed
    assert "warning" not in printed


def test_problems_are_warnings(rows, capsys):
    with rows.open("a") as file:
        file.write('{"text": "ticket 0", "label": "returns"}\n')
    assert run(rows) == 0
    assert "tickets: warning: label 'returns'" in capsys.readouterr().out


def test_a_stream_file(rows, tmp_path, capsys):
    (tmp_path / "desk.yaml").write_text("tasks: [{path: tickets.jsonl}, {name: free, path: tickets.jsonl, labels: []}]")
    assert run(tmp_path / "desk.yaml") == 0
    assert "free" in capsys.readouterr().out


def test_tasks_that_are_only_measured_have_a_table_of_their_own(rows, tmp_path, capsys):
    (tmp_path / "desk.yaml").write_text(
        "name: desk\ntasks: [{path: tickets.jsonl}]\n"
        "unseen: [{name: replies, path: tickets.jsonl, labels: [], metric: rouge_l}]"
    )
    assert run(tmp_path / "desk.yaml") == 0
    learnt, _, measured = capsys.readouterr().out.partition("desk: measured, never learnt")
    assert "exact match" in learnt and "tickets" in learnt and "replies" not in learnt
    figures = next(line for line in measured.splitlines() if "│ replies" in line).replace("│", "").split()
    assert figures == ["replies", "36", "4", "10", "free", "3", "3", "1", "ROUGE-L"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no rows"),
        (b'{"text": "a", "label": "b"}\n{"text"', "tickets.jsonl:2: not valid JSON"),
        (b'{"text": "a", "topic": "b"}\n', "tickets.jsonl:1: column 'label' is missing"),
        (b'{"text": "\xe9", "label": "b"}\n', "tickets.jsonl:1: byte 0xe9 is not UTF-8"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_message(rows, capsys, content, message):
    rows.write_bytes(content)
    assert run(rows) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.startswith("gorp: ") and printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_label_outside_the_list(rows, capsys):
    assert run(rows, "--labels", "billing") == 2
    assert "tickets.jsonl:2: label 'shipping' is not one of billing" in capsys.readouterr().err


def test_missing_files_and_unknown_names(tmp_path, capsys):
    assert run(tmp_path / "none.csv") == 2
    assert "none.csv: no such file" in capsys.readouterr().err
    assert run("bultin") == 2
    assert "did you mean 'builtin'" in capsys.readouterr().err
