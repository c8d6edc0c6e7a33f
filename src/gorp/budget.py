"""The forgetting budget: what a stage cost the earlier tasks, whether that is too much, and what then follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from gorp._ranks import of_all_ranks
from gorp.errors import BudgetExceeded, command_line
from gorp.events import Event, attempt_made, is_accepted, retracted
from gorp.losses import mean_loss, paired_loss, unpaired_loss
from gorp.report.record import BudgetVerdict, Loss, RunRecord, Stage
from gorp.rollback import roll_back, take_back
from gorp.run_config import BudgetConfig, RunConfig
from gorp.run_folder import RunFolder, by_first_rank
from gorp.run_state import KnownTask
from gorp.tasks.task import BASE
from gorp.timeline import read_timeline

RowScores = Mapping[str, Tensor]


@dataclass(frozen=True)
class Judge:
    """Holds the scores after a stage against those of the stages before it.

    Attributes:
        record: of the run, with the stages before the one that is judged.
        row_scores: per earlier task, the scores (rows,) of every task after it.
        rows: per task, how many test rows it has.
    """

    record: RunRecord
    row_scores: Mapping[str, RowScores]
    rows: Mapping[str, int]

    def losses(self, stage: Stage, scores: RowScores, confidence: float) -> dict[str, Loss]:
        """Per earlier task what it lost since it was just learnt, or since the last breach that was accepted.

        Tasks that were retracted, or not measured, are left out.
        """
        learnt = {earlier.index: earlier for earlier in self.record.stages if earlier.index < stage.index}
        since = max((at for at in learnt if is_accepted(self.record.events, at + 1)), default=0)
        withdrawn = retracted(self.record.events)
        found = {}
        for position in learnt:
            task, base = self.record.tasks[position], learnt[max(position, since)]
            loss = self._loss(task, base, stage, scores, confidence)
            if loss is not None and task not in withdrawn:
                found[task] = loss
        return found

    def loss_between(self, task: str, before: Stage, after: Stage, confidence: float) -> Loss | None:
        """What one task lost between two stages of the record; None where it was not measured after both."""
        return self._loss(task, before, after, self.row_scores.get(after.task, {}), confidence)

    def _loss(self, task: str, before: Stage, after: Stage, scores: RowScores, confidence: float) -> Loss | None:
        """``scores`` are those of every task's rows after the later stage."""
        position = self.record.tasks.index(task)
        earlier, later = (dict(enumerate(stage.scores)).get(position) for stage in (before, after))
        if earlier is None or later is None:
            return None
        rows_before = self.row_scores.get(before.task, {}).get(task)
        if rows_before is None or task not in scores:  # nothing is kept of single rows
            return unpaired_loss(earlier, later, self.rows[task], confidence)
        return paired_loss(rows_before.tolist(), scores[task].tolist(), confidence)

    def verdict(
        self, stage: Stage, scores: RowScores, budget: BudgetConfig, attempt: int, settings: Mapping[str, float]
    ) -> BudgetVerdict | None:
        """What a stage cost, for the record; None without a budget."""
        if budget.max_forgetting is None:
            return None
        losses = self.losses(stage, scores, budget.confidence)
        return BudgetVerdict(
            max_forgetting=budget.max_forgetting,
            confidence=budget.confidence,
            losses=losses,
            overall=mean_loss(list(losses.values())) if losses else None,
            attempt=attempt,
            settings=dict(settings),
        )

    def breach(self, stage: Stage, budget: BudgetConfig) -> str | None:
        """What a stage of the record cost beyond a budget, in words; None where there is no such.

        Without a budget that of the time counts, which may have been given for the one task.
        """
        if budget.max_forgetting is None and stage.budget is not None:
            then = {"max_forgetting": stage.budget.max_forgetting, "confidence": stage.budget.confidence}
            budget = budget.model_copy(update=then)
        verdict = self.verdict(stage, self.row_scores.get(stage.task, {}), budget, 0, {})
        breaches = verdict.breaches() if verdict else {}
        if not breaches:
            return None
        lost = [f"{name} {loss.points:.1f} ({loss.low:.1f} to {loss.high:.1f})" for name, loss in breaches.items()]
        return (
            f"task {stage.task!r} cost earlier tasks more points than the {budget.max_forgetting:g} allowed: "
            f"{', '.join(lost)}"
        )


def gentler_settings(config: RunConfig, attempt: int) -> dict[str, float]:
    """The settings that an attempt at a task is made with instead of the run's; none at the first, 0."""
    if not attempt:
        return {}
    budget, training = config.budget, config.training
    settings = {
        "training.lr": training.lr * budget.retry_lr**attempt,
        "training.full_rank_lr": training.full_rank_lr * budget.retry_lr**attempt,
    }
    if config.method == "gorp" and config.gorp.memory != "first_moment":
        settings["gorp.damping"] = config.gorp.damping + budget.retry_damping * attempt
    return settings


def gentler(config: RunConfig, attempt: int) -> RunConfig:
    """The configuration of an attempt."""
    return RunConfig.from_mapping(
        config.model_dump(), [f"{key}={value!r}" for key, value in gentler_settings(config, attempt).items()]
    )


def settle(folder: RunFolder, judge: Judge, budget: BudgetConfig) -> bool:
    """Do what the budget asks for after the last stage; nothing where that is within it, or was accepted.

    Told by what is saved alone, so that it is done however the run was ended before.

    Args:
        folder: the run's, locked by the caller.
        judge: of the run as it is.
        budget: what counts now.

    Returns:
        Whether the task is to be learnt again.

    Raises:
        BudgetExceeded: the run stops here; the message says what was lost and how to go on.
    """
    breach = breach_of_last(folder, judge, budget)
    if breach is None:
        return False
    record, stage = judge.record, judge.record.stages[-1]
    attempt = attempt_made(record.events, stage.index + 1)
    if budget.on_breach == "retry" and attempt < budget.retries:
        take_back(folder, attempt + 1, breach)
        return True
    if budget.on_breach == "stop":
        raise BudgetExceeded(
            f"{folder.path}: {breach}. It is kept, and nothing more is learnt until you accept the loss "
            "(--accept-breach), raise budget.max_forgetting, or take it back: "
            f"{command_line('gorp', 'rollback', folder.path, '--to', _before(record))}"
        )
    roll_back(folder, _before(record), breach)
    tried = f" in {attempt + 1} attempts" if attempt else ""
    raise BudgetExceeded(_taken_back(folder, record.tasks[stage.index], f"{breach}{tried}"))


def check_not_again(folder: RunFolder, task: KnownTask, rows: Mapping[str, int], budget: BudgetConfig) -> None:
    """Refuse to learn what was taken back for its breach: it would come to the same.

    Args:
        folder: the run's, locked by the caller.
        task: that comes next.
        rows: as of `Judge`.
        budget: what counts now.

    Raises:
        BudgetExceeded: the task, with the same rows, comes next.
    """
    if breach := of_all_ranks(_breach_before(folder, task, rows, budget))[0]:
        raise BudgetExceeded(_taken_back(folder, task.name, breach))


def _breach_before(folder: RunFolder, task: KnownTask, rows: Mapping[str, int], budget: BudgetConfig) -> str | None:
    """What a task cost as it was learnt from where the run was rolled back to."""
    timeline = read_timeline(folder.path)
    if timeline is None or folder.state is None:
        return None
    later = [stage for stage in timeline.record.stages if stage.index >= folder.state.stages]
    if not later or timeline.state.tasks[later[0].index] != task:
        return None
    return Judge(timeline.record, folder.row_scores(timeline.state), rows).breach(later[0], budget)


def breach_of_last(folder: RunFolder, judge: Judge, budget: BudgetConfig) -> str | None:
    """What the last stage cost beyond a budget, in words; None where there is no such, or it was accepted."""
    state = folder.state
    if not judge.record.stages or state is None or is_accepted(state.events, state.stages):
        return None
    return of_all_ranks(judge.breach(judge.record.stages[-1], budget))[0]  # and no file is removed before all have read


@by_first_rank
def accept_breach(folder: RunFolder) -> None:
    """Go on from the last stage whatever it cost; later losses count from here."""
    state = folder.state
    assert state is not None
    event = Event.now("accepted", state.tasks[state.stages - 1].name, state.stages)
    folder.restate(replace(state, events=[*state.events, event]))


def _before(record: RunRecord) -> str:
    """Name of the stage before the last."""
    return record.tasks[record.stages[-2].index] if len(record.stages) > 1 else BASE


def _taken_back(folder: RunFolder, task: str, breach: str) -> str:
    return (
        f"{folder.path}: {breach}. It was taken back, and with the same settings would come to the same again; "
        "accepted: other tasks, a budget.max_forgetting that allows it, or to put it back (budget.on_breach 'retry' "
        "then learns it more gently, while there are retries left): "
        f"{command_line('gorp', 'rollback', folder.path, '--to', task)}"
    )
