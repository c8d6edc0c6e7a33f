"""run, learn, evaluate and demo, from the command line."""

import json

import pytest

from gorp.cli.demo import demo_config
from gorp.methods import load_method


@pytest.fixture
def config(tiny_models, tiny_stream, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(
        f"model: {tiny_models['seq2seq']}\nstream: {tiny_stream}\n"
        "training: {epochs: 1, batch_size: 8}\nlora: {rank: 2}\ngorp: {rank: 2}\n"
        "data: {train_rows: 8, test_rows: 4}\n"
    )
    return path


def test_run_learn_and_evaluate(gorp, config, tmp_path):
    run = tmp_path / "run"
    code, out, err = gorp("run", config, "--out", run, "--method", "inc-lora", "--set", "training.lr=1e-3", "--seed", 3)
    assert code == 0, err
    assert "colour" in out
    assert "stage 3/3 act" in err
    assert (run / "report.html").exists()
    record = json.loads((run / "record.json").read_text())
    assert (record["method"], record["seed"], record["config"]["training"]["lr"]) == ("inc-lora", 3, 1e-3)

    code, out, err = gorp("run", config, "--out", run, "--method", "inc-lora", "--set", "training.lr=1e-3", "--seed", 3)
    assert code == 0
    assert "finished already" in err

    rows = tmp_path / "size.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": f"a {word} cat", "label": word}) + "\n" for word in ["big", "small"] * 8)
    )
    mail = tmp_path / "mail.jsonl"
    mail.write_text(rows.read_text().replace('"text"', '"body"').replace('"label"', '"topic"'))
    code, out, err = gorp("learn", run, mail, "--columns", "text=body,label=topci")
    assert code == 2 and "column 'topci' is missing (did you mean 'topic'?)" in err
    assert gorp("learn", run, mail, "--columns", "text")[0] == 2
    given = ("--name", "size", "--columns", "text=body, label=topic", "--labels", "big, small")
    code, out, err = gorp("learn", run, mail, *given)
    assert code == 0, err
    assert json.loads((run / "record.json").read_text())["tasks"] == ["colour", "animal", "act", "size"]

    code, out, err = gorp("evaluate", run, "--task", "size", "--task", "act", "--quiet")
    assert (code, [line.split()[0] for line in out.splitlines()], err) == (0, ["size", "act"], "")
    assert gorp("evaluate", run, "--data", rows, "--quiet")[1].split()[0] == "size"
    later = tmp_path / "later.jsonl"
    kept = (run / "task-04-size" / "test.jsonl").read_text().splitlines()
    texts = [json.loads(row)["prompt"].split("\n")[-2] for row in kept]
    later.write_text("".join(json.dumps({"text": text, "label": text.split()[1]}) + "\n" for text in texts))
    asked = gorp("evaluate", run, "--task", "size", "--data", later, "--quiet")
    assert asked[1] == gorp("evaluate", run, "--task", "size", "--quiet")[1]
    later.write_text(json.dumps({"text": "a red cat", "label": "red"}))
    code, out, err = gorp("evaluate", run, "--task", "size", "--data", later, "--quiet")
    assert code == 2 and "later.jsonl:1: label 'red' is not one of big, small" in err


def test_mistakes_end_with_2_and_one_line(gorp, config, tmp_path):
    for arguments, message in [
        (("run", config, "--set", "trainig.lr=1"), "unknown key 'trainig' (did you mean 'training'?)"),
        (("run", tmp_path / "none.yaml"), "none.yaml: no such configuration file"),
        (("run", config, "--method", "sqe-lora"), "'sqe-lora' is not a method (did you mean 'seq-lora'?)"),
        (("run", config, "--model", tmp_path / "nothing"), "cannot be loaded"),
        (("learn", tmp_path, "x.jsonl"), "no run here"),
        (("evaluate", tmp_path), "no run here"),
        (("evaluate", tmp_path, "--metric", "rouge_l"), "--metric is for the rows of --data"),
        (
            ("evaluate", tmp_path, "--data", "x", "--split", "test"),
            "--data: all its rows are scored; accepted: no --split",
        ),
        (("demo", "--methods", "gorp,jiont"), "unknown method 'jiont' (did you mean 'joint'?)"),
    ]:
        code, out, err = gorp(*arguments)
        assert (code, out) == (2, ""), (arguments, err)
        assert message in err
        assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_the_settings_of_the_demo_are_whole():
    """A method's own options among them, or a finished run would seem to have others."""
    assert demo_config("ewc", 0).options == load_method("ewc").read_options({}).model_dump(mode="json") != {}


def test_what_printed_commands_say_can_be_pasted(gorp, tmp_path):
    folder = tmp_path / "of mine"
    folder.mkdir()
    rows = [json.dumps({"text": f"a {number}", "label": "ab"[number % 2]}) + "\n" for number in range(40)]
    (folder / "my rows.jsonl").write_text("".join(rows))
    code, out, err = gorp("init", folder / "my rows.jsonl", "--out", folder / "gorp.yaml", "--yes")
    assert code == 0, err
    assert f"gorp run '{folder}/gorp.yaml'" in out


def test_trackers_and_names_of_files(gorp, config, tmp_path):
    run = tmp_path / "run"
    code, _, err = gorp("run", config, "--out", run, "--set", "report_to=[nonsense]", "-q")
    assert code == 2 and err.startswith("gorp: key 'report_to': 'nonsense' cannot be used (nonsense is not supported")
    assert gorp("run", config, "--out", run, "-q")[0] == 0
    for month in ("01", "02"):
        words = ("big", "small")
        rows = [json.dumps({"text": f"{number} {month}", "label": words[number % 2]}) + "\n" for number in range(12)]
        file = tmp_path / f"mail-2026.{month}.jsonl"
        file.write_text("".join(rows))
        code, _, err = gorp("learn", run, file, "-q")
        assert code == 0, err
    assert json.loads((run / "record.json").read_text())["tasks"][3:] == ["mail-2026.01", "mail-2026.02"]


def test_the_demo_compares_methods(gorp, config, tiny_models, tiny_stream, tmp_path):
    out_folder = tmp_path / "demo"
    sets = [f"model={tiny_models['seq2seq']}", f"stream={tiny_stream}", "training.epochs=1", "data.train_rows=8"]
    arguments = [part for setting in [*sets, "gorp.rank=2", "lora.rank=2"] for part in ("--set", setting)]
    code, out, err = gorp("demo", "--out", out_folder, *arguments)
    assert code == 0, err
    assert sorted(path.name for path in out_folder.iterdir()) == [".lock", "gorp", "joint", "report.html", "seq-lora"]
    assert all(word in out for word in ("gorp", "seq-lora", "joint", "comparison"))
