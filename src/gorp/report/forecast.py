"""What a run will cost, on a terminal."""

from __future__ import annotations

from rich.console import Console

from gorp.forecast import Forecast
from gorp.progress import describe_duration
from gorp.report.tables import Grid, to_rich
from gorp.report.terminal import open_console

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Bytes in powers of 1000, to three digits."""
    for unit in _UNITS:
        if abs(count) < 999.5 or unit == _UNITS[-1]:
            return f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError


def forecast_grids(found: Forecast) -> list[Grid]:
    """Its tables: parameters, memory, tasks."""
    kinds = tuple((kind, f"{count:,}") for kind, count in found.parameters.items() if count)
    memory = found.memory
    parts = tuple((part, size(count)) for part, count in memory.parts.items() if count)
    phases = tuple((f"peak while {phase}", size(count)) for phase, count in memory.phases.items())
    grids = [
        Grid("parameters", ("kind", "numbers"), kinds),
        Grid(
            "memory" + (f", each of {memory.ranks} ranks" if memory.ranks > 1 else ""),
            ("part", "bytes"),
            (*parts, (f"at the peak, {memory.phase}", size(memory.peak)), *phases),
        ),
    ]
    rows = []
    for index, task in enumerate(found.tasks):
        operations = found.operations
        own = operations.own[index] / max(1, operations.training[index])
        times: tuple[str, ...] = ("-", "-")
        if found.time is not None:
            seconds = (found.time.training[index], found.time.evaluation[index + 1])
            times = tuple(map(describe_duration, seconds))
        figures = (
            f"{found.steps[index]:,}",
            f"{found.tokens[index]:,}",
            f"{operations.training[index]:.3g}",
            f"{own:.2%}",
        )
        rows.append((task, *figures, *times))
    header = ("task", "steps", "tokens", "operations", "the method's own", "training", "evaluation after it")
    return [*grids, Grid("work", header, tuple(rows))]


def print_forecast(found: Forecast, console: Console | None = None) -> None:
    """Print tables and sentences."""
    console = console or open_console()
    console.print(
        f"{found.method} on {found.model}, stream {found.stream}, {found.device}", highlight=False, markup=False
    )
    for grid in forecast_grids(found):
        console.print(to_rich(grid), highlight=False)
    for line in sentences(found):
        console.print(line, highlight=False, markup=False)


def sentences(found: Forecast) -> list[str]:
    """What no table says."""
    lines = []
    if found.memory.main_memory is not None:
        lines.append(f"main memory: {size(found.memory.main_memory)} of tensors besides, for leak and drift")
    if (space := found.space) is not None:
        first, half, every = (
            space.first_layer_full_at_task,
            space.half_of_layers_full_at_task,
            space.all_layers_full_at_task,
        )
        full = f"task {first} is the first that does not fit a layer, {half} half of them, {every} any"
        grown = f"{size(space.bytes_per_task)} a task, {size(space.bytes_after)} after {space.after_tasks}"
        lines.append(f"space: {grown}, at most {size(space.most_bytes)}")
        told = full if first is not None else "some layers never fill up"
        lines.append(f"space: {told}; a full layer learns no more")
        lines.append(f"space: rests on {space.rests_on}")
    lines.append(f"operations of all evaluation: at most {found.operations.evaluation:.3g}")
    if (time := found.time) is not None:
        scaled = ", scaled from one block and two" if time.scaled_from_blocks else ""
        kept = "" if time.keeping is None else f", {describe_duration(time.keeping)} to end a task"
        total, evaluation = describe_duration(time.total), describe_duration(sum(time.evaluation))
        lines.append(
            f"time: about {total} in all, of which evaluation {evaluation}{kept}; "
            f"from {time.steps} steps on this machine{scaled}"
        )
    lines += [f"assumed: {line}" for line in found.assumed]
    lines += [f"not told: {line}" for line in found.left_out]
    return lines
