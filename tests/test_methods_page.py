"""docs/methods.md names every method and tells the truth about it."""

import re
from pathlib import Path

from safetensors.torch import load_file

from gorp.methods import METHODS, load_method
from gorp.run import run_stream
from gorp.run_config import RunConfig

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "methods.md").read_text()


def test_every_method_is_in_the_table_with_what_it_is_given():
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    told = {
        name: (old_rows, task.strip(" |"))
        for names, _, _, old_rows, task in rows
        for name in re.findall(r"`([a-z0-9-]+)`", names)
    }
    assert set(told) == set(METHODS)
    for name, given in told.items():
        method = load_method(name)
        assert given == tuple("yes" if flag else "no" for flag in (method.keeps_old_rows, method.told_task)), name


def test_the_method_that_is_shown_learns_and_goes_on(tiny_models, tiny_stream, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?class ElasticLoRA.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(METHODS, "elastic-lora", "mine:ElasticLoRA")
    learnt = {}
    for strength in (0, 100):
        values = {"method": "elastic-lora", "model": str(tiny_models["seq2seq"]), "stream": str(tiny_stream)}
        config = RunConfig.from_mapping({**values, "options": {"strength": strength}, "lora": {"rank": 2}})
        run = tmp_path / str(strength)
        assert run_stream(config, run).finished
        assert run_stream(config, run).finished  # taken up again, with its state
        last = [load_file(run / f"task-0{stage}" / "after" / "weights.safetensors") for stage in ("1-colour", "3-act")]
        learnt[strength] = sum(float((last[1][name] - value).norm()) for name, value in last[0].items())
    assert 0 < learnt[100] < 0.5 * learnt[0]
