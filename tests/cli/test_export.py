"""export and generate, from the command line."""

import io
import json

import pytest

from gorp import hub
from gorp.run import run_stream
from gorp.run_config import RunConfig


@pytest.fixture(scope="module")
def runs(tiny_models, tiny_stream, tmp_path_factory):
    """A small run of a kind of model, made once."""
    made = {}

    def run(kind, method="gorp"):
        if (kind, method) not in made:
            folder = tmp_path_factory.mktemp("run")
            values = {
                "model": str(tiny_models[kind]),
                "method": method,
                "stream": str(tiny_stream),
                "training": {"epochs": 1},
                "lora": {"rank": 2},
                "gorp": {"rank": 2},
                "data": {"train_rows": 8, "test_rows": 4},
            }
            run_stream(RunConfig.from_mapping(values), folder)
            made[kind, method] = folder
        return made[kind, method]

    return run


def test_export_writes_says_how_near_it_is_and_pushes_if_asked(gorp, runs, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(hub, "push", lambda *how: pushed.append(how) or "https://hub/me/desk")
    code, out, err = gorp("export", runs("seq2seq"), tmp_path / "out", "--to", "animal")
    assert (code, err, pushed) == (0, "", [])
    assert out == f"The weights are the very ones that the run computes with.\nwritten: {tmp_path / 'out'}\n"
    code, out, err = gorp("export", runs("seq2seq"), tmp_path / "out", "--push", "me/desk", "--public", "--quiet")
    assert (code, out, err) == (0, "", "")
    assert pushed == [((tmp_path / "out").resolve(), "me/desk", True, f"gorp export of {runs('seq2seq').name}")]
    assert 'from_pretrained("me/desk")' in (tmp_path / "out" / "README.md").read_text()


def test_mistakes_end_with_2_and_one_line(gorp, runs, tmp_path):
    run, out = runs("seq2seq"), tmp_path / "out"
    for arguments, message in [
        (("export", tmp_path, out), "no run here"),
        (("export", run, out, "--push", "a b"), "--push a b: is no name of a repository"),
        (("export", run, out, "--to", "colur"), "(did you mean 'colour'?)"),
        (("export", run, out, "--adapter"), "learnt at full rank, which no adapter holds"),
        (("export", run, run), "holds files that are no export"),
        (("export", run, out, "--model", tmp_path), "cannot be loaded"),
        (("generate", run, " "), "no prompt"),
        (("generate", run, "a", "--task", "colur"), "(did you mean 'colour'?)"),
        (("generate", runs("encoder"), "a"), "chooses among labels; give some (--options), or one of its tasks"),
        (("generate", runs("seq2seq", "per-task"), "a"), "has to be told which (--task)"),
    ]:
        code, printed, err = gorp(*arguments)
        assert (code, printed) == (2, ""), (arguments, err)
        assert message in err
        assert err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("kind", ["seq2seq", "causal", "encoder"])
def test_generate_answers_each_prompt(gorp, runs, kind, monkeypatch):
    code, out, err = gorp("generate", runs(kind), "a red cat", "the big dog", "--options", "cat, dog")
    assert (code, err) == (0, "")
    assert set(out.split()) <= {"cat", "dog"} and len(out.split()) == 2
    again = gorp("generate", runs(kind), "a red cat", "--options", "cat, dog")[1]
    assert again == out.splitlines(keepends=True)[0]
    monkeypatch.setattr("sys.stdin", io.StringIO("a red cat\n"))
    assert gorp("generate", runs(kind), "--options", "cat, dog")[1] == again
    code, out, err = gorp("generate", runs(kind), "caf\udce9", "--options", "cat, dog")
    assert (code, out, err.strip()) == (2, "", r"gorp: prompt 'caf\udce9' is not UTF-8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), encoding="utf-8"))
    assert "standard input: byte 3 is not UTF-8" in gorp("generate", runs(kind), "--options", "cat, dog")[2]
    if kind == "encoder":
        assert gorp("generate", runs(kind), "a red cat", "--task", "act")[1].strip() in ("runs", "sleeps", "eats")
    else:
        few, many = (gorp("generate", runs(kind), "a red cat", "--max-new-tokens", n)[1].split() for n in (1, 6))
        assert len(few) <= 1 and many[: len(few)] == few


def test_a_text_is_put_as_the_rows_of_its_task_are(gorp, runs, tiny_stream):
    """So that a test row's text alone is answered as the whole row is when the run is scored."""
    row = json.loads((tiny_stream.parent / "colour-test.jsonl").read_text().splitlines()[0])
    prompt = f"What colour is named ? Choose one from the option .\nOption: red, green, blue \n{row['text']}\nAnswer:"
    for method in ("gorp", "per-task"):
        run = runs("seq2seq", method)
        put = gorp("generate", run, row["text"], "--task", "colour")
        assert put[0] == 0, put
        assert put == gorp("generate", run, prompt, "--task", "colour")
    bare = gorp("generate", runs("seq2seq"), prompt)
    assert bare == gorp("generate", runs("seq2seq"), row["text"], "--task", "colour")
