"""``gorp protect``: a gradient space of what the base model knows, before the first task."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from click import FloatRange

from gorp.cli.shared import as_overrides, progress_only
from gorp.errors import InputError


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As in a run's configuration.", show_default=False)],
    text: Annotated[
        Path, typer.Argument(metavar="TEXT", help="General text: .jsonl, .csv, .parquet or .txt.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The space, for a run's key 'protect'.")] = Path("space.safetensors"),
    energy: Annotated[
        float | None,
        typer.Option(help="Share of the text's energy to protect, 0 to 1.", show_default="asked for, 0.7"),
    ] = None,
    column: Annotated[str, typer.Option(help="The column that holds the text.")] = "text",
    config: Annotated[
        Path | None, typer.Option(help="The run's settings, for its targets.", show_default="defaults")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as gorp.max_share=0.9.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Protect what a base model knows: go through general text once, show what protection costs, write a space.

    A run whose configuration says 'protect: space.safetensors' begins with it.

    Example:  gorp protect t5-tiny general.jsonl --energy 0.9 --out space.safetensors
    """
    if energy is not None:
        _check_share(energy)
    if out.is_dir() or not out.absolute().parent.is_dir():
        what = "is a folder" if out.is_dir() else f"no such folder as {out.parent}"
        raise InputError(f"--out {out}: {what}; accepted: a file in a folder that is there")
    from gorp.general_text import pretraining_rows, read_texts
    from gorp.matching import make_encoder
    from gorp.methods.gorp import GORP
    from gorp.protect import ENERGY, protecting_space, remember_base, room_left
    from gorp.report.space import room_grid
    from gorp.report.tables import to_rich
    from gorp.report.terminal import open_console
    from gorp.run_config import RunConfig
    from gorp.run_setup import load_base

    overrides = [*as_overrides({"method": "gorp", "model": model}), *(settings or [])]
    run = RunConfig.from_yaml(config, overrides) if config else RunConfig.from_mapping({}, overrides)
    texts = read_texts(text, column)
    with progress_only(quiet) as progress:
        backbone = load_base(run)
        encoder = make_encoder(backbone.model, backbone.tokenizer, run.training.max_source_length, 50)
        rows = pretraining_rows(encoder, texts, encoder.max_source_length, run.seed, str(text))
        chosen = GORP(run).settings(backbone.model)
        progress.message(f"{len(texts)} texts, {len(rows)} rows of at most {encoder.max_source_length} tokens")
        on_step = partial(progress.evaluation_step, text.name)
        memories = remember_base(backbone.model, encoder, rows, chosen, run.training.batch_size, on_step)
    max_share = float(chosen.max_share or 1.0)
    if not quiet:
        open_console().print(to_rich(room_grid(room_left(memories, max_share))))
    if energy is None:
        asked = not quiet and sys.stdin.isatty()
        energy = typer.prompt("energy share to protect", ENERGY, type=FloatRange(0, 1)) if asked else ENERGY
        _check_share(energy)
    space = protecting_space(backbone.model, memories, energy, max_share)
    space.save(out)
    if not quiet:
        kept, least = sum(side.rank for side in space.input_sides), min(memory.held for memory in memories)
        print(f"{out}: {kept} directions of {len(space.layers)} layers, {energy:g} of the energy of each one's inputs")
        if energy > least:
            wide = sum(len(memory.layers) for memory in memories if energy > memory.held)
            print(f"{wide} of them are too wide for that: what is remembered of their inputs holds {least:.2f} or more")


def _check_share(energy: float) -> None:
    if not 0 <= energy <= 1:
        raise InputError(f"--energy {energy}: accepted: a share, 0 to 1")
