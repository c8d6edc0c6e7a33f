"""A model that stands as a run folder says, and is put up anew when a task of the run is taken back."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gorp.budget import Judge, accept_breach, breach_of_last, check_not_again, gentler, settle
from gorp.encoding import Encoder
from gorp.errors import GorpError, InputError
from gorp.events import attempt_due
from gorp.learning_model import LearningModel
from gorp.methods.base import Method
from gorp.progress import Progress
from gorp.report.record import RunRecord
from gorp.run_config import BudgetConfig, RunConfig
from gorp.run_folder import RunFolder
from gorp.run_setup import count_rows, starting_space
from gorp.run_state import KnownTask
from gorp.space import GradientSpace
from gorp.tasks import Task


class Standing:
    """What a run has come to: its folder, its record, its tasks, and a model at that point.

    Args:
        folder: of the run.
        config: the run's, settled.
        tokenizer: of the base model.
        device: where it goes.
        reload: gives the base model anew; without it nothing can be learnt once a task was taken back.

    Raises:
        InputError: the budget asks for what needs ``reload``, which is not given.
    """

    model: PreTrainedModel
    learning: LearningModel
    method: Method
    encoder: Encoder
    progress: Progress
    record: RunRecord
    tasks: list[Task]
    attempt: int
    _stands_at: tuple[str | None, str | None] | None

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        reload: Callable[[], PreTrainedModel] | None,
    ) -> None:
        self.folder, self.config = folder, config
        self._tokenizer, self._device, self._reload = tokenizer, device, reload
        if config.budget.on_breach == "retry" and config.budget.max_forgetting is not None and reload is None:
            raise InputError("budget.on_breach 'retry' needs the learner's reload; without it accepted: stop, rollback")

    @property
    def learnt(self) -> int:
        """How many tasks are learnt."""
        return self.folder.state.stages if self.folder.state is not None else 0

    def put_up(self, model: PreTrainedModel | None = None, space: GradientSpace | None = None) -> None:
        """Have a base model, one loaded anew if not given, stand as the last finished stage left it.

        Before the first stage it begins with ``space``, or with what the configuration names if loaded anew.
        """
        state, files = self.folder.state, self.folder.stage_files()
        self.attempt = attempt_due(state.events) if state else 0
        if model is None:
            assert self._reload is not None
            assert state is not None
            del self.model, self.learning, self.method, self.encoder  # there may be no room for two
            gc.collect()  # layers and their hooks know each other
            torch.cuda.empty_cache()
            model = self._reload()
            space = starting_space(self.config, state.base_model) if files is None else None
        if getattr(model, "hf_device_map", None) is None:
            model.to(self._device)  # type: ignore[arg-type]  # transformers
        self._stands_at, self.model, config = self.folder.stands_at, model, gentler(self.config, self.attempt)
        self.learning = LearningModel(model, self._tokenizer, config, files, self.folder.path, space)
        self.method, self.encoder = self.learning.method, self.learning.encoder

    def catch_up(self) -> None:
        """Read record and tasks as the folder has them."""
        self.record, self.tasks = self.folder.record(), self.folder.tasks()

    def begins_to_learn(self) -> None:
        """The model is changed from here on: unless it comes to `has_learnt`, it stands as no stage left it."""
        self._stands_at = None

    def has_learnt(self, record: RunRecord) -> None:
        """The model has learnt one more task, which the folder holds already."""
        assert self.folder.state is not None
        record.events = list(self.folder.state.events)  # which the first rank alone has written
        self.record, self._stands_at = record, self.folder.stands_at

    def accept_breach(self) -> None:
        """Go on from the last task whatever it cost the others; later losses are counted from there.

        Nothing happens where it is within the budget, of now and of the time, or was accepted before.
        """
        budgets = (self.config.budget, BudgetConfig())
        with self.folder.locked():
            if not any(breach_of_last(self.folder, self.judge(), budget) for budget in budgets):
                told = "the last task is within the budget, or what it cost was accepted before; nothing to accept"
                self.progress.message(f"{self.folder.path}: {told}")
                return
            accept_breach(self.folder)
        self.record = self.folder.record()

    def judge(self) -> Judge:
        """Of what the tasks cost one another so far."""
        return Judge(self.record, self.folder.row_scores(), self._rows_scored())

    def _rows_scored(self) -> dict[str, int]:
        return count_rows(self.tasks, self.config.evaluation.split)

    def settle(self, tasks: Sequence[Task] = ()) -> None:
        """Do what the budget asks for after the last stage, and refuse to learn what was taken back for its breach.

        Args:
            tasks: that are about to be learnt.

        Raises:
            BudgetExceeded: the run stops here.
            GorpError: the run is not what it was when the model was put up, and there is no ``reload``.
        """
        self.be_current()
        before = self.learnt
        try:
            again = settle(self.folder, self.judge(), self.config.budget)
        finally:
            if self.learnt != before:
                self.catch_up()
        if again and self.folder.state:
            self.progress.warning(f"{self.folder.state.events[-1].note}; it is learnt again, more gently")
        learnt = {known.name for known in self.tasks[: self.learnt]}
        if following := [task for task in tasks if task.name not in learnt]:
            check_not_again(self.folder, KnownTask.of(following[0]), self._rows_scored(), self.config.budget)
        self.be_current()

    def be_current(self, to_learn: bool = False) -> None:
        """Have the model be what its run folder says: where it is no more, it is put up anew.

        Args:
            to_learn: with the settings of the attempt that comes next, too.

        Raises:
            GorpError: it is not, and there is no ``reload``.
        """
        due = attempt_due(self.folder.state.events) if self.folder.state else 0
        if self._stands_at == self.folder.stands_at and (self.attempt == due or not to_learn):
            return
        if self._reload is None:
            raise GorpError(
                f"{self.folder.path}: this model is not what the run stands at, for a training was broken off, or a "
                "task was taken back or retracted; make a new learner on the folder, on the base model loaded anew"
            )
        self.catch_up()
        self.put_up()
