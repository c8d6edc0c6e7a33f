"""Where can a model learn a new task without touching an old one? Layer by layer, before anything is trained.

    python benchmarks/separability.py builtin
    python benchmarks/separability.py standard-cl/1 --model MODEL --data DIR

For every linear layer: S holds the share `--energy` of the inputs of the stream's first task. The table tells how many
columns that takes, and which share of the input energy is then free: of fresh rows of the first task, which later
learning disturbs, and of the other tasks, which it has to work with. Where both are alike, the layer's inputs do not
tell the tasks apart, and a linear layer cannot learn one of them without disturbing the other.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from gorp._linalg import extend_basis
from gorp.backbones import load_backbone
from gorp.encoding import Encoder
from gorp.interference import coverage
from gorp.layer_inputs import collect_inputs
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream
from gorp.targets import linear_names
from gorp.tasks import Example

ROWS = 128


def kind_of(name: str) -> str:
    """A layer's name without its block's number: layers of one kind make one line of the table."""
    return ".".join(part for part in name.split(".") if not part.isdigit() and part not in ("block", "layer"))


def inputs_of(model: torch.nn.Module, encoder: Encoder, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Per linear layer of the blocks, inputs (n, in) on some rows of a task."""
    names = [name for name in linear_names(model) if "block" in name or "layers" in name]
    batches = [encoder.forward_inputs(encoder.training_batch([row])) for row in encoder.rows(list(examples)[:ROWS])]
    return collect_inputs(model, names, batches, rows_per_batch=24, rows_per_layer=ROWS * 24)


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stream")
    parser.add_argument("--model", default="t5-tiny")
    parser.add_argument("--data", default=None, help="folder of the benchmark data")
    parser.add_argument("--energy", type=float, default=0.98)
    options = parser.parse_args()
    config = RunConfig.from_mapping({"stream": options.stream, "data": {"dir": options.data}})
    first, *others = load_stream(config)
    backbone = load_backbone(options.model)
    encoder = Encoder(backbone.model, backbone.tokenizer, 192, 50)
    learnt = inputs_of(backbone.model, encoder, first.train)
    fresh = inputs_of(backbone.model, encoder, first.validation or first.test)
    new = [inputs_of(backbone.model, encoder, task.train) for task in others]
    lines: dict[str, list[tuple[int, int, float, float]]] = {}
    for name, rows in learnt.items():
        basis, _ = extend_basis(rows.new_zeros(rows.shape[1], 0), rows, options.energy)
        free = statistics.fmean(1 - coverage(task[name], basis) for task in new)
        line = (rows.shape[1], basis.shape[1], 1 - coverage(fresh[name], basis), free)
        lines.setdefault(kind_of(name), []).append(line)
    print(f"{'layers':42} {'width':>5} {'columns':>7} {'old free':>8} {'new free':>8}  ratio")
    for kind, found in lines.items():
        width, columns, old, free = (statistics.fmean(column) for column in zip(*found, strict=True))
        print(f"{kind:42} {width:5.0f} {columns:7.0f} {old:8.1%} {free:8.1%} {free / max(old, 1e-9):6.1f}")


if __name__ == "__main__":
    main()
