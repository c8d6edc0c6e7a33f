"""A run from its configuration alone: what `gorp run` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gorp.launch import join_ranks
from gorp.learner import ContinualLearner
from gorp.progress import Progress
from gorp.report.record import RunRecord
from gorp.run_config import RunConfig
from gorp.run_setup import load_base, load_stream
from gorp.tasks import Task


def run_stream(
    config: RunConfig,
    run_dir: str | Path,
    stream: Sequence[Task] | None = None,
    progress: Progress | None = None,
    accept_breach: bool = False,
) -> RunRecord:
    """Learn a whole stream, or go on with an interrupted run of it; a finished run is returned as it is.

    Args:
        config: the run.
        run_dir: its folder.
        stream: the tasks, if not those that ``config`` names; the unseen ones of a `TaskStream` are measured, too.
        accept_breach: go on whatever the last task that was learnt has cost.

    Raises:
        InputError: the configuration, the data, or the run folder does not fit.
        BudgetExceeded: a task cost the earlier ones more than the budget allows.
        GorpError: training failed; see the message. What was saved stays.
    """
    join_ranks()  # before a device is chosen for the model
    tasks = stream if stream is not None else load_stream(config)
    learner = learner_of(config, run_dir, progress)
    if accept_breach:
        learner.accept_breach()
    learner.learn_stream(tasks)
    return learner.record


def learner_of(config: RunConfig, run_dir: str | Path, progress: Progress | None = None) -> ContinualLearner:
    """The learner of a new run, or of an interrupted one, on the base model that ``config`` names.

    Raises:
        InputError: the configuration or the run folder does not fit.
    """
    backbone = load_base(config)
    return ContinualLearner(
        backbone.model,
        backbone.tokenizer,
        run_dir=run_dir,
        config=config,
        progress=progress,
        reload=lambda: load_base(config).model,
    )
