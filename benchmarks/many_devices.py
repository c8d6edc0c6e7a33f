"""What gorp costs on very many GPUs: memory, bytes sent and operations of models that fit no machine at hand.

    python benchmarks/many_devices.py --out benchmarks/performance/many_devices.json

LLaMA types of true shapes, of two and of three blocks, so that what a block costs is the difference, and the rest what
two blocks leave. gorp's real code runs on one of so many ranks, on fake tensors (fake_ranks.py): `attach` with the
targets of examples/llama2_7b.yaml, `shard` or not, then steps of a sequence a rank with gradient checkpointing and
bf16 autocast, `average_gradients`, `GORPAdamW.step`, `end_task`. Measured are a step with a refresh, one between
refreshes, one in which the memories are shrunken besides, and the end of a task, memories full but in the first step.
Beside it full fine-tuning under FSDP2. Figures are of one rank, in bytes and operations. Without ``--out`` nothing is
kept.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fake_ranks import Meter, fake_ranks
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import gorp
from gorp import _sketch
from gorp._fsdp import shard
from gorp._ranks import average_gradients
from gorp._shards import own_part
from gorp.files import write_text_atomically
from gorp.training import enable_checkpointing

MODELS: dict[str, dict[str, int]] = {
    "7B": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32,
        "num_hidden_layers": 32, "vocab_size": 32000,
    },
    "70B": {
        "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8,
        "num_hidden_layers": 80, "vocab_size": 128256,
    },
    "405B": {
        "hidden_size": 16384, "intermediate_size": 53248, "num_attention_heads": 128, "num_key_value_heads": 8,
        "num_hidden_layers": 126, "vocab_size": 128256,
    },
}  # fmt: skip
CONFIG = gorp.GORPConfig(
    lora_targets=("self_attn.q_proj", "self_attn.v_proj"),
    full_rank_targets=("mlp.gate_proj",),
    memory="weighted_features",
    share_inputs=True,
    protect_outputs=False,
)
RANKS = (8, 128, 1024)
LENGTH = 2048
BLOCKS = 2
GROWTH = 0.02
FULL = _sketch.SKETCH_ROWS - 1
"""Most rows of a wide memory."""

Facts = Counter[str]


def build(sizes: Mapping[str, int], blocks: int) -> PreTrainedModel:
    """A model in bf16 with so many blocks, on whatever device is the default."""
    config = LlamaConfig(**{**sizes, "num_hidden_layers": blocks, "use_cache": False})
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def attach(model: PreTrainedModel, share: float) -> list[nn.Parameter]:
    """Put a model under gorp, a share of each space taken by earlier tasks; returns what learns."""
    gorp.attach(model, CONFIG)
    for side in model.gradient_space.input_sides if share else ():
        side.basis = torch.empty(side.width, int(share * side.width))
        side.energy = torch.empty(side.rank)
    for layer in gorp.learned_layers(model).values():
        layer.restart(task=1)
    return [factor for layer in gorp.learned_layers(model).values() for factor in layer.factors().values()]


def backward(model: nn.Module, length: int) -> None:
    """A forward and a backward pass over one row of tokens."""
    tokens = torch.zeros(1, length, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()


def fill(optimizer: gorp.GORPAdamW, rows: int) -> None:
    """Let wide memories that hold something hold so many rows."""
    for state in optimizer.state.values():
        width = state["sketch"].shape[1]
        if width > _sketch.GRAM_WIDTH and len(state["sketch"]):
            state["sketch"] = torch.zeros(rows, width)


def gorp_costs(model: PreTrainedModel, meter: Meter, spread: bool, share: float, length: int) -> Facts:
    """All that one rank does and holds, by the moment it does it."""
    learning = attach(model, share)
    if spread:
        shard(model, set(learning))
    enable_checkpointing(model)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model))
    facts: Facts = Counter()
    meter.take()
    for moment, rows in (("refresh", 0), ("between", _sketch.SKETCH_KEPT), ("shrinking", FULL)):
        fill(optimizer, rows)
        backward(model, length)
        average_gradients(learning)
        optimizer.step()
        facts.update({f"{moment} {what}": count for what, count in meter.take().items()})
        if moment != "shrinking":
            optimizer.zero_grad()
    fill(optimizer, FULL)
    facts.update({f"held {part}": count for part, count in held(model, optimizer).items()})
    gorp.end_task(model, optimizer, "task")
    facts.update({f"end {what}": count for what, count in meter.take().items()})
    return facts


def held(model: nn.Module, optimizer: gorp.GORPAdamW) -> dict[str, int]:
    """Bytes that this rank has at the end of a step, by the parts of `gorp.footprint`."""
    factors = [factor for layer in gorp.learned_layers(model).values() for factor in layer.factors().values()]
    ids = {id(factor) for factor in factors}
    buffers = {name: buffer for name, buffer in model.named_buffers() if not name.endswith("rounding_remainder")}
    projections = [buffer for name, buffer in buffers.items() if name.rpartition(".")[2] in ("U", "V", "start")]
    remainders = [buffer for name, buffer in model.named_buffers() if name not in buffers]
    states = optimizer.state.values()
    own = {
        "weights": [p for p in model.parameters() if id(p) not in ids],
        "rounding": remainders,
        "factors": factors,
        "projections": projections,
        "gradients": [factor.grad for factor in factors if factor.grad is not None],
        "moments": [state[part] for state in states for part in ("exp_avg", "exp_avg_sq")],
        "memory": [state["sketch"] for state in states],
        "space": [part for side in model.gradient_space.input_sides for part in (side.basis, side.energy)],
    }
    return {part: sum(bytes_held(tensor) for tensor in tensors) for part, tensors in own.items()}


def bytes_held(tensor: Tensor) -> int:
    """Of a tensor that may be spread over ranks, what this one has."""
    return own_part(tensor.detach()).nbytes


def full_costs(model: PreTrainedModel, meter: Meter, length: int) -> Facts:
    """One step of full fine-tuning under FSDP2, less the optimizer."""
    model.requires_grad_(True)
    shard(model, set())
    enable_checkpointing(model)
    meter.take()
    backward(model, length)
    facts = Counter({f"between {what}": count for what, count in meter.take().items()})
    facts["held weights"] = sum(bytes_held(parameter) for parameter in model.parameters())
    return facts


def costs(
    sizes: Mapping[str, int], ranks: int, form: str, share: float = 0.0, blocks: int = BLOCKS, length: int = LENGTH
) -> Facts:
    """What a model of so many blocks costs one of so many ranks, in the form ``replicate``, ``shard`` or ``full``."""
    with fake_ranks(ranks, columns=max(1, int(GROWTH * sizes["hidden_size"]))) as meter:
        model = build(sizes, blocks)
        if form == "full":
            return full_costs(model, meter, length)
        return gorp_costs(model, meter, form == "shard", share, length)


def by_block(sizes: Mapping[str, int], ranks: int, form: str, share: float = 0.0) -> dict[str, Any]:
    """The same as what a block adds, and what there is besides."""
    some, more = (costs(sizes, ranks, form, share, blocks) for blocks in (BLOCKS, BLOCKS + 1))
    block = {what: more[what] - some[what] for what in sorted(more)}
    rest = {what: some[what] - BLOCKS * block[what] for what in block}
    return {"ranks": ranks, "form": form, "share": share, "block": block, "rest": rest}


def main() -> None:
    """Parse the command line, measure, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    nearly_full = float(CONFIG.max_share or 1.0) - 2 * GROWTH  # q and v share theirs
    cases = [("replicate", 8, 0.0), ("replicate", 8, nearly_full)]
    cases += [(form, ranks, 0.0) for form in ("shard", "full") for ranks in RANKS]
    found = []
    for name in options.models:
        for form, ranks, share in cases:
            found.append({"model": name, **by_block(MODELS[name], ranks, form, share)})
            print(f"{name}, {form}, {ranks} ranks, {share:.0%} taken: measured", flush=True)
    if options.out is not None:
        content = {"torch": torch.__version__, "length": LENGTH, "cases": found}
        write_text_atomically(options.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
