"""Many SIGKILLs at random moments of a run of five tasks: no task is lost, and the run ends as if nothing had been.

The delay after a start is drawn evenly. A run that ends before all kills are spent is compared, and a new one begun.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

from rich.console import Console

from faults.child import warm_up
from faults.tiny_run import TinyRun, assert_identical
from gorp.errors import InputError
from gorp.run_folder import RunFolder

TASKS = 5


def kill_at_random(run: TinyRun, folder: Path, kills: int, seed: int, console: Console) -> int:
    """Make the runs and the kills, print where these fell; returns 1 if a run ended otherwise than undisturbed."""
    run.make(TASKS)
    warm_up(run.arguments(folder / "warm"))
    run.finish(folder / "warm-again")
    began = time.monotonic()
    whole = folder / "whole"
    run.finish(whole)
    seconds = time.monotonic() - began
    generator = random.Random(seed)
    console.print(f"seed {seed}: {kills} kills; an undisturbed run of {TASKS} tasks takes {seconds:.1f} s")
    left, rounds, places = kills, 0, Counter[str]()
    while left:
        out, rounds = folder / f"round-{rounds}", rounds + 1
        while left:
            longest = seconds / 4 if generator.random() < 0.9 else seconds
            outcome = run.start(run.arguments(out)).kill_at(time.monotonic() + generator.uniform(0, longest))
            if outcome.code == 0:
                break
            assert outcome.code == -9 and not outcome.said, f"ended with {outcome.code}: {outcome.said}"
            places[place_of(out)] += 1
            left -= 1
        run.finish(out)
        try:
            assert_identical(out, whole)
        except AssertionError as error:
            console.print(f"round {rounds}: {error}", style="red", markup=False)
            return 1
        console.print(f"round {rounds}: identical, {kills - left} of {kills} kills made")
    for name, number in sorted(places.items()):
        console.print(f"  {number:4d}  {name}")
    console.print(f"no task lost, no record and no weight differs; {time.monotonic() - began:.0f} s")
    return 0


def place_of(out: Path) -> str:
    """Where a killed run stands: by what it has saved."""
    try:
        state = RunFolder(out).state
    except InputError as error:
        return f"damaged: {error}"
    if state is None:
        return "before anything is saved"
    return f"{state.stages} tasks learnt, {'the next in flight' if state.flight else 'none in flight'}"
