"""A cell's exit code tells whether to try again, and how."""

import os
from contextlib import ExitStack

from gorp.compare import cell
from gorp.compare.cell import CELL, GIVEN_BACK, RESULT
from gorp.files import locked
from gorp.run_config import RunConfig


def test_a_run_that_is_in_use_gives_the_cell_back_and_names_who_uses_it(
    tiny_models, tiny_stream, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(cell, "_die_with_the_parent", lambda: None)
    values = {"method": "seq-lora", "model": str(tiny_models["causal"]), "stream": str(tiny_stream)}
    small = {"data": {"train_rows": 4, "test_rows": 2}, "training": {"epochs": 1, "batch_size": 4}}
    (tmp_path / CELL).write_text(RunConfig.from_mapping({**values, **small}).to_yaml())
    with ExitStack() as held:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("socket.gethostname", lambda: "elsewhere")
            held.enter_context(locked(tmp_path / "run.lock", "works on this run"))
        assert cell.main(tmp_path) == GIVEN_BACK
        assert f"process {os.getpid()} on elsewhere works on this run" in capsys.readouterr().out
    assert cell.main(tmp_path) == 0 and (tmp_path / RESULT).exists()
