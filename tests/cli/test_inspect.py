from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from gorp.cli.main import build_app
from gorp.errors import InputError
from gorp.space import GradientSpace, LayerSpace, Side


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder whose space holds an open layer with an output side and a frozen one."""
    space = GradientSpace(max_share=0.5, base_model="tiny")
    space.tasks = ["a", "b"]
    open_side = Side(torch.eye(16, 5), torch.tensor([0.5, 0.2, 0.1, 0.3, 0.01]))
    space.layers["block.0.q"] = LayerSpace(open_side, Side(torch.eye(12, 2), torch.ones(2)), growth=[3, 2])
    space.layers["block.1.[v]"] = LayerSpace(Side(torch.eye(16, 8), torch.ones(8)), frozen=True, growth=[8, 0])
    space.layers["block.2.k"] = LayerSpace(Side.empty(16), growth=[0, 0])
    space.save(tmp_path / "gradient_space.safetensors")
    return tmp_path


def inspect(path: Path | str) -> str:
    done = CliRunner().invoke(build_app("inspect"), ["inspect", str(path)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_every_layer_says_what_it_keeps(run: Path) -> None:
    output = inspect(run)
    rows = {line.split()[0]: line.split() for line in output.splitlines() if line.strip().startswith("block")}
    assert rows["block.0.q"][1:] == ["5", "16", "8", "62%", "2", "12", "1.0e-02", "to", "0.50", "+3", "+2", "learns"]
    assert rows["block.1.[v]"][1:5] == ["8", "16", "8", "100%"]
    assert rows["block.1.[v]"][-1] == "frozen"
    assert rows["block.2.k"][1] == "0"


def test_totals_and_tasks_are_below(run: Path) -> None:
    output = inspect(run / "gradient_space.safetensors")
    assert "gradient space of tiny" in output
    assert "tasks: a, b" in output
    assert "3 layers keep 13 of at most 24 input directions (54%); cap 50% of a layer's width; 1 frozen" in output


def test_what_holds_no_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keeps no gradient space"):
        inspect(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"x\.safetensors"):
        inspect(tmp_path / "x.safetensors")


def test_help_shows_an_example() -> None:
    assert "gorp inspect runs/desk" in inspect("--help")
