"""The benchmarks by name: standard-cl/1 to 3 (four topics and sentiments) and long/4 to 6 (fifteen tasks).

Instructions, label lists, prompts and orders are those of O-LoRA's ``CL_Benchmark`` and of the configurations of
GORP. The data sets are not part of gorp; they are read from a folder that holds one folder per data set,
``<dir>/<dataset>``, ``<dir>/olora/<dataset>`` or, as in ``CL_Benchmark``, ``<dir>/<kind>/<dataset>``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gorp.errors import InputError, nearest
from gorp.tasks.prompts import WHOLE_TEXT
from gorp.tasks.sources import read_task
from gorp.tasks.splits import Limits
from gorp.tasks.task import Task

DATA_VARIABLE = "GORP_DATA"

NOTHING = r"(?s).*"


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

BENCHMARKS: dict[str, tuple[str, ...]] = {
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


def benchmark_tasks(
    name: str, data_dir: str | Path | None = None, limits: Limits | None = None, name_task_in_prompt: bool = False
) -> list[Task]:
    """Read the tasks of a benchmark, in its order.

    Raises:
        InputError: no benchmark of that name, or its data is not under ``data_dir`` (by default ``$GORP_DATA``).
    """
    if name not in BENCHMARKS:
        raise InputError(f"no benchmark {name!r}{nearest(name, BENCHMARKS)}; accepted: {', '.join(BENCHMARKS)}")
    root = _root(name, data_dir)
    folders = {dataset: _folder(root, dataset, name) for dataset in BENCHMARKS[name]}
    return [_task(dataset, folder, limits, name_task_in_prompt) for dataset, folder in folders.items()]


def _task(dataset: str, folder: Path, limits: Limits | None, name_task_in_prompt: bool) -> Task:
    kind = KINDS[DATASETS[dataset]]
    return read_task(
        folder,
        name=dataset,
        kind=DATASETS[dataset],
        instruction=kind.instruction,
        passage=kind.passage,
        list_options=kind.list_options,
        name_task_in_prompt=name_task_in_prompt,
        limits=limits,
    )


def _root(name: str, data_dir: str | Path | None) -> Path:
    root = data_dir or os.environ.get(DATA_VARIABLE)
    if not root:
        raise InputError(f"{name} needs its data: give its folder with --data DIR or in ${DATA_VARIABLE}. {_ORIGIN}")
    if not Path(root).is_dir():
        raise InputError(f"{root}: no such folder. {_ORIGIN}")
    return Path(root)


def _folder(root: Path, dataset: str, benchmark: str) -> Path:
    candidates = [root / dataset, root / "olora" / dataset, root / DATASETS[dataset] / dataset]
    found = next((candidate for candidate in candidates if candidate.is_dir() and any(candidate.glob("train.*"))), None)
    if found is None:
        looked = ", ".join(str(candidate.relative_to(root)) for candidate in candidates)
        raise InputError(f"{root}: {dataset}, a task of {benchmark}, is not there (looked for {looked}). {_ORIGIN}")
    return found


_ORIGIN = (
    "The data sets are the folder CL_Benchmark of github.com/cmnfriend/O-LoRA; "
    "each has train.json, test.json and labels.json."
)
