"""Which layers made a run forget? Put some of them back as an earlier task left them, and score that task again.

    python benchmarks/forgetting_by_layer.py RUN

RUN is a finished run folder of a T5 that learnt task after task. Per earlier task: its score just learnt, its score
now, and its score now with the layers of one part alone as they were. A part that brings the score back is where the
task was forgotten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gorp.checkpoint import load_tensors
from gorp.learner import ContinualLearner
from gorp.run_folder import task_folder
from gorp.run_setup import rows_of
from gorp.targets import names_layer

PARTS = {
    "encoder": ("encoder",),
    "cross k, v": ("EncDecAttention.k", "EncDecAttention.v"),
    "cross q, o": ("EncDecAttention.q", "EncDecAttention.o"),
    "decoder attention": ("decoder.block.*.layer.*.SelfAttention",),
    "decoder feed-forward": ("decoder.block.*.layer.*.DenseReluDense",),
}


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default=None, help="where the base model is now, if not as in the run")
    options = parser.parse_args()
    learner = ContinualLearner.of_run(options.run, model=options.model)
    saved = [
        load_tensors(options.run / task_folder(position, task.name) / "after" / "weights.safetensors")
        for position, task in enumerate(learner.tasks)
    ]
    split = learner.config.evaluation.split
    matrix = learner.record.matrix
    print(f"{'task':14} {'just learnt':>11} {'now':>6}  " + "  ".join(f"{part:>10}" for part in PARTS))
    for position, task in enumerate(learner.tasks[:-1]):
        scores = []
        for targets in PARTS.values():
            mixed = {
                key: saved[position][key] if any(names_layer(target, key) for target in targets) else now
                for key, now in saved[-1].items()
            }
            learner.method.load_weights(mixed)
            scores.append(learner.learning.evaluator.score(rows_of(task, split)))
        columns = "  ".join(f"{score:{max(10, len(part))}.0f}" for part, score in zip(PARTS, scores, strict=True))
        print(f"{task.name:14} {matrix[position][position]:11.0f} {matrix[-1][position]:6.0f}  {columns}")


if __name__ == "__main__":
    main()
