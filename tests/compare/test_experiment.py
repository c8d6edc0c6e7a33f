import pytest

from gorp.compare.experiment import Cell, Experiment, unlike
from gorp.errors import InputError

TEXT = """
about: two methods
base: {model: t5-tiny, stream: builtin, training: {epochs: 1, batch_size: 4}}
seeds: [0, 1]
streams: [builtin, long/4]
cells:
  gorp: {method: gorp, grid: {training.lr: [1.0e-3, 3.0e-3], gorp.energy: [0.9]}}
  joint: {method: joint, training: {epochs: 2}, streams: [builtin], seeds: [0]}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    return path


def test_cells_are_methods_by_streams_by_seeds(file):
    experiment = Experiment.read(file)
    assert [cell.key for cell in experiment.plan()] == [
        "gorp/builtin/0",
        "joint/builtin/0",
        "gorp/long-4/0",
        "gorp/builtin/1",
        "gorp/long-4/1",
    ]
    assert [cell.key for cell in experiment.plan(["gorp"], seeds=[1])] == ["gorp/builtin/1", "gorp/long-4/1"]


def test_seeds_and_streams_keep_the_order_they_are_declared_in(file):
    """Grids are tried on the first of either: one that is added later changes no choice."""
    file.write_text(TEXT.replace("seeds: [0, 1]", "seeds: [3, 1]"))
    assert [cell.seed for cell in Experiment.read(file).plan(["gorp"])] == [3, 3, 1, 1]


def test_a_stream_is_told_by_its_files_name_wherever_it_lies():
    assert {Cell("gorp", stream, 0).key for stream in ("./two.yaml", "/a/two.yaml", "two.yaml")} == {"gorp/two.yaml/0"}


def test_a_cell_says_what_differs_from_the_base(file):
    config = Experiment.read(file).config(Cell("joint", "builtin", 3), ["training.warmup=0.1"])
    training = config.training
    assert (config.method, config.seed) == ("joint", 3)
    assert (training.epochs, training.batch_size, training.warmup) == (2, 4, 0.1)


def test_a_grid_is_every_combination(file):
    experiment = Experiment.read(file)
    assert experiment.choices("gorp") == [
        {"training.lr": 0.001, "gorp.energy": 0.9},
        {"training.lr": 0.003, "gorp.energy": 0.9},
    ]
    assert experiment.choices("joint") == [{}]


def test_what_is_not_the_same_for_all_cells_is_named(file):
    experiment = Experiment.read(file)
    configs = {cell.name: experiment.config(cell) for cell in experiment.plan()}
    assert list(unlike(configs)) == ["the cells differ in training.epochs: 1 for gorp; 2 for joint"]


def test_another_file_is_extended(file):
    more = file.with_name("more.yaml")
    more.write_text("extends: mine.yaml\nbase: {training: {epochs: 5}}\nseeds: [7]\ncells: {joint: null}\n")
    experiment = Experiment.read(more)
    assert list(experiment.cells) == ["gorp"]
    assert experiment.name == "more" and experiment.seeds == [7]
    assert experiment.base["training"] == {"epochs": 5, "batch_size": 4}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("about:", "abuot:", r"mine\.yaml: unknown key 'abuot' \(did you mean 'about'\?\); accepted: "),
        ("[0, 1]", "[]", r"mine\.yaml: key 'seeds': .*at least 1"),
        ("cells:", "cellar:", r"mine\.yaml: (unknown key 'cellar'|key 'cells')"),
        ("stream: builtin", "stream: null", r"mine\.yaml: .*base\.stream is None; accepted: a stream's name or file"),
        ("stream: builtin", "stream: [long/4]", r"base\.stream is \['long/4'\]; accepted"),
        (
            "about:",
            "against: jiont\nabout:",
            r"against names no cell: 'jiont' \(did you mean 'joint'\?\); accepted: gorp,",
        ),
    ],
)
def test_mistakes_in_the_file_are_named(file, old, new, message):
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(InputError, match=message):
        Experiment.read(file)


def test_mistakes_in_cells_are_named(file):
    experiment = Experiment.read(file)
    with pytest.raises(InputError, match=r"no cell 'jiont' in mine \(did you mean 'joint'\?\)"):
        experiment.plan(["jiont"])
    with pytest.raises(InputError, match=r"no stream 'long/5' in mine .*: builtin, long/4"):
        experiment.plan(streams=["long/5"])
    assert [cell.key for cell in experiment.plan(streams=["long/4"])] == ["gorp/long-4/0", "gorp/long-4/1"]
    file.write_text(TEXT.replace("epochs: 2", "epoch: 2"))
    with pytest.raises(InputError, match=r"experiment mine: cell joint: unknown key 'training.epoch'"):
        Experiment.read(file).config(Cell("joint", "builtin", 0))
    with pytest.raises(InputError, match=r"no seed '7' in mine: 0, 1"):
        experiment.plan(seeds=[7])
    with pytest.raises(InputError, match=r"--set seed=5: a cell's seed is its place"):
        experiment.config(Cell("joint", "builtin", 0), ["seed=5"])
    with pytest.raises(InputError, match="no cell is of the cells, streams and seeds chosen all at once"):
        experiment.plan(["joint"], seeds=[1])


def read_every_cell(file):
    experiment = Experiment.read(file)
    for cell in experiment.plan():
        experiment.config(cell)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1.0e-3, 3.0e-3]", "1.0e-3", r"key 'cells\.gorp\.grid\.training\.lr': .*list; accepted: grid"),
        ("streams: [builtin], seeds: [0]", "streams: builtin", r"key 'cells\.joint\.streams': .*list"),
        ("seeds: [0]}", "seeds: 0}", r"key 'cells\.joint\.seeds': .*list"),
        ("seeds: [0]}", "seed: 3}", r"cells\.joint\.seed cannot be given; seeds: \[\.\.\.\] can"),
        ("base: {", "base: {seed: 1, ", r"base\.seed cannot be given"),
        ("  joint:", "  ../joint:", r"key 'cells\..*pattern"),
        ("{method: joint,", "{method: joint, options: {share: 1},", r"unknown key 'options\.share' for method 'joint'"),
    ],
)
def test_a_cell_that_could_not_be_run_as_written_is_refused(file, old, new, message):
    assert old in TEXT
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_every_cell(file)


def test_a_cell_and_what_a_file_extends_stay_in_their_folder(file):
    assert [Cell("gorp", stream, 0).key for stream in ("..", ".", "../..")] == ["gorp/-/0", "gorp/-/0", "gorp/..-../0"]
    file.write_text("extends: ../other.yaml\n")
    with pytest.raises(InputError, match=r"key 'extends': '../other.yaml' leaves the folder of the file"):
        Experiment.read(file)


def test_streams_that_would_share_a_folder_are_refused(file):
    file.write_text(TEXT.replace("streams: [builtin, long/4]", "streams: [long/4, long-4]"))
    with pytest.raises(InputError, match="'long/4' and 'long-4' would share a folder"):
        Experiment.read(file).plan()


def test_streams_that_results_could_not_tell_apart_are_refused(file):
    file.write_text(TEXT.replace("streams: [builtin, long/4]", "streams: [p/two.yaml, q/two.yaml]"))
    with pytest.raises(InputError, match=r"'p/two\.yaml' and 'q/two\.yaml' would be one in the results"):
        Experiment.read(file).plan()


@pytest.mark.parametrize("tuning", ["{training: {lr: 1.0e-4}}", "{training: {lr: 1.0e-4, epochs: 2}}"])
def test_what_a_grid_tries_is_not_set_for_every_try(file, tuning):
    file.write_text(f"{TEXT}tuning: {tuning}\n")
    with pytest.raises(InputError, match=r"cells\.gorp\.grid tries training\.lr, which tuning sets for every try"):
        Experiment.read(file).plan()


def test_a_grid_does_not_choose_the_rows_it_is_scored_on(file):
    file.write_text(TEXT.replace("gorp.energy: [0.9]", "evaluation.split: [test, validation]"))
    with pytest.raises(InputError, match=r"grid tries evaluation\.split"):
        Experiment.read(file).plan()


def test_settings_are_chosen_on_validation_rows_whatever_is_set(file):
    file.write_text(TEXT + "tuning: {data: {train_rows: 5}}\n")
    cell = Cell("gorp", "builtin", 0)
    config = Experiment.read(file).config(cell, ["evaluation.split=test", "data.train_rows=9"], tuning=True)
    assert (config.evaluation.split, config.data.train_rows) == ("validation", 5)


def test_a_file_cannot_extend_itself(tmp_path):
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(f"extends: {other}.yaml\n")
    with pytest.raises(InputError, match=r"a\.yaml: extends itself"):
        Experiment.read(tmp_path / "a.yaml")


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "none.yaml").write_text("")
    with pytest.raises(InputError, match=r"none\.yaml: is empty"):
        Experiment.read(tmp_path / "none.yaml")


def test_a_stream_of_one_cell_is_not_the_others(file):
    file.write_text(TEXT.replace("streams: [builtin, long/4]", "streams: [long/4]"))
    assert [cell.key for cell in Experiment.read(file).plan()] == [
        "gorp/long-4/0",
        "joint/builtin/0",
        "gorp/long-4/1",
    ]
