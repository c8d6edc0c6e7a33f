from pathlib import Path

import pytest
import yaml

from gorp.errors import InputError
from gorp.run_config import RunConfig


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_a_file_gives_values_and_defaults(tmp_path):
    config = RunConfig.from_yaml(write(tmp_path, "method: seq-lora\ntraining: {lr: 1e-3, epochs: 2}\n"))
    assert (config.method, config.training.lr, config.training.epochs) == ("seq-lora", 1e-3, 2)
    assert config.training.save_every == RunConfig().training.save_every


def test_overrides_win_key_by_key(tmp_path):
    path = write(tmp_path, "training: {lr: 0.5, epochs: 2}\n")
    config = RunConfig.from_yaml(path, ["training.lr=1e-3", "gorp.variant=paper", "lora.targets=[a.q, a.v]"])
    assert (config.training.lr, config.training.epochs) == (1e-3, 2)
    assert (config.gorp.variant, config.gorp.memory) == ("paper", "first_moment")
    assert config.lora.targets == ["a.q", "a.v"]


def test_the_resolved_file_reads_back_the_same(tmp_path):
    config = RunConfig.from_mapping({"method": "joint", "gorp": {"variant": "paper"}, "training": {"lr": 0.25}})
    assert RunConfig.from_yaml(write(tmp_path, config.to_yaml())) == config
    assert set(yaml.safe_load(config.to_yaml())) == set(RunConfig.model_fields)


def test_paths_beside_the_file_are_found(tmp_path):
    (tmp_path / "stream.yaml").write_text("")
    assert RunConfig.from_yaml(write(tmp_path, "stream: stream.yaml")).stream == str(tmp_path / "stream.yaml")
    assert RunConfig.from_yaml(write(tmp_path, "stream: builtin")).stream == "builtin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainig: {lr: 1}", r"run.yaml: unknown key 'trainig' \(did you mean 'training'\?\); accepted: .*training"),
        (
            "training: {leaning_rate: 1, epoch: 2}",
            r"unknown key 'training.leaning_rate'.*accepted: epochs, .*and 1 more",
        ),
        ("training: {epochs: 0}", r"key 'training.epochs': .*greater than or equal to 1, found 0"),
        ("training: {schedule: step}", r"key 'training.schedule': .*'constant', 'linear' or 'cosine', found 'step'"),
        ("training: {schedule: liner}", r"found 'liner' \(did you mean 'linear'\?\)"),
        ("gorp: {rnak: 4}", r"unknown key 'gorp.rnak' \(did you mean 'rank'\?\)"),
        ("method: seqlora", r"key 'method': 'seqlora' is not a method \(did you mean 'seq-lora'\?\); methods: gorp"),
        ("training: [1]", r"key 'training'"),
        ("- 1", r"expected keys and values, found list"),
        ("", r"is empty"),
        (
            "tasks: [{path: a.csv}]",
            r"run.yaml: is a stream file; accepted: a configuration whose key 'stream' names it",
        ),
        ("a: b: c", r"run.yaml:1: not valid YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        RunConfig.from_yaml(write(tmp_path, text))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none.yaml: no such configuration file"):
        RunConfig.from_yaml(tmp_path / "none.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: Zürich".encode("latin-1"))
    with pytest.raises(InputError, match="byte 7 is not UTF-8"):
        RunConfig.from_yaml(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lr", "expected key=value"),
        ("seed.x=1", "'seed' is a value, not a section"),
        ("training.lr=[", "not valid YAML"),
        ("training.rate=1", "unknown key 'training.rate'"),
    ],
)
def test_mistakes_in_overrides_are_named(override, message):
    with pytest.raises(InputError, match=message):
        RunConfig.from_mapping({"seed": 1}, [override])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"variant": "paper", "memory": "sketch"},
            "memory 'sketch' belongs to variant 'exact'; 'paper' accepts 'first_m",
        ),
        (
            {"variant": "paper", "projection": "random"},
            "projection 'random' belongs to variant 'exact'; 'paper' accepts",
        ),
        (
            {"projection": "random", "memory": "sketch"},
            "'random' forms no gradient for memory 'sketch'; it accepts 'features' and 'weighted_features'",
        ),
        ({"projection": "random", "memory": "first_moment"}, "forms no gradient for memory 'first_moment'; it accepts"),
        ({"memory": "first_moment", "damping": 0.5}, "damping needs a memory that sees rows"),
    ],
)
def test_settings_of_gorp_that_exclude_each_other(settings, message):
    with pytest.raises(InputError, match=message):
        RunConfig.from_mapping({"gorp": settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gorp": {"seed": 7}}, "gorp.seed is 7, and what counts in a run is seed, which is 0"),
        (
            {"gorp": {"accumulation_steps": 4}, "training": {"accumulation_steps": 2}},
            "gorp.accumulation_steps is 4, and what counts in a run is training.accumulation_steps, which is 2",
        ),
    ],
)
def test_what_a_run_says_itself_is_not_said_twice(settings, message):
    with pytest.raises(InputError, match=message):
        RunConfig.from_mapping(settings)
    assert RunConfig.from_mapping({"gorp": {"seed": 7}, "seed": 7}).gorp.seed == 7


def test_random_projections_have_a_memory_of_their_own():
    assert RunConfig.from_mapping({"gorp": {"projection": "random"}}).gorp.memory == "weighted_features"
    assert RunConfig.from_mapping({"gorp": {}}).gorp.memory == "sketch"


@pytest.mark.parametrize("key", ["training.lr", "training.max_grad_norm", "lora.alpha", "gorp.damping"])
@pytest.mark.parametrize("number", [".inf", ".nan"])
def test_settings_are_finite(key, number):
    with pytest.raises(InputError, match=f"key '{key}': "):
        RunConfig.from_mapping({}, [f"{key}={number}"])
