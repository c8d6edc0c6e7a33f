"""The committed experiments are runs that gorp accepts, one is the demo, and their results belong to them."""

import json
import sys
from pathlib import Path

import pytest

from gorp.cli.demo import METHODS, demo_config
from gorp.compare.experiment import Cell, Experiment
from gorp.compare.results import read_results
from gorp.run_config import RunConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import write_results  # noqa: E402

FILES = sorted((BENCHMARKS / "experiments").glob("*.yaml"))


def read(name):
    return Experiment.read(BENCHMARKS / "experiments" / f"{name}.yaml")


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_cell_is_a_run(file):
    experiment = Experiment.read(file)
    assert experiment.against in experiment.cells
    for cell in experiment.plan():
        assert experiment.config(cell).stream == cell.stream
        experiment.choices(cell.name)


@pytest.mark.parametrize("method", METHODS.split(","))
def test_the_built_in_experiment_measures_the_demo(method):
    assert read("builtin").config(Cell(method, "builtin", 1)) == demo_config(method, seed=1)


def test_the_example_is_the_run_that_was_measured():
    example = RunConfig.from_yaml(BENCHMARKS.parent / "examples" / "standard_cl_order1.yaml")
    assert example == read("methods_t5").config(Cell("gorp", "standard-cl/1", 0))


def test_an_experiment_says_only_what_differs():
    standard, long = read("methods_t5"), read("methods_t5_long")
    assert (long.streams, long.seeds) == (["long/6"], standard.seeds)
    assert long.base["training"] == {**standard.base["training"], "epochs": 4, "max_source_length": 160}


@pytest.mark.parametrize("file", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda file: file.stem)
def test_kept_results_are_of_their_experiment(file):
    experiment = read(file.stem)
    cells = {cell.key: cell for cell in experiment.plan()}
    results = read_results(file)
    assert results
    for key, result in results.items():
        tuned = result.tuning.chosen if result.tuning else {}
        settings = [f"{name}={json.dumps(value)}" for name, value in tuned.items()]
        settings.append(f"model={result.config['model']}")
        declared = experiment.config(cells[key], settings)
        assert result.config["evaluation"]["split"] == "test"
        assert result.was_made_with(declared), key
        if result.tuning and result.tuning.conditions is not None:
            first = experiment.plan([result.cell])[0]
            assert result.was_tuned_with(experiment.config(first, settings, tuning=True)), key


@pytest.mark.parametrize("page", write_results.PAGES, ids=lambda page: page.stem)
def test_pages_of_results_are_up_to_date(page):
    stale = f"docs/{page.name} is stale; run: python benchmarks/write_results.py"
    assert page.read_text() == write_results.render(page), stale
