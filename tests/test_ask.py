"""A prompt as it stands, and a text put as the rows of a task are."""

from __future__ import annotations

import json

import pytest

from gorp.ask import ask, put_as
from gorp.evaluation import Evaluator
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.tasks.prompts import Template, messages_example, prompt_example

SYSTEM = ("system", "Answer with one word .")


def conversation(*turns):
    return messages_example(turns, "red")


def test_a_text_follows_the_turns_that_most_conversations_begin_with():
    asked = [("user", f"{colour} cat") for colour in ("red", "green", "blue")]
    shared = [conversation(SYSTEM, turn) for turn in asked]
    assert put_as(shared)("red dog").messages == (SYSTEM, ("user", "red dog"))
    longer = conversation(SYSTEM, ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert put_as([*shared, longer, conversation(asked[0])])("red dog").messages == (SYSTEM, ("user", "red dog"))
    apart = [conversation(("system", turn[1]), turn) for turn in asked]
    assert put_as(apart)("red dog").messages == (("user", "red dog"),)
    assert put_as([conversation(turn) for turn in asked])("red dog").messages == (("user", "red dog"),)


def test_where_most_rows_are_no_conversations_a_text_is_no_turn():
    rows = [conversation(SYSTEM, ("user", "red cat")), prompt_example("red cat", "red"), prompt_example("a", "b")]
    assert put_as(rows)("red dog") == put_as([])("red dog") == prompt_example("red dog", "")


def test_a_text_that_is_never_cut_stands_between_the_lines_that_all_rows_share():
    template = Template(instruction="Same or not ?", labels=("yes", "no"), passage="never (.*)")
    rows = [template.example(f"one: the {word}\ntwo: a {word}", "yes") for word in ("cat", "dog", "bird")]
    assert not any(start < end for start, end in (row.truncatable for row in rows))
    asked = template.example("one: the cow\ntwo: a cow", "")
    assert put_as(rows)("one: the cow\ntwo: a cow").prompt == asked.prompt
    assert put_as(rows)(asked.prompt).prompt == asked.prompt
    assert put_as(rows[:1])("the cow").prompt == "the cow"  # of one row nothing is known to be shared


@pytest.fixture(scope="module")
def talk(tiny_models, tmp_path_factory):
    """A run of one task of conversations, each of which the same system opens."""
    place = tmp_path_factory.mktemp("talk")
    rows = []
    for number in range(16):
        colour = ("red", "green", "blue")[number % 3]
        turns = (SYSTEM, ("user", f"{colour} cat {number}"), ("assistant", colour))
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    (place / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "stream.yaml").write_text("name: s\ntasks:\n  - {name: talk, path: talk.jsonl}\n")
    values = {"model": str(tiny_models["causal"]), "method": "seq-lora", "stream": str(place / "stream.yaml")}
    run_stream(RunConfig.from_mapping({**values, "training": {"epochs": 1}, "lora": {"rank": 2}}), place / "run")
    return place / "run"


def test_a_prompt_is_taken_as_it_stands_unless_a_task_is_named(talk, monkeypatch):
    monkeypatch.setattr(Evaluator, "predict", lambda _, examples, **__: [example.prompt for example in examples])
    assert ask(talk, ["red cat"]) == ["red cat"]
    assert ask(talk, ["red cat"], task="talk") == ["system: Answer with one word .\nuser: red cat\nassistant:"]
