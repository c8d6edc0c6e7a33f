"""A run's model asked by hand: a prompt as it stands, or a text put as the rows of one of its tasks are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from gorp.errors import InputError
from gorp.launch import join_ranks
from gorp.learnt_model import LearntModel, find_task, open_learnt
from gorp.likelihood import check_likelihoods
from gorp.matching import LabelMatcher
from gorp.run_folder import RunFolder
from gorp.tasks import Example, Task
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
    known = kept_task(learnt.folder, task) if task is not None else None
    rows = [*known.test, *known.validation] if known else []
    examples = list(map(put_as(rows), prompts))
    if isinstance(encoder, LabelMatcher):
        examples = [_with_labels(example, options, rows, learnt) for example in examples]
    elif options:
        check_likelihoods(learnt.learning.base, encoder)
        evaluator.answers = "options"
        examples = [replace(example, options=tuple(options)) for example in examples]
    else:
        evaluator.answers = "generated"
    return evaluator.predict(examples, max_new_tokens=max_new_tokens or learnt.config.training.max_target_length)


def put_as(rows: Sequence[Example]) -> Callable[[str], Example]:
    """What puts a text as most rows put theirs, between what these have in common; as it stands where that is nothing.

    Of conversations that is the turns that they begin with.
    """
    if 2 * sum(bool(row.messages) for row in rows) > len(rows):
        opening = _opening(rows)
        return lambda text: messages_example((*opening, ("user", text)), "")
    head, tail = _around(rows)

    def put(text: str) -> Example:
        is_whole = text.startswith(head) and (bool(head) or text.endswith(tail))
        if is_whole:
            return prompt_example(text, "")
        return Example(f"{head}{text}{tail}", "", (len(head), len(head) + len(text)))

    return put


def _around(rows: Sequence[Example]) -> tuple[str, str]:
    """What stands before the texts of most rows, and behind: of texts that are never cut, the lines that all share."""
    spans = Counter(
        (row.prompt[:start], row.prompt[end:]) for row in rows for start, end in (row.truncatable,) if start < end
    )
    (around, count) = spans.most_common(1)[0] if spans else (("", ""), 0)
    if 2 * count > len(rows):
        return around
    prompts = list({row.prompt for row in rows})
    if len(prompts) < 2:
        return "", ""
    lines = [prompt.split("\n") for prompt in prompts]
    head = "".join(f"{line}\n" for line in _shared(lines))
    tail = "".join(f"\n{line}" for line in reversed(_shared([own[::-1] for own in lines])))
    return head, tail


def _shared(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines that all begin with."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*lines, strict=False))
    return [column[0] for column in columns]


def _opening(rows: Sequence[Example]) -> tuple[tuple[str, str], ...]:
    """The turns that most conversations begin with, before the last of each: a system's, as a rule."""
    begun = Counter(row.messages[:length] for row in rows for length in range(1, len(row.messages)))
    return max((turns for turns, count in begun.items() if 2 * count > len(rows)), key=len, default=())


def kept_task(folder: RunFolder, name: str) -> Task:
    """A task of a run, with the rows that the run keeps of it.

    Raises:
        InputError: the run has not learnt such a task.
    """
    tasks = folder.tasks()
    return tasks[find_task([known.name for known in tasks], name)]


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
