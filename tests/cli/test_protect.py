"""``gorp protect``, and ``gorp evaluate`` of what became of the base model's abilities."""

import json
import re

import pytest

from gorp.cli.main import main
from gorp.space import GradientSpace

SETTINGS = """
model: {model}
stream: {stream}
protect: {space}
training: {{epochs: 1, lr: 0.01, batch_size: 8, max_source_length: 64}}
gorp: {{lora_targets: [EncDecAttention], full_rank_targets: [], rank: 2, max_share: 0.9}}
data: {{train_rows: 8, test_rows: 2, validation_rows: 2}}
evaluation: {{each_stage: new}}
"""


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    return exit_.value.code or 0


@pytest.fixture
def config(tiny_pretrained, tiny_stream, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        SETTINGS.format(model=tiny_pretrained["seq2seq"], stream=tiny_stream, space=tmp_path / "space.safetensors")
    )
    return path


def test_protect_then_run_then_tell(config, tiny_pretrained, general_text, tmp_path, capsys):
    """The table comes first, the space after it; a run begins with it; evaluate tells loss before and after."""
    space, model = tmp_path / "space.safetensors", tiny_pretrained["seq2seq"]
    assert run("protect", model, general_text, "--config", config, "--energy", 0.7, "--out", space) == 0
    printed = capsys.readouterr().out
    assert re.search(r"layers +0\.5 +0\.7 +0\.8 +0\.9 +0\.95 +0\.98 +0\.99", printed)
    assert re.search(r"decoder\.block\.\*\.layer\.\*\.EncDecAttention\.q +\d+%", printed)
    loaded = GradientSpace.load(space)
    kept = sum(side.rank for side in loaded.input_sides)
    assert f"{kept} directions of 8 layers, 0.7 of the energy" in printed
    assert loaded.max_share == 0.9
    assert run("run", config, "--out", tmp_path / "run", "--quiet") == 0
    moved = space.rename(tmp_path / "moved.safetensors")
    assert run("run", config, "--out", tmp_path / "run", "--quiet", "--set", f"protect={moved}") == 0
    assert run("run", config, "--out", tmp_path / "run", "--quiet", "--set", "protect=null") == 2
    assert "is a run with protect = " in capsys.readouterr().err
    capsys.readouterr()
    assert run("evaluate", tmp_path / "run", "--general", general_text, "--quiet") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["before", "colour", "animal", "act"]
    before, *after = (float(line.split()[1]) for line in lines)
    rises = [float(line.split()[2]) for line in lines[1:]]
    assert rises == pytest.approx([loss - before for loss in after], abs=1.1e-3)


def test_the_default_share_and_targets(tiny_pretrained, general_text, tmp_path, capsys):
    out = tmp_path / "s.safetensors"
    assert run("protect", tiny_pretrained["causal"], general_text, "--out", out, "--set", "gorp.rank=2", "-q") == 0
    assert capsys.readouterr().out == ""
    names = {name.rpartition(".")[2] for name in GradientSpace.load(out).layers}
    assert names == {"q_proj", "v_proj", "gate_proj"}


@pytest.mark.parametrize(
    ("content", "options", "problem"),
    [
        ("", [], "holds no rows"),
        ('{"body": "red cat"}\n', [], "has no column 'text'"),
        ('{"text": "red cat"}\n', [], "no text has 8 tokens or more"),
        (None, ["--energy", "1.5"], "--energy 1.5: accepted: a share, 0 to 1"),
        (None, ["--set", "gorp.lora_targets=[nowhere]"], "'nowhere' matches no linear layer"),
        (None, ["--set", "gorp.variant=paper"], "gorp.variant"),
        (None, ["--out", "nowhere/s.safetensors"], "no such folder as nowhere"),
        (None, ["--out", "."], "--out .: is a folder; accepted: a file"),
    ],
)
def test_bad_input_is_told_and_nothing_written(
    tiny_pretrained, general_text, tmp_path, capsys, content, options, problem
):
    text = general_text
    if content is not None:
        text = tmp_path / "g.jsonl"
        text.write_text(content)
    out = tmp_path / "s.safetensors"
    assert run("protect", tiny_pretrained["causal"], text, "--out", out, "--set", "gorp.rank=2", *options) == 2
    assert problem in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_lm_eval_before_and_after(config, tiny_pretrained, tiny_stream, general_text, tmp_path, capsys):
    pytest.importorskip("lm_eval", reason="lm-eval is an extra")
    (tmp_path / "tasks").mkdir()
    rows = [
        json.dumps({"q": f"this {word} cat", "gold": n % 2}) + "\n" for n, word in enumerate(["red", "green", "big"])
    ]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    (tmp_path / "tasks" / "tiny.yaml").write_text(
        f"task: tiny_choice\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: gold\n"
        "doc_to_choice: [runs, sleeps]\nmetric_list: [{metric: acc}]\n"
    )
    config.write_text(config.read_text().replace(f"protect: {tmp_path / 'space.safetensors'}", "protect: null"))
    assert run("run", config, "--out", tmp_path / "run", "--quiet") == 0
    capsys.readouterr()
    tasks = ["--lm-eval-folder", tmp_path / "tasks"]
    assert run("evaluate", tmp_path / "run", "--lm-eval", "tiny_choice", *tasks, "--quiet") == 0
    name, metric, before, after, change = capsys.readouterr().out.split()
    assert (name, metric) == ("tiny_choice", "acc")
    assert float(after) - float(before) == pytest.approx(float(change), abs=2e-3)
    assert run("evaluate", tmp_path / "run", "--lm-eval", "tiny_choise", *tasks) == 2
    assert "did you mean 'tiny_choice'?" in capsys.readouterr().err
