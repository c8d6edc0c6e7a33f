"""What a training step costs under gorp, beside LoRA, full fine-tuning and GaLore, on blocks of real shapes.

    python benchmarks/speed.py --out benchmarks/performance/speed.json

One encoder and one decoder block of T5-large (d 1024, ff 4096), and one block of LLaMA2-7B (d 4096, ff 11008), with
random weights and a small vocabulary, on random tokens. gorp learns its default layers at rank 8, T = 10; LoRA (peft,
torch's fused AdamW) the union of them at the same rank; O-LoRA the same with its penalty on fifteen earlier tasks; OSF
(peft) the same layers with a quarter of each protected; full fine-tuning (fused AdamW) every weight; GaLore
(galore-torch, if it is installed) gorp's layers at the same rank and T. Times are of T steps, one of them a refresh.
gorp's memories begin as full as they get. "Optimizer work" is the step, and of gorp all that its hooks and refreshes do
in the backward pass besides. "Calls" is that work where the tensors are so small that only calling counts.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peft import LoraConfig, inject_adapter_in_model
from timing import Figure, alternate, tell, without_collector
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

import gorp
from gorp._linalg import orthonormalize, seeded_normal
from gorp._sketch import GRAM_WIDTH, SKETCH_KEPT, sketch
from gorp.backbones import default_targets
from gorp.layers import ProjectedLinear
from gorp.learned_layer import LearnedLayer
from gorp.lora import LoRALayer
from gorp.methods.o_lora import OLoRA
from gorp.methods.osf import OSF
from gorp.optimizer import layer_of
from gorp.run_config import RunConfig
from gorp.targets import find_layers

RANK, T, VOCABULARY, TASKS = 8, 10, 512, 15
Step = Callable[[], None]
Penalty = Callable[[torch.Tensor], torch.Tensor]

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


def steps_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, rows: int, length: int, penalty: Penalty | None = None
) -> Step:
    """T training steps on one batch of random tokens; the decoder of a T5 sees as many. Weights in bf16: autocast."""
    weight = next(model.parameters())
    tokens = torch.randint(0, VOCABULARY, (rows, length), device=weight.device)

    def steps() -> None:
        for _ in range(T):
            optimizer.zero_grad()
            with torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype is torch.bfloat16):
                output = model(input_ids=tokens, labels=tokens)
            (output.loss + penalty(output.logits) if penalty else output.loss).backward()
            optimizer.step()

    return steps


def attach(base: nn.Module, share: float, **settings: object) -> tuple[nn.Module, gorp.GORPAdamW]:
    """gorp on its default layers, a share of each layer's width taken by earlier tasks; its memories are full."""
    lora, full_rank = default_targets(base)
    targets = {"lora_targets": lora, "full_rank_targets": full_rank, "rank": RANK, "refresh_every": T}
    model = gorp.attach(copy.deepcopy(base), gorp.GORPConfig.model_validate(targets | settings))
    for layer in gorp.learned_layers(model).values():
        for side in (layer.space.input, layer.space.output):
            if side is not None and share:
                side.basis = orthonormalize(torch.randn(side.width, int(share * side.width)).to(side.basis))
                side.energy = torch.ones(side.rank).to(side.basis)
        layer.restart(task=1)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=1e-4, full_rank_lr=1e-4)
    for group in optimizer.param_groups:
        for p in group["params"]:
            layer, side = layer_of(p)
            if layer.config.memory != "first_moment" and layer.space.side(side) is not None:
                state = optimizer.state[p] = optimizer._fresh_state(p)
                width = layer.width_of(side)
                rows = seeded_normal(1 if width <= GRAM_WIDTH else SKETCH_KEPT, width, layer.index).to(p)
                state["sketch"] = sketch(state["sketch"], rows)
    return model, optimizer


def learning(base: nn.Module) -> list[str]:
    """Names of the layers that learn under gorp."""
    return [name for targets in default_targets(base) for name in find_layers(base, targets, "targets")]


def lora(base: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """peft's LoRA on the union of gorp's layers."""
    model = copy.deepcopy(base).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=32, target_modules=learning(base)), model)
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)


def o_lora(base: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer, Penalty]:
    """LoRA as above, kept off the factors of fifteen earlier tasks by O-LoRA's penalty."""
    method = OLoRA(RunConfig.from_mapping({"method": "o-lora", "lora": {"rank": RANK, "targets": learning(base)}}))
    method.attach(copy.deepcopy(base))
    method.earlier_A = {
        name: torch.randn(TASKS * RANK, A.shape[1]) / A.shape[1] ** 0.5 for name, A in method.earlier_A.items()
    }
    return method.model, method.optimizer(), lambda logits: method.penalty({}, logits)


def osf(base: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """peft's OSF on gorp's layers, a quarter of each protected, as in the second of four tasks."""
    settings = {"method": "osf", "options": {"targets": learning(base), "tasks": 4}}
    method = OSF(RunConfig.from_mapping(settings))
    method.attach(copy.deepcopy(base))
    method.begin_task(None, index=1)
    return method.model, method.optimizer()


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
    (ProjectedLinear, "_end_pass"),
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


Build = Callable[[nn.Module], tuple[nn.Module, torch.optim.Optimizer]]


def optimizer_work(
    base: nn.Module, builds: Mapping[str, Build], rows: int, length: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of optimizer work in T steps, after T others, of contenders that take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in builds}
    with stopwatch(*HOOKS) as hooks:  # before the hooks are registered
        contenders = {name: build(base) for name, build in builds.items()}
        steps = {name: steps_of(*parts, rows, length) for name, parts in contenders.items()}
        for turn in range(rounds + 1):
            for name, (_, optimizer) in contenders.items():
                hooks[0] = 0.0
                with stopwatch((optimizer, "step")) as spent, without_collector():
                    steps[name]()
                if turn:
                    seconds[name].append(hooks[0] + spent[0])
    return seconds


def host(layers: int, rounds: int) -> list[Figure]:
    """Of an encoder-decoder of so many blocks a side and next to no width: what is left is the calls themselves."""
    torch.manual_seed(0)
    base = T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=layers, dropout_rate=0.0,
            num_decoder_layers=layers, decoder_start_token_id=0, use_cache=False,
        )
    )  # fmt: skip
    builds: dict[str, Build] = {"gorp": lambda base: attach(base, 0.25), "LoRA": lora}
    ours, theirs = (sum(len(group["params"]) for group in build(base)[1].param_groups) for build in builds.values())
    work = optimizer_work(base, builds, 1, 4, rounds)
    what = f"calls of the optimizer's work, {ours} factors: gorp / LoRA's fused AdamW, {theirs} factors"
    return [Figure.ratio(what, work["gorp"], work["LoRA"])]


def measure(block: str, rows: int, length: int, rounds: int, peers: bool = True) -> list[Figure]:
    """All ratios on one block; without ``peers``, of gorp, LoRA and full fine-tuning alone."""
    torch.manual_seed(0)
    base = BLOCKS[block]()
    contenders = {
        "gorp": attach(base, 0.0),
        "gorp, spaces a quarter full": attach(base, 0.25),
        "gorp, random directions": attach(base, 0.0, projection="random"),
        "LoRA": lora(base),
        "full fine-tuning": full(base),
    }
    steps = {name: steps_of(*parts, rows, length) for name, parts in contenders.items()}
    if peers:
        model, optimizer, penalty = o_lora(base)
        steps[f"O-LoRA after {TASKS} tasks"] = steps_of(model, optimizer, rows, length, penalty)
        steps["OSF"] = steps_of(*osf(base), rows, length)
    seconds = alternate(steps, rounds)
    del contenders, steps
    figures = [
        Figure.ratio(f"{block} step: {over} / {under}", seconds[over], seconds[under], goal)
        for over, under, goal in (
            ("gorp", "LoRA", "<= 1.05"),
            ("gorp, random directions", "LoRA", ""),
            ("gorp", "full fine-tuning", "<= 0.75"),
            ("gorp, spaces a quarter full", "gorp", "<= 1.05"),
            ("gorp", f"O-LoRA after {TASKS} tasks", ""),
            ("gorp", "OSF", ""),
        )
        if {over, under} <= seconds.keys()
    ]
    if not peers:
        return figures
    try:
        work = optimizer_work(base, {"galore": galore, "gorp": lambda base: attach(base, 0.0)}, rows, length, rounds)
    except ImportError:
        return figures
    return [*figures, Figure.ratio(f"{block} optimizer work: GaLore / gorp", work["galore"], work["gorp"], ">= 50")]


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--no-peers", action="store_true", help="without O-LoRA, OSF and GaLore, whose SVDs take minutes"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = []
    for block in options.blocks:
        figures += measure(block, options.rows, options.length, options.rounds, not options.no_peers)
    figures += host(24, options.rounds)
    tell(f"speed, batch {options.rows} x {options.length}", figures, options.out)


if __name__ == "__main__":
    main()
