"""The drop-in examples run as they stand, and print what docs/drop_in.md shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "drop_in.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"\d+(?:e[+-]\d+)?")
SCORES, SHARES = 20, 15  # what scores and shares, in percent, may be apart from one processor to another


def told(printed: str) -> list[str]:
    """What an example says itself, between what trainers print."""
    return [line.rstrip() for line in printed.splitlines() if line.startswith(("after ", "  of the "))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_pytorch", "hf_trainer", "trl_sft"])
def test_the_example_prints_what_is_shown(name: str, tmp_path: Path) -> None:
    if name == "trl_sft":
        pytest.importorskip("trl", reason="pip install gorp-cl[trl]")
    example = ROOT / "examples" / f"{name}.py"
    assert len(example.read_text().splitlines()) < 60
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (block,) = re.findall(rf"\$ python examples/{name}\.py\n(.*?)```", PAGE, flags=re.DOTALL)
    printed, shown = told(done.stdout), told(block)
    assert len(shown) == 6
    assert [NUMBER.sub("#", line) for line in printed] == [NUMBER.sub("#", line) for line in shown]
    for ours, theirs in zip(printed, shown, strict=True):
        numbers = [[float(number) for number in NUMBER.findall(line)] for line in (ours, theirs)]
        if "from the weights" in ours:
            assert max(numbers[0]) <= 1e-5, ours
        else:
            assert numbers[0] == pytest.approx(numbers[1], abs=SCORES if ours.startswith("after") else SHARES), ours


def test_the_page_links_every_example() -> None:
    examples = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert set(re.findall(r"\]\(\.\./examples/(\w+\.py)\)", PAGE)) == examples
