"""The committed experiments are runs that gorp accepts, and the built-in one is the demo."""

import sys
from pathlib import Path

import pytest

from gorp.cli.demo import METHODS, demo_config
from gorp.errors import InputError
from gorp.run_config import RunConfig

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from experiments import config_of, read_experiment  # noqa: E402

FILES = sorted((BENCHMARKS / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_cell_is_a_run(file):
    experiment = read_experiment(file)
    assert experiment["seeds"]
    for cell in experiment["cells"]:
        assert config_of(experiment, cell).stream == experiment["base"]["stream"]


@pytest.mark.parametrize("method", METHODS.split(","))
def test_the_built_in_experiment_measures_the_demo(method):
    experiment = read_experiment(BENCHMARKS / "experiments" / "builtin.yaml")
    assert config_of(experiment, method, ["seed=1"]) == demo_config(method, seed=1)


def test_the_example_is_the_run_that_was_measured():
    experiment = read_experiment(BENCHMARKS / "experiments" / "standard_cl_order1.yaml")
    example = RunConfig.from_yaml(BENCHMARKS.parent / "examples" / "standard_cl_order1.yaml")
    assert example == config_of(experiment, "gorp")


def test_a_mistake_is_named_with_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: {stream: builtin}\ncells: {gorp: {gorp: {energyy: 1}}}\n")
    with pytest.raises(InputError, match=r"mine\.yaml: cell gorp: .*energyy"):
        config_of(read_experiment(file), "gorp")


def test_an_experiment_says_only_what_differs():
    order1, order6 = (
        read_experiment(BENCHMARKS / "experiments" / f"{name}.yaml") for name in ("standard_cl_order1", "long_order6")
    )
    assert order6["base"]["stream"] == "long/6"
    assert order6["base"]["training"] == {**order1["base"]["training"], "max_source_length": 160}
