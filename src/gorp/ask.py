"""A run's model asked by hand: a prompt as it stands, or a text put as the rows of one of its tasks are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gorp.errors import InputError
from gorp.launch import join_ranks
from gorp.learnt_model import LearntModel, find_task, open_learnt
from gorp.likelihood import check_likelihoods
from gorp.matching import LabelMatcher
from gorp.tasks import Example
from gorp.tasks.prompts import messages_example, prompt_example, without_options


def ask(
    run: str | Path,
    prompts: Sequence[str],
    options: Sequence[str] = (),
    task: str | None = None,
    max_new_tokens: int | None = None,
    model: str | None = None,
) -> list[str]:
    """The answer to each prompt of the model as the last task left it.

    Args:
        run: the run folder.
        prompts: whole ones; with ``task`` texts, which are put as that task's rows are.
        options: what may be answered; of an encoder the labels of ``task`` if not given.
        task: one that is learnt.
        max_new_tokens: of an answer that is generated; as in training if not given.
        model: where the base model is now, if not where the run's configuration says.

    Raises:
        InputError: no such run or task, options that cannot be chosen among, or an encoder without any.
        GorpError: the model's outputs are not finite.
    """
    learnt = open_learnt(run, task=task, model=model, device=join_ranks())
    encoder, evaluator = learnt.learning.encoder, learnt.learning.evaluator
    rows = _rows(learnt, task) if task is not None else []
    examples = [put(prompt, rows) for prompt in prompts]
    if isinstance(encoder, LabelMatcher):
        examples = [_with_labels(example, options, rows, learnt) for example in examples]
    elif options:
        check_likelihoods(learnt.learning.base, encoder)
        evaluator.answers = "options"
        examples = [replace(example, options=tuple(options)) for example in examples]
    else:
        evaluator.answers = "generated"
    return evaluator.predict(examples, max_new_tokens=max_new_tokens or learnt.config.training.max_target_length)


def put(text: str, rows: Sequence[Example]) -> Example:
    """A text as most rows put theirs, between what these have in common; as it stands where they have nothing.

    Of conversations that is the turns that they begin with.
    """
    if 2 * sum(bool(row.messages) for row in rows) > len(rows):
        return messages_example((*_opening(rows), ("user", text)), "")
    around = Counter(
        (row.prompt[:start], row.prompt[end:]) for row in rows for start, end in (row.truncatable,) if start < end
    )
    ((head, tail), count) = around.most_common(1)[0] if around else (("", ""), 0)
    is_whole = bool(head) and text.startswith(head)
    if is_whole or 2 * count <= len(rows):
        return prompt_example(text, "")
    return Example(f"{head}{text}{tail}", "", (len(head), len(head) + len(text)))


def _opening(rows: Sequence[Example]) -> tuple[tuple[str, str], ...]:
    """The turns that most conversations begin with, before the last of each: a system's, as a rule."""
    begun = Counter(row.messages[:length] for row in rows for length in range(1, len(row.messages)))
    return max((turns for turns, count in begun.items() if 2 * count > len(rows)), key=len, default=())


def _rows(learnt: LearntModel, task: str) -> list[Example]:
    """Rows of a task that the run keeps."""
    tasks = learnt.folder.tasks()
    known = tasks[find_task([known.name for known in tasks], task)]
    return [*known.test, *known.validation]


def _with_labels(example: Example, options: Sequence[str], rows: Sequence[Example], learnt: LearntModel) -> Example:
    """An encoder's example with what may be answered: the options given, or those that the task's rows have."""
    own = rows[0].options if rows else ()
    if not options and not own:
        raise InputError(
            f"{learnt.folder.path}: the model is an encoder, which chooses among labels; give some (--options), or one "
            f"of its tasks (--task): {', '.join(known.name for known in learnt.tasks)}"
        )
    asked = without_options(replace(example, options=own)) if own else example
    return replace(asked, options=tuple(options or own))
