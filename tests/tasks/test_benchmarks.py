"""The benchmarks by name: orders, prompts and passages, on made-up rows and, where they are, on the real ones."""

import json
import os
from pathlib import Path

import pytest

from gorp.errors import InputError
from gorp.tasks import Limits, TaskStream, superni
from gorp.tasks.benchmarks import BENCHMARKS, DATASETS, KINDS, UNSEEN, benchmark_tasks
from gorp.tasks.prompts import Template

PASSAGES = {  # a text of each kind, and what of it may be cut
    "NLI": ("sentence 1: It rained.\nAll day.\nsentence 2: It was dry.", "It rained.\nAll day."),
    "QQP": ("first sentence: Who?\nsecond sentence: Who is it?\n", "Who is it?"),
    "SC": ("Title: good\nText: all of it\n", "Title: good\nText: all of it"),
    "TC": ("Text: all of it", "Text: all of it"),
    "BoolQA": ("question: is it\npassage: It -- is.\nIt is.\n", "It -- is.\nIt is."),
    "MultiRC": (
        "paragraph: One.\nquestion: no\nTwo. \nquestion: is it\ncandidate answer: yes",
        "One.\nquestion: no\nTwo. ",
    ),
    "WiC": ("word: call\nA call.\nTo call.", ""),
    "COPA": ('Which sentence is the cause of "x"? Choose one between A and B.\nA: a\nB: b', ""),
}


@pytest.fixture
def data(tmp_path):
    """Every data set of the benchmarks with a few rows, in CL_Benchmark's own layout."""
    for dataset, kind in DATASETS.items():
        folder = tmp_path / kind / dataset
        folder.mkdir(parents=True)
        labels = ["A", "B"]
        for part, first in (("train", 0), ("test", 20)):
            rows = [{"sentence": f"{PASSAGES[kind][0]}{n}", "label": labels[n % 2]} for n in range(first, first + 20)]
            (folder / f"{part}.json").write_text(json.dumps(rows))
        (folder / "labels.json").write_text(json.dumps(labels))
    for dataset, definition in superni.DEFINITIONS.items():
        folder = tmp_path / "SuperNI" / dataset
        folder.mkdir(parents=True)
        answers = definition.labels or ("an answer",)
        for part, first in (("train", 0), ("test", 20)):
            rows = [{"input": f"text {n}", "output": [answers[0], "another"]} for n in range(first, first + 20)]
            unanswered = {"input": "text of no use", "output": [" "]}
            content = {"Definition": ["of the file"], "Instances": [unanswered, *rows]}
            (folder / f"{part}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_what_may_be_cut(kind):
    text, passage = PASSAGES[kind]
    example = Template("I\n", ("A",), passage=KINDS[kind].passage).example(text, "A")
    assert example.prompt[slice(*example.truncatable)] == passage


def test_every_order_is_complete():
    for name, order in BENCHMARKS.items():
        assert len(set(order)) == len(order) == (4 if name.startswith(("standard", "unseen")) else 15)
        assert set(order) <= set(superni.DEFINITIONS if name.startswith("superni") else DATASETS)
    assert BENCHMARKS["standard-cl/1"] == ("dbpedia", "amazon", "yahoo", "agnews")
    assert BENCHMARKS["long/6"][:3] == ("yelp", "amazon", "MNLI")
    assert BENCHMARKS["superni/2"][0] == "task748_glucose_reverse_cause_event_detection"


def test_what_is_learned_and_what_is_only_measured_share_nothing():
    assert set(UNSEEN) == {"unseen/1", "unseen/2", "unseen/3"}
    for name, unseen in UNSEEN.items():
        assert BENCHMARKS[name] == BENCHMARKS[f"standard-cl/{name[-1]}"]
        assert sorted([*BENCHMARKS[name], *unseen]) == sorted(DATASETS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_by_name(data, name):
    stream = TaskStream.from_name(name, data_dir=data, train_rows=4)
    assert (stream.name, tuple(task.name for task in stream)) == (name, BENCHMARKS[name])
    assert tuple(task.name for task in stream.unseen) == UNSEEN.get(name, ())
    assert {len(task.train) for task in (*stream, *stream.unseen)} == {4}


def test_copa_has_no_instruction_and_no_options_but_labels(data):
    copa = {task.name: task for task in benchmark_tasks("long/4", data)}["COPA"]
    assert copa.labels == ("A", "B")
    assert copa.train[0].prompt.startswith("Which sentence is the cause")


def test_superni_asks_as_sapt_does_and_is_scored_by_rouge_l(data):
    tasks = {task.name: task for task in benchmark_tasks("superni/1", data)}
    assert {task.metric for task in tasks.values()} == {"rouge_l"}
    assert {len(task.test) for task in tasks.values()} == {20}  # the row without an answer is left out
    sentiment = tasks["task363_sst2_polarity_classification"]
    row = next(row for row in sentiment.test if "text 21\n" in row.prompt)
    assert row.prompt == (
        "Definition: In this task, you are given sentences from movie reviews. The task is to classify a sentence as "
        '"POS" if the sentiment of the sentence is positive or as "NEG" if the sentiment of the sentence is negative'
        "\n\nNow complete the following example -\nInput: text 21\nOutput:"
    )
    assert row.prompt[slice(*row.truncatable)] == "text 21"
    assert (row.answer, row.references, sentiment.labels) == ("POS", ("another",), ("POS", "NEG"))
    assert tasks["task591_sciq_answer_generation"].labels == ()


@pytest.mark.parametrize(
    ("task", "text", "passage"),
    [
        ("task002_quoref", "Passage: One.\nQuestion: no\nTwo. \nQuestion: Who?", "One.\nQuestion: no\nTwo. "),
        ("task748_glucose", "story: A. B.\n selected sentence: A.", "A. B."),
        ("task1729_personachat", "Personality: x" + "y" * 400, "Personality: x"),
        ("task1590_diplomacy", "short", ""),
        ("task591_sciq", "What is it?", ""),
        ("task1290_xsum", "Long.\nLonger.", "Long.\nLonger."),
    ],
)
def test_what_of_superni_may_be_cut(task, text, passage):
    (definition,) = (found for name, found in superni.DEFINITIONS.items() if name.startswith(f"{task}_"))
    example = Template(definition.instruction, passage=definition.passage, text_cue="Input: ").example(text, "A")
    assert example.prompt[slice(*example.truncatable)] == passage


def test_rows_of_which_nobody_knows_the_answer_are_left_out(data):
    path = data / "NLI" / "MNLI" / "test.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([*rows, {"sentence": "sentence 1: a\nsentence 2: b", "label": "-"}]))
    assert len({task.name: task for task in benchmark_tasks("long/4", data)}["MNLI"].test) == len(rows)


def test_task_and_dataset_lines_on_demand(data):
    prompt = benchmark_tasks("standard-cl/1", data, name_task_in_prompt=True)[0].train[0].prompt
    assert prompt.startswith("Task:TC\nDataset:dbpedia\nWhat is the topic of the following paragraph? ")


def test_data_from_the_environment(data, monkeypatch):
    monkeypatch.setenv("GORP_DATA", str(data))
    assert len(TaskStream.from_name("standard-cl/3")) == 4


def test_missing_data_says_where_it_is_to_be_had(data, tmp_path, monkeypatch):
    monkeypatch.delenv("GORP_DATA", raising=False)
    origin = r"CL_Benchmark of github\.com/cmnfriend/O-LoRA"
    with pytest.raises(InputError, match=rf"standard-cl/1 needs its data: .*--data DIR or in \$GORP_DATA.*{origin}"):
        benchmark_tasks("standard-cl/1")
    with pytest.raises(InputError, match=rf"nowhere: no such folder.*{origin}"):
        benchmark_tasks("standard-cl/1", tmp_path / "nowhere")
    (data / "TC" / "yahoo" / "train.json").unlink()
    with pytest.raises(InputError, match=rf"yahoo, a task of standard-cl/1, is not there .*{origin}"):
        benchmark_tasks("standard-cl/1", data)
    (data / "QQP" / "QQP" / "train.json").unlink()
    (data / "TC" / "yahoo" / "train.json").write_text('[{"sentence": "a", "label": "A"}]')
    with pytest.raises(InputError, match=rf"QQP, a task of unseen/1, is not there .*{origin}"):
        TaskStream.from_name("unseen/1", data)
    origin = r"CL_Benchmark of github\.com/circle-hit/SAPT, drawn from github\.com/allenai/natural-instructions"
    with pytest.raises(InputError, match=rf"superni/1 needs its data: .*{origin}"):
        benchmark_tasks("superni/1")


def test_an_unknown_name_suggests_the_nearest(data):
    with pytest.raises(InputError, match=r"no benchmark 'standard-cl/9' \(did you mean 'standard-cl/"):
        benchmark_tasks("standard-cl/9", data)


@pytest.mark.skipif("GORP_DATA" not in os.environ, reason="needs $GORP_DATA, the benchmarks' rows")
def test_the_real_rows(monkeypatch):
    one_of_each_kind = ("CB", "QQP", "SST-2", "dbpedia", "BoolQA", "MultiRC", "WiC", "COPA")
    monkeypatch.setitem(BENCHMARKS, "long/4", one_of_each_kind)
    tasks = {task.name: task for task in benchmark_tasks("long/4", limits=Limits(train_rows=60, test_rows=90))}
    assert len(tasks["dbpedia"].labels) == 14
    assert tasks["CB"].labels == ("entailment", "contradiction", "neutral")
    for name, task in tasks.items():
        assert len(task.train) == 60
        cut = [row.prompt[slice(*row.truncatable)] for row in task.train]
        assert all(cut) or name in ("WiC", "COPA")
        for row in task.rows:
            assert row.answer in task.labels
            kept = row.prompt[row.truncatable[1] :]
            assert kept.endswith("\nAnswer:")
            assert name != "MultiRC" or (kept.startswith("\nquestion: ") and "\ncandidate answer: " in kept)
            assert name != "BoolQA" or "\nquestion: " in row.prompt[: row.truncatable[0]]
        seen = {row.prompt for row in task.train}
        assert not seen & {row.prompt for row in task.validation}


@pytest.mark.skipif("GORP_DATA" not in os.environ, reason="needs $GORP_DATA, the benchmarks' rows")
def test_the_real_rows_of_superni():
    folder = Path(os.environ["GORP_DATA"])
    orders = json.loads((folder / "orders.json").read_text())
    for number in (1, 2):
        assert list(BENCHMARKS[f"superni/{number}"]) == orders[f"superni_order{number}"]
    manifest = json.loads((folder / "MANIFEST.json").read_text())["datasets"]
    published = {entry["dataset"]: entry for entry in manifest.values() if entry["benchmark"] == "superni"}
    for task in benchmark_tasks("superni/1"):
        template, text = published[task.name]["prompt_template"], task.test[0]
        before, after = (part.rstrip(" ") for part in template.split("{text}"))
        assert text.prompt.startswith(before) and text.prompt.endswith(after)
        assert len(task.test) == published[task.name]["test"]["rows"]
        assert list(task.labels) == published[task.name]["labels"]
        long = [row for row in task.test if len(row.prompt) > 3000]
        assert all(len(row.prompt[slice(*row.truncatable)]) > len(row.prompt) / 2 for row in long), task.name
