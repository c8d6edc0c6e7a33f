"""``gorp evaluate``: what a run's model scores now, and what became of the base model's abilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gorp.cli.completion import run_folders
from gorp.cli.shared import is_first_process, progress_only
from gorp.errors import InputError

if TYPE_CHECKING:
    from gorp.learner import ContinualLearner


def command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder.", show_default=False, autocompletion=run_folders),
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="Score this task; may be repeated.", show_default="all tasks")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Rows to score on: test or validation.", show_default="test")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Score the rows of this file or folder instead, put as those of --task are.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="How rows of --data are scored: exact_match or rouge_l.", show_default="as of --task"),
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
      gorp evaluate runs/desk --task refunds --data this_week.jsonl
      gorp evaluate runs/desk --general held_out.jsonl
      gorp evaluate runs/desk --lm-eval hellaswag,arc_easy
    """
    if lm_eval_folder is not None and lm_eval is None:
        raise InputError("--lm-eval-folder is where tasks of --lm-eval are; give both")
    if general is not None or lm_eval is not None:
        with progress_only(quiet):
            if general is not None:
                _print_losses(run, general, model)
            if lm_eval is not None:
                _print_lm_eval(run, lm_eval.split(","), lm_eval_folder, model)
        return
    from gorp.launch import leave_ranks
    from gorp.learner import ContinualLearner

    if metric is not None and data is None:
        raise InputError("--metric is for the rows of --data; the tasks of a run are scored each by its own")
    if data is not None and (split is not None or len(task or ()) > 1):
        raise InputError("--data: all its rows are scored; accepted: no --split, and one --task at most")
    with progress_only(quiet) as progress:
        learner = ContinualLearner.of_run(run, progress=progress, model=model)
        if data is None:
            scores = learner.evaluate(task or (), split or "test")
        else:
            scores = _scores_of_data(learner, data, task[0] if task else None, metric)
    leave_ranks()
    if not is_first_process():
        return
    width = max(map(len, scores), default=0)
    for name, score in scores.items():
        print(f"{name:<{width}}  {'not measured' if score is None else f'{score:5.1f}'}")


def _scores_of_data(
    learner: ContinualLearner, data: str, task: str | None, metric: str | None
) -> dict[str, float | None]:
    from gorp.ask import kept_task, put_as
    from gorp.tasks import read_examples
    from gorp.tasks.readers import task_name
    from gorp.tasks.task import check_metric

    known = kept_task(learner.folder, task) if task is not None else None
    if known is None and learner.method.told_task:
        raise InputError(f"method {learner.method.name!r} has to be told which task the rows of --data are of: --task")
    if known is None:
        name, examples = task_name(Path(data)), read_examples(data)
    else:
        name = known.name
        examples = read_examples(data, known.labels, put_as([*known.test, *known.validation]))
    scored_by = check_metric(metric or (known.metric if known else "exact_match"))
    return {name: learner.score(examples, name, scored_by)}


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
