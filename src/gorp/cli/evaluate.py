"""``gorp evaluate``: what a run's model scores now, and what became of the base model's abilities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.completion import run_folders
from gorp.cli.shared import is_first_process, progress_only
from gorp.errors import InputError


def command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder.", show_default=False, autocompletion=run_folders),
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="Score this task; may be repeated.", show_default="all tasks")
    ] = None,
    split: Annotated[str, typer.Option(help="Rows to score on: test or validation.")] = "test",
    data: Annotated[str | None, typer.Option(help="Score the rows of this file or folder instead.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="How rows of --data are scored: exact_match or rouge_l.", show_default="exact_match"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the base model is now.", show_default="as in the run")
    ] = None,
    general: Annotated[
        Path | None, typer.Option(help="Tell the loss on this general text, before and after each task, instead.")
    ] = None,
    lm_eval: Annotated[
        str | None, typer.Option(help="Tell scores of these lm-eval tasks, before and after all tasks, instead.")
    ] = None,
    lm_eval_folder: Annotated[Path | None, typer.Option(help="Further lm-eval tasks, as YAML files.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the scores alone.")] = False,
) -> None:
    """Print scores in percent, a line a task, of the model as it is after the last task learnt.

    Each task is scored by its own metric, exact match or ROUGE-L; those that the run never learns are scored, too.

    \b
    Examples:
      gorp evaluate runs/desk --task refunds --split validation
      gorp evaluate runs/desk --general held_out.jsonl
      gorp evaluate runs/desk --lm-eval hellaswag,arc_easy
    """
    if general is not None or lm_eval is not None:
        with progress_only(quiet):
            if general is not None:
                _print_losses(run, general, model)
            if lm_eval is not None:
                _print_lm_eval(run, lm_eval.split(","), lm_eval_folder, model)
        return
    from gorp.launch import leave_ranks
    from gorp.learner import ContinualLearner
    from gorp.tasks import read_task

    if metric is not None and data is None:
        raise InputError("--metric is for the rows of --data; the tasks of a run are scored each by its own")
    with progress_only(quiet) as progress:
        learner = ContinualLearner.of_run(run, progress=progress, model=model)
        if data is None:
            scores = learner.evaluate(task or (), split)
        else:
            other = read_task(data, metric=metric or "exact_match")
            rows = [*other.train, *other.validation, *other.test]
            scores = {other.name: learner.score(rows, other.name, other.metric)}
    leave_ranks()
    if not is_first_process():
        return
    width = max(map(len, scores), default=0)
    for name, score in scores.items():
        print(f"{name:<{width}}  {'not measured' if score is None else f'{score:5.1f}'}")


def _print_losses(run: Path, text: Path, model: str | None) -> None:
    from gorp.general_text import read_texts
    from gorp.over_stages import BEFORE, over_stages, text_loss_of
    from gorp.run_folder import RunFolder

    tokens = RunFolder.of_run(run).config().training.max_source_length
    losses = over_stages(run, text_loss_of(read_texts(text), tokens, str(text)), model)
    width = max(map(len, losses))
    for stage, loss in losses.items():
        rise = "" if stage == BEFORE else f"  {loss - losses[BEFORE]:+.3f}"
        print(f"{stage:<{width}}  {loss:6.3f}{rise}")


def _print_lm_eval(run: Path, tasks: list[str], folder: Path | None, model: str | None) -> None:
    from gorp.lm_eval_tasks import lm_eval_of
    from gorp.over_stages import over_stages

    before, after = over_stages(run, lm_eval_of(tasks, folder), model, last_alone=True).values()
    width = max(map(len, before), default=0)
    for task, score in before.items():
        print(f"{task:<{width}}  {score:6.3f}  {after[task]:6.3f}  {after[task] - score:+.3f}")
