"""What columns are taken for: by name first, by content second, and not at all where it cannot be told."""

import pytest

from gorp.errors import InputError
from gorp.tasks.guess import guess_columns, look_at_columns
from gorp.tasks.readers import Record


def guess(given=None, rows=40, **columns):
    values = [{name: cell(n) for name, cell in columns.items()} for n in range(rows)]
    return guess_columns(look_at_columns([Record(f"f:{n}", row) for n, row in enumerate(values)]), given)


def words(n):
    return f"the message number {n}"


def two(n):
    return ["yes", "no"][n % 2]


def three(n):
    return ["billing", "shipping", "returns"][n % 3]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": words, "label": two}, {"text": "text", "label": "label"}),
        ({"a": three, "b": words}, {"text": "b", "label": "a"}),
        (
            {"id": str, "customer_message": words, "date": words, "ticketTopic": two},
            ("customer_message", "ticketTopic"),
        ),
        ({"title": lambda n: words(n) * 9, "body": words, "queue": three}, ("body", "queue")),
        ({"body": words, "priority": two, "category": three}, ("body", "category")),
        ({"review": words, "stars": lambda n: n % 5}, ("review", "stars")),
        ({"uuid": str, "code": lambda n: f"x{n}", "words": words, "kind": two}, ("words", "kind")),
        ({"instruction": words, "output": two}, ("instruction", "output")),
    ],
)
def test_text_and_label(columns, expected):
    found = guess(**columns)
    assert found.form == "text"
    assert tuple(found.columns.values()) == (tuple(expected.values()) if isinstance(expected, dict) else expected)


def test_long_answers_are_completions():
    found = guess(id=str, question=words, answer=lambda n: f"that is what {n} is", kind=two)
    assert (found.form, found.columns) == ("prompt", {"prompt": "question", "completion": "answer"})
    assert found.labels == ()


def test_conversations_are_known_by_their_turns():
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert guess(id=str, chat=lambda n: turns).columns == {"messages": "chat"}


def test_labels_are_listed_numbers_by_size_and_other_candidates_are_told():
    found = guess(text=words, label=lambda n: str(n % 12), priority=two)
    assert found.labels == tuple(map(str, range(12))) and found.others == ("priority",)


def test_many_labels_are_free_answers_if_one_says_so():
    found = guess({"label": "reply"}, rows=150, text=words, reply=lambda n: f"answer {n}")
    assert found.columns == {"text": "text", "label": "reply"} and found.labels == ()


def test_what_is_given_stands_and_the_rest_is_guessed():
    assert guess({"label": "b"}, text=words, a=two, b=two).columns == {"text": "text", "label": "b"}
    assert guess({"prompt": "a", "completion": "b"}, a=words, b=words).form == "prompt"


def test_whole_numbers_with_gaps_are_labels():
    found = guess(text=words, stars=lambda n: [1.0, 2.0, 10.0, None, float("nan")][n % 5])
    assert found.columns["label"] == "stars" and found.labels == ("1", "2", "10")


@pytest.mark.parametrize("given", [None, {"label": "score"}])
def test_numbers_with_a_fraction_are_told(given):
    with pytest.raises(InputError, match="column 'score' holds numbers with a fraction, which are no labels"):
        guess(given, text=words, score=lambda n: n % 4 / 4)


def test_empty_cells_do_not_count():
    found = guess(text=words, label=lambda n: "" if n % 2 else three(n), other=lambda n: None)
    assert found.labels == ("billing", "returns", "shipping")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"text": words, "label": lambda n: "spam"},
            "column 'label' holds 'spam' in every row: there is nothing to tell",
        ),
        (
            {"text": words},
            "which column is the label; found: text; say so with --columns text=text,label=COLUMN, or pr",
        ),
        ({"label": two, "n": float}, "which column is the text; found: label, n; say so with --columns text=COLUMN,la"),
        ({"id": str, "n": str}, "which column is the text, and which the label; found: id, n"),
    ],
)
def test_what_cannot_be_told_is_asked(columns, message):
    with pytest.raises(InputError, match=message):
        guess(**columns)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"txt": "body"}, r"'txt' is not one of text, .*did you mean 'text'"),
        ({"text": "bdoy"}, r"no column 'bdoy' \(did you mean 'body'\?\); found: body, label"),
        ({"text": "body", "completion": "label"}, "do not go together"),
        ({"prompt": "body"}, "no telling which column is the completion"),
    ],
)
def test_mistakes_in_what_is_given_are_named(given, message):
    with pytest.raises(InputError, match=message):
        guess(given, body=words, label=two)
