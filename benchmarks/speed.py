"""What a training step costs under gorp, beside LoRA, full fine-tuning and GaLore, on blocks of real shapes.

    python benchmarks/speed.py --out benchmarks/performance/speed.json

One encoder and one decoder block of T5-large (d 1024, ff 4096), and one block of LLaMA2-7B (d 4096, ff 11008), with
random weights and a small vocabulary, on random tokens. gorp learns its default layers at rank 8, T = 10; LoRA (peft,
torch's fused AdamW) the union of them at the same rank; full fine-tuning (fused AdamW) every weight; GaLore
(galore-torch, if it is installed) gorp's layers at the same rank and T. Times are of T steps, one of them a refresh.
"Optimizer work" is the step, and of gorp all that its hooks and refreshes do in the backward pass besides.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, inject_adapter_in_model
from timing import Figure, alternate, tell
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import gorp
from gorp._linalg import orthonormalize
from gorp.backbones import default_targets
from gorp.layers import ProjectedLinear
from gorp.learned_layer import LearnedLayer
from gorp.lora import LoRALayer
from gorp.targets import find_layers

RANK, T, VOCABULARY = 8, 10, 512
Step = Callable[[], None]

BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "T5-large": lambda: T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=1024, d_ff=4096, d_kv=64, num_heads=16, num_layers=1, num_decoder_layers=1,
            dropout_rate=0.0, decoder_start_token_id=0, use_cache=False,
        )
    ),
    "LLaMA2-7B": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=4096, intermediate_size=11008, num_hidden_layers=1,
            num_attention_heads=32, use_cache=False,
        )
    ),
}  # fmt: skip


def steps_of(model: nn.Module, optimizer: torch.optim.Optimizer, rows: int, length: int) -> Step:
    """T training steps on one batch of random tokens; the decoder of a T5 sees as many."""
    tokens = torch.randint(0, VOCABULARY, (rows, length))

    def steps() -> None:
        for _ in range(T):
            optimizer.zero_grad()
            model(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()

    return steps


def attach(base: nn.Module, share: float, **settings: object) -> tuple[nn.Module, gorp.GORPAdamW]:
    """gorp on its default layers, a share of each layer's width taken by earlier tasks."""
    lora, full_rank = default_targets(base)
    targets = {"lora_targets": lora, "full_rank_targets": full_rank, "rank": RANK, "refresh_every": T}
    model = gorp.attach(copy.deepcopy(base), gorp.GORPConfig.model_validate(targets | settings))
    for layer in gorp.learned_layers(model).values():
        for side in (layer.space.input, layer.space.output):
            if side is not None and share:
                side.basis = orthonormalize(torch.randn(side.width, int(share * side.width)))
                side.energy = torch.ones(side.rank)
        layer.restart(task=1)
    return model, gorp.GORPAdamW(gorp.param_groups(model), lr=1e-4, full_rank_lr=1e-4)


def learning(base: nn.Module) -> list[str]:
    """Names of the layers that learn under gorp."""
    return [name for targets in default_targets(base) for name in find_layers(base, targets, "targets")]


def lora(base: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """peft's LoRA on the union of gorp's layers."""
    model = copy.deepcopy(base).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=32, target_modules=learning(base)), model)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)


def full(base: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Every weight learns."""
    model = copy.deepcopy(base)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)


def galore(base: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """galore-torch on gorp's layers."""
    from galore_torch import GaLoreAdamW

    model = copy.deepcopy(base).requires_grad_(False)
    weights = [model.get_submodule(name).weight.requires_grad_(True) for name in learning(base)]
    group = {"params": weights, "rank": RANK, "update_proj_gap": T, "scale": 0.25, "proj_type": "std"}
    return model, GaLoreAdamW([group], lr=1e-4, no_deprecation_warning=True)


HOOKS: list[tuple[type, str]] = [
    (ProjectedLinear, "accumulate_gradient"),
    (ProjectedLinear, "_choose_projection"),
    (LoRALayer, "_receive"),
    (LearnedLayer, "see_inputs"),
    (LearnedLayer, "keep_inputs"),
]
"""What gorp does in the backward pass besides autograd's own work."""


@contextmanager
def stopwatch(*methods: tuple[Any, str]) -> Iterator[list[float]]:
    """Seconds spent in some methods, summed up in a list of one."""
    spent = [0.0]

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **given: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **given)
            finally:
                spent[0] += time.perf_counter() - start

        return run

    with ExitStack() as stack:
        for owner, name in methods:
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name))))
        yield spent


def optimizer_work(build: Callable[[], tuple[nn.Module, torch.optim.Optimizer]], rows: int, length: int) -> float:
    """Seconds of optimizer work in T steps, after T others."""
    with stopwatch(*HOOKS) as hooks:  # before the hooks are registered
        model, optimizer = build()
        steps = steps_of(model, optimizer, rows, length)
        steps()
        hooks[0] = 0.0
        with stopwatch((optimizer, "step")) as spent:
            steps()
        return hooks[0] + spent[0]


def measure(block: str, rows: int, length: int, rounds: int, with_galore: bool = True) -> list[Figure]:
    """All ratios on one block."""
    torch.manual_seed(0)
    base = BLOCKS[block]()
    contenders = {
        "gorp": attach(base, 0.0),
        "gorp, spaces a quarter full": attach(base, 0.25),
        "gorp, random directions": attach(base, 0.0, projection="random"),
        "lora": lora(base),
        "full": full(base),
    }
    seconds = alternate({name: steps_of(*parts, rows, length) for name, parts in contenders.items()}, rounds)
    del contenders
    ours, random, late = (seconds[name] for name in ("gorp", "gorp, random directions", "gorp, spaces a quarter full"))
    figures = [
        Figure.ratio(f"{block} step: gorp / LoRA", ours, seconds["lora"], "<= 1.05"),
        Figure.ratio(f"{block} step: gorp, random directions / LoRA", random, seconds["lora"]),
        Figure.ratio(f"{block} step: gorp / full fine-tuning", ours, seconds["full"], "<= 0.75"),
        Figure.ratio(f"{block} step: spaces a quarter full / empty", late, ours, "<= 1.05"),
    ]
    if not with_galore:
        return figures
    try:
        theirs = [optimizer_work(lambda: galore(base), rows, length)]
    except ImportError:
        return figures
    work = [optimizer_work(lambda: attach(base, 0.0), rows, length)]
    return [*figures, Figure.ratio(f"{block} optimizer work: GaLore / gorp", theirs, work, ">= 50")]


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-galore", action="store_true", help="its SVDs of a LLaMA block take minutes")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = []
    for block in options.blocks:
        figures += measure(block, options.rows, options.length, options.rounds, not options.no_galore)
    tell(f"speed, batch {options.rows} x {options.length}", figures, options.out)


if __name__ == "__main__":
    main()
