"""Bytes that a model in 4 or 8 bits takes under gorp, from shapes alone, beside the same in bf16.

    python benchmarks/quantized.py

The model is LLaMA2-7B's shapes on torch's meta device. In 4 bits a weight takes half a byte and its scales 33 bits for
64 of them (NF4, doubly quantised); in 8 bits a byte, and an fp32 number a row.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from gorp import GORPConfig
from gorp.footprint import PARTS, footprint
from gorp.targets import block_layers, learning_layers

LORA = ("self_attn.q_proj", "self_attn.v_proj")
SETTINGS = {"share_inputs": True, "protect_outputs": False, "memory": "weighted_features", "max_share": 0.5}
FORMS = {
    "LoRA alone": {"lora_targets": LORA},
    "LoRA, and the MLP's gate at full rank": {"lora_targets": LORA, "full_rank_targets": ("mlp.gate_proj",)},
}


def llama(**sizes: int) -> nn.Module:
    """LLaMA2-7B in bf16, without its weights, or one of other ``sizes``."""
    config = AutoConfig.for_model("llama", **sizes)  # transformers' defaults are LLaMA2-7B's
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def quantize(model: nn.Module, bits: int, config: GORPConfig) -> int:
    """Give the layers of the blocks codes for weights, but for full-rank ones; tells the bytes of their scales."""
    scales = 0
    for name in set(block_layers(model, "quantize")).difference(learning_layers(model, config)[1]):
        layer = model.get_submodule(name)
        numbers, rows = layer.weight.numel(), layer.out_features
        codes = torch.empty(numbers * bits // 8, 1, dtype=torch.uint8, device="meta")
        layer.weight = nn.Parameter(codes, requires_grad=False)
        scales += numbers // 64 + 4 * numbers // (64 * 256) if bits == 4 else 4 * rows
    return scales


def count(model: nn.Module, bits: int, config: GORPConfig, tasks: int, growth: float) -> dict[str, int]:
    """Bytes by part of a model, which is quantised in place if it is to have fewer than 16 bits."""
    scales = quantize(model, bits, config) if bits < 16 else 0
    parts = footprint(model, config, tasks, growth)
    return {**parts, "weights": parts["weights"] + scales}


def main() -> None:
    """Parse the command line and print a table of MiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[0, 15])
    parser.add_argument("--growth", type=float, default=0.02, help="share of a layer's width that a task needs")
    options = parser.parse_args()
    print("| bits | tasks | " + " | ".join(PARTS) + " | all |")
    print("| ---: | ---: |" + " ---: |" * (len(PARTS) + 1))
    for what, targets in FORMS.items():
        print(f"| **{what}** |")
        config = GORPConfig.model_validate({**SETTINGS, **targets})
        for bits in (16, 8, 4):
            for tasks in options.tasks:
                parts = count(llama(), bits, config, tasks, options.growth)
                sizes = [*parts.values(), sum(parts.values())]
                print(f"| {bits} | {tasks} | " + " | ".join(f"{size / 2**20:,.0f}" for size in sizes) + " |")


if __name__ == "__main__":
    main()
