"""Records of runs that never were, and a browser to look at their reports."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gorp.report.record import LayerMeter, RunRecord, Stage

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=2000",
)

MakeRecord = Callable[..., RunRecord]


def make_meter(earlier: list[str], rank: int, protects: bool, leak: float) -> LayerMeter:
    return LayerMeter(
        leak=leak if earlier else None,
        leak_bound=3e-6 if earlier else None,
        stored_leak=5e-5 if earlier else None,
        drift=dict.fromkeys(earlier, 0.01),
        coverage=dict.fromkeys(earlier, 0.95),
        rank=rank if protects else 0,
        width=128,
        output_rank=rank // 2 if protects else 0,
        output_width=128 if protects else 0,
        cap=96 if protects else 0,
        frozen=protects and rank >= 96,
    )


def make_record(
    tasks: int | list[str] = 5,
    method: str = "gorp",
    seed: int = 0,
    lost_per_stage: float = 0.5,
    layers: int = 3,
    leak: float = 1e-7,
    name: str = "",
    finished: bool = True,
) -> RunRecord:
    """A finished run: every task learnt to 80 and more, losing so many points at each later stage."""
    names = tasks if isinstance(tasks, list) else [f"task-{number + 1}" for number in range(tasks)]
    count = len(names)
    stages = []
    for index in range(count) if method != "joint" else [count - 1]:
        scores = [
            80.0 + task + seed - lost_per_stage * (index - task) if task <= index else 10.0 + task
            for task in range(count)
        ]
        meters = {
            f"encoder.block.{layer}.SelfAttention.q": make_meter(
                names[:index], min(96, 9 * (index + 1) + layer), method == "gorp", leak if layer == 1 else 1e-7
            )
            for layer in range(layers)
        }
        stages.append(
            Stage(
                index=index,
                task=names[index],
                scores=scores,
                seconds={"train": 20.5 + index, "evaluate": 4.0, "memory": 0.5},
                steps=100,
                layers=meters,
                train_loss=[(step, 2 * math.exp(-step / 30)) for step in range(10, 101, 10)],
            )
        )
    return RunRecord(
        name=name or f"{method}-{seed}",
        method=method,
        model="tiny",
        stream="builtin",
        tasks=names,
        seed=seed,
        zero_shot=[10.0 + task for task in range(count)],
        stages=stages,
        config={"method": {"name": method}, "seed": seed, "rank": 8},
        environment={"python": "3.11", "torch": "2.13"},
        finished=finished,
    )


@pytest.fixture
def record() -> RunRecord:
    return make_record()


@pytest.fixture(name="make_record")
def make_record_fixture() -> MakeRecord:
    return make_record


@pytest.fixture(scope="session")
def browser() -> str:
    """The path of a Chromium; skips where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here (looked for {', '.join(BROWSERS)})")
    return found


@pytest.fixture
def dump_dom(browser: str, tmp_path: Path) -> Callable[..., str]:
    """Opens a page and returns its DOM as text; a script may be added that runs when the page has loaded."""

    def dump(page: Path, width: int = 1280, script: str = "") -> str:
        copy = tmp_path / f"opened-{width}.html"
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
        before, end, after = text.rpartition("</body>")
        added = f"<script>addEventListener('load', () => {{ {script} }})</script>"
        copy.write_text(before + added + end + after, encoding="utf-8")
        profile = tmp_path / f"profile-{width}"
        command = [browser, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},900", "--dump-dom"]
        done = subprocess.run(
            [*command, copy.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=300, check=True
        )
        return done.stdout

    return dump
