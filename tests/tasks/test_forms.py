"""The three forms of a row, its labels, and what is said when neither fits."""

import pytest

from gorp.errors import InputError
from gorp.tasks.forms import check_labels, to_rows
from gorp.tasks.readers import Record


def rows(*values, columns=None):
    return to_rows([Record(f"f.jsonl:{line}", dict(row)) for line, row in enumerate(values, start=1)], columns)


def failure(function, *arguments, **options):
    with pytest.raises(InputError) as error:
        function(*arguments, **options)
    return str(error.value)


def test_text_and_label():
    (row,) = rows({"text": "t", "label": "A", "src": "elsewhere"})
    assert (row.form, row.text, row.answer, row.references) == ("text", "t", "A", ())


@pytest.mark.parametrize("names", [("sentence", "label"), ("input", "output")])
def test_the_benchmarks_own_column_names(names):
    (row,) = rows({names[0]: "t", names[1]: "A"})
    assert (row.text, row.answer) == ("t", "A")


def test_further_references():
    (row,) = rows({"input": "t", "output": ["first", "second"]})
    assert (row.answer, row.references) == ("first", ("second",))
    (row,) = rows({"text": "t", "label": "first", "labels": ["first", "second"]})
    assert (row.answer, row.references) == ("first", ("second",))


def test_prompt_and_completion():
    (row,) = rows({"prompt": "p", "completion": "c"})
    assert (row.form, row.text, row.answer) == ("prompt", "p", "c")


def test_messages():
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    (row,) = rows({"messages": turns})
    assert (row.form, row.turns, row.answer) == ("messages", (("system", "s"), ("user", "u")), "a")


def test_the_parts_of_a_message_are_joined():
    said = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    (row,) = rows({"messages": [{"role": "user", "content": said}, {"role": "assistant", "content": "c"}]})
    assert row.turns == (("user", "a b"),)
    image = [{"type": "image", "image": "cat.png"}]
    message = failure(rows, {"messages": [{"role": "user", "content": image}, {"role": "assistant", "content": "c"}]})
    assert message.startswith(
        "f.jsonl:1: the content of a message must be a text, or parts of text, found [{'type': 'image'"
    )


def test_blanks_around_a_label_are_none_of_it():
    assert [row.answer for row in rows({"text": "t", "label": "A "}, {"text": "u", "label": "A"})] == ["A", "A"]
    assert rows({"prompt": "t", "completion": " a"})[0].answer == " a"


def test_columns_rename():
    (row,) = rows({"review": "t", "stars": 5}, columns={"text": "review", "label": "stars"})
    assert (row.text, row.answer) == ("t", "5")


def test_whole_numbers_with_a_point_are_whole():
    given = ({"text": "t", "label": 5.0}, {"text": "u", "label": [5.0, 1], "labels": [5.0, 1.0]})
    assert [(row.answer, row.references) for row in rows(*given)] == [("5", ()), ("5", ("1", "1"))]
    message = failure(rows, {"text": "t", "label": 0.5})
    assert message == "f.jsonl:1: the answer 0.5 is no whole number; accepted: a text or a whole number"


def test_rows_without_text_or_answer_are_left_out_where_one_says_so():
    values = [
        {"text": "t", "label": "A"},
        {"text": " ", "label": "A"},
        {"text": "u", "label": None},
        {"text": "v", "label": float("nan")},
        {"text": "w", "label": []},
        {"text": "x", "label": [""]},
    ]
    records = [Record(f"f:{line}", row) for line, row in enumerate(values)]
    assert [row.text for row in to_rows(records, skip_incomplete=True)] == ["t"]
    assert "must be a text that is not empty" in failure(to_rows, records)


def test_several_missing_columns_each_have_their_nearest():
    message = failure(rows, {"body": "t", "label": "A"}, columns={"text": "bdoy", "label": "lable"})
    assert "missing columns: bdoy (did you mean 'body'?), lable (did you mean 'label'?)" in message


def test_missing_columns_are_named_with_what_is_there():
    message = failure(rows, {"text": "t", "label": "A"}, {"text": "t", "lable": "A"})
    assert message.startswith(
        "f.jsonl:2: column 'label' is missing (did you mean 'lable'?); found: text, lable; accepted:"
    )
    assert failure(rows, {"a": 1}).startswith("f.jsonl:1: no known columns; found: a; accepted: text and label;")
    message = failure(rows, {"text": "t", "label": "A"}, columns={"text": "review"})
    assert message.startswith("f.jsonl:1: column 'review' is missing")
    message = failure(rows, {"text": "t", "label": "A"}, columns={"txt": "review"})
    assert message == "columns: 'txt' is not one of text, label, prompt, completion, messages (did you mean 'text'?)"


@pytest.mark.parametrize(
    "row",
    [
        {"text": "", "label": "A"},
        {"text": "  \n", "label": "A"},
        {"text": None, "label": "A"},
        {"text": 3, "label": "A"},
        {"text": "t", "label": ""},
        {"text": "t", "label": None},
        {"text": "t", "label": []},
        {"text": "t", "label": 0.5},
        {"text": "t", "label": {"a": 1}},
        {"prompt": "p", "completion": " "},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user", "content": "u"}]},
        {"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "u"}]},
        {"messages": [{"role": "user"}, {"role": "assistant", "content": "a"}]},
    ],
)
def test_empty_and_wrong_values_are_errors(row):
    assert failure(rows, row).startswith("f.jsonl:1: ")


def test_a_label_outside_the_list_is_an_error():
    found = rows({"text": "t", "label": "Sports"}, {"text": "u", "label": "sport"})
    message = failure(check_labels, found, ["Sports", "World"])
    assert message == "f.jsonl:2: label 'sport' is not one of Sports, World (did you mean 'Sports'?)"


def test_labels_not_given_are_those_that_occur():
    found = rows({"text": "t", "label": "b"}, {"text": "u", "label": "a"}, {"text": "v", "label": "b"})
    assert check_labels(found, None) == ("a", "b")
    assert check_labels(found, ["b", "a", "c"]) == ("b", "a", "c")
    assert check_labels(found, []) == ()


def test_free_answers_are_not_taken_for_labels():
    assert check_labels(rows({"prompt": "p", "completion": "c"}), None) == ()
    many = rows(*({"text": f"t{n}", "label": f"answer {n}"} for n in range(101)))
    assert "101 different labels" in failure(check_labels, many, None)
