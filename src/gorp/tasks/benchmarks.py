"""The benchmarks by name.

``standard-cl/1`` to ``3`` learn four topics and sentiments, ``long/4`` to ``6`` fifteen tasks with labels,
``superni/1`` and ``2`` fifteen tasks most of which have free answers. ``unseen/1`` to ``3`` learn standard-cl's orders
and measure the other eleven tasks of ``long``, which are never learned.

Instructions, label lists, prompts and orders are those of O-LoRA's ``CL_Benchmark`` and of the configurations of
GORP; those of ``superni`` are SAPT's. The data sets are not part of gorp; they are read from a folder that holds one
folder per data set, ``<dir>/<dataset>``, ``<dir>/olora/<dataset>`` (``<dir>/superni/<dataset>``) or, as in either
``CL_Benchmark``, ``<dir>/<kind>/<dataset>`` (``<dir>/SuperNI/<dataset>``).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gorp.errors import InputError, nearest
from gorp.tasks import superni
from gorp.tasks.prompts import NOTHING, WHOLE_TEXT
from gorp.tasks.sources import read_task
from gorp.tasks.splits import Limits
from gorp.tasks.task import Task

DATA_VARIABLE = "GORP_DATA"

#: What stands in the published files where nobody knows the answer: in MNLI, and in a SuperNI task.
NO_ANSWER = ("-", "")


@dataclass(frozen=True)
class Kind:
    """A kind of task: its instruction, what of its texts may be cut, whether the prompt lists the labels."""

    instruction: str
    passage: str = WHOLE_TEXT
    list_options: bool = True


#: The question stands in the text itself in all but SC and TC, and is kept: of a passage with a question, the passage
#: may be cut; of NLI the premise (``sentence 1``), not the hypothesis; of QQP, where neither is the question, the
#: longer; of WiC and COPA, nothing.
KINDS: dict[str, Kind] = {
    "NLI": Kind(
        'What is the logical relationship between the "sentence 1" and the "sentence 2"? Choose one from the option.\n',
        passage=r"(?s)sentence 1: (.*)\nsentence 2: .*",
    ),
    "QQP": Kind(
        'Whether the "first sentence" and the "second sentence" have the same meaning? Choose one from the option.\n',
        passage=r"(?s)first sentence: (.*)\nsecond sentence: (.*?)\n?",
    ),
    "SC": Kind("What is the sentiment of the following paragraph? Choose one from the option.\n"),
    "TC": Kind("What is the topic of the following paragraph? Choose one from the option.\n"),
    "BoolQA": Kind(
        "According to the following passage, is the question true or false? Choose one from the option.\n",
        passage=r"(?s)question: .*?\npassage: (.*?)\n?",
    ),
    "MultiRC": Kind(
        "According to the following passage and question, is the candidate answer true or false? "
        "Choose one from the option.\n",
        passage=r"(?s)paragraph: (.*)\nquestion: .*\ncandidate answer: .*",
    ),
    "WiC": Kind(
        "Given a word and two sentences, whether the word is used with the same sense in both sentence? "
        "Choose one from the option.\n",
        passage=NOTHING,
    ),
    "COPA": Kind("", passage=NOTHING, list_options=False),
}

DATASETS: dict[str, str] = {
    "MNLI": "NLI",
    "CB": "NLI",
    "RTE": "NLI",
    "QQP": "QQP",
    "IMDB": "SC",
    "SST-2": "SC",
    "amazon": "SC",
    "yelp": "SC",
    "agnews": "TC",
    "dbpedia": "TC",
    "yahoo": "TC",
    "BoolQA": "BoolQA",
    "MultiRC": "MultiRC",
    "WiC": "WiC",
    "COPA": "COPA",
}

_ORDERS: dict[str, tuple[str, ...]] = {
    name: tuple(order.split())
    for name, order in {
        "standard-cl/1": "dbpedia amazon yahoo agnews",
        "standard-cl/2": "dbpedia amazon agnews yahoo",
        "standard-cl/3": "yahoo amazon agnews dbpedia",
        "long/4": "MNLI CB WiC COPA QQP BoolQA RTE IMDB yelp amazon SST-2 dbpedia agnews MultiRC yahoo",
        "long/5": "MultiRC BoolQA WiC MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yelp amazon yahoo",
        "long/6": "yelp amazon MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yahoo MultiRC BoolQA WiC",
    }.items()
}

#: The data sets that a benchmark learns, in their order.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    **_ORDERS,
    **superni.ORDERS,
    **{f"unseen/{number}": _ORDERS[f"standard-cl/{number}"] for number in (1, 2, 3)},
}

#: The data sets that a benchmark measures and never learns.
UNSEEN: dict[str, tuple[str, ...]] = {
    name: tuple(dataset for dataset in DATASETS if dataset not in order)
    for name, order in BENCHMARKS.items()
    if name.startswith("unseen/")
}


def benchmark_tasks(
    name: str, data_dir: str | Path | None = None, limits: Limits | None = None, name_task_in_prompt: bool = False
) -> list[Task]:
    """Read the tasks that a benchmark learns, in its order.

    Raises:
        InputError: no benchmark of that name, or its data is not under ``data_dir`` (by default ``$GORP_DATA``).
    """
    return _tasks(name, BENCHMARKS.get(name, ()), data_dir, limits, name_task_in_prompt)


def unseen_tasks(
    name: str, data_dir: str | Path | None = None, limits: Limits | None = None, name_task_in_prompt: bool = False
) -> list[Task]:
    """Read the tasks that a benchmark measures and never learns; there are none but in ``unseen/...``.

    Raises:
        InputError: as `benchmark_tasks`.
    """
    return _tasks(name, UNSEEN.get(name, ()), data_dir, limits, name_task_in_prompt)


def _tasks(
    name: str, datasets: tuple[str, ...], data_dir: str | Path | None, limits: Limits | None, name_task_in_prompt: bool
) -> list[Task]:
    if name not in BENCHMARKS:
        raise InputError(f"no benchmark {name!r}{nearest(name, BENCHMARKS)}; accepted: {', '.join(BENCHMARKS)}")
    root = _root(name, data_dir)
    folders = {dataset: _folder(root, dataset, name) for dataset in datasets}
    return [
        read_task(
            folder,
            name=dataset,
            name_task_in_prompt=name_task_in_prompt,
            no_answer=NO_ANSWER,
            limits=limits,
            **_settings(dataset),
        )
        for dataset, folder in folders.items()
    ]


def _settings(dataset: str) -> dict[str, Any]:
    """Return what `read_task` must be told of a data set."""
    if dataset in superni.DEFINITIONS:
        definition = superni.DEFINITIONS[dataset]
        return {
            "kind": definition.kind,
            "labels": definition.labels,
            "instruction": definition.instruction,
            "passage": definition.passage,
            "list_options": False,
            "text_cue": superni.TEXT_CUE,
            "answer_cue": superni.ANSWER_CUE,
            "metric": superni.METRIC,
        }
    kind = KINDS[DATASETS[dataset]]
    return {
        "kind": DATASETS[dataset],
        "instruction": kind.instruction,
        "passage": kind.passage,
        "list_options": kind.list_options,
    }


def _root(name: str, data_dir: str | Path | None) -> Path:
    root = data_dir or os.environ.get(DATA_VARIABLE)
    origin = _origin(BENCHMARKS[name][0])
    if not root:
        raise InputError(f"{name} needs its data: give its folder with --data DIR or in ${DATA_VARIABLE}. {origin}")
    if not Path(root).is_dir():
        raise InputError(f"{root}: no such folder. {origin}")
    return Path(root)


def _folder(root: Path, dataset: str, benchmark: str) -> Path:
    above = ("superni", "SuperNI") if dataset in superni.DEFINITIONS else ("olora", DATASETS[dataset])
    candidates = [root / dataset, *(root / folder / dataset for folder in above)]
    found = next((candidate for candidate in candidates if candidate.is_dir() and any(candidate.glob("train.*"))), None)
    if found is None:
        looked = ", ".join(str(candidate.relative_to(root)) for candidate in candidates)
        raise InputError(
            f"{root}: {dataset}, a task of {benchmark}, is not there (looked for {looked}). {_origin(dataset)}"
        )
    return found


def _origin(dataset: str) -> str:
    """Return where a data set is to be had."""
    if dataset in superni.DEFINITIONS:
        return (
            "The data sets are the folder CL_Benchmark of github.com/circle-hit/SAPT, drawn from "
            "github.com/allenai/natural-instructions; each has train.json and test.json."
        )
    return (
        "The data sets are the folder CL_Benchmark of github.com/cmnfriend/O-LoRA; "
        "each has train.json, test.json and labels.json."
    )
