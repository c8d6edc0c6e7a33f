"""Whether a long run stays the same size: memory and files of long order 4, fifteen tasks, from the third to the last.

    python benchmarks/soak.py --data DIR --model MODEL --out benchmarks/performance/soak.json

One process learns all tasks, of few rows each. After every task: what is resident once everything that is free has been
given back, the gradient space's bytes, and the run folder's files.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gorp.files import write_text_atomically
from gorp.learner import ContinualLearner
from gorp.progress import LineProgress
from gorp.run_config import RunConfig
from gorp.run_setup import load_base, load_stream

SETTINGS = {
    "stream": "long/4",
    "training": {"epochs": 1, "batch_size": 8, "max_source_length": 160},
    "evaluation": {"each_stage": "new"},
}
FIRST = 3


class Scale(LineProgress):
    """Weighs process and folder after every task."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.learner, self.weights = folder, None, []

    def stage_finished(self, index: int, task: str, scores: Sequence[float | None], seconds: float) -> None:  # noqa: D102
        super().stage_finished(index, task, scores, seconds)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        files = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
        sides = self.learner.method.space.input_sides
        self.weights.append(
            {
                "task": task,
                "resident": resident(),
                "space": sum(side.basis.nbytes for side in sides),
                "files": len(files),
                "bytes": sum(files),
            }
        )


def resident() -> int:
    """Bytes of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def main() -> None:
    """Run, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the benchmark's data")
    parser.add_argument("--model", default="t5-tiny")
    parser.add_argument("--rows", type=int, default=48, help="training rows of a task")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    data = {"dir": given.data, "train_rows": given.rows, "test_rows": 8, "validation_rows": 8}
    config = RunConfig.from_mapping({**SETTINGS, "model": given.model, "data": data})
    with tempfile.TemporaryDirectory() as place:
        scale = Scale(Path(place) / "run")
        base = load_base(config)
        scale.learner = ContinualLearner(
            base.model, base.tokenizer, run_dir=scale.folder, config=config, progress=scale
        )
        scale.learner.learn_stream(load_stream(config))
    early, late = scale.weights[FIRST - 1], scale.weights[-1]
    own = {key: late[key] - early[key] for key in ("resident", "space", "files", "bytes")}
    beyond = (own["resident"] - own["space"]) / early["resident"]
    print(f"from task {FIRST} to {len(scale.weights)}: {own}; {100 * beyond:+.2f}% beyond the space")
    if given.out:
        write_text_atomically(given.out, json.dumps({"beyond": beyond, "weights": scale.weights}, indent=1) + "\n")


if __name__ == "__main__":
    main()
