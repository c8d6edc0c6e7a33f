"""What a stream of tasks left behind: pure functions of the accuracy matrix.

``matrix[i][j]`` is the score of task ``j`` after stage ``i``, both counted from 0, in percent; ``None`` where it was
not measured, and a whole row may be ``None``. The number of rows ``T`` is the number of tasks learned so far; a row
may go on past ``T`` with scores of tasks yet to come. Joint training, which learns all ``T`` tasks in one go, has rows
of ``None`` and last a row of scores.

Every function returns points of percent, or ``None`` where what it needs was not measured: never a mean over fewer
tasks than its definition says. None of them changes its input.
"""

from collections.abc import Sequence

Row = Sequence[float | None]
Matrix = Sequence[Row | None]


def average_performance(matrix: Matrix) -> float | None:
    """AP, the mean of the last row over the tasks learned: ``1/T sum_j a[T-1][j]``.

    Raises ``ValueError`` if a row has fewer entries than there are rows.
    """
    _check(matrix)
    return mean([_entry(matrix, len(matrix) - 1, task) for task in range(len(matrix))])


def backward_transfer(matrix: Matrix) -> float | None:
    """BWT, what learning the later tasks did to the earlier ones: ``1/(T-1) sum_{j<T-1} (a[T-1][j] - a[j][j])``.

    Negative where tasks were forgotten (Lopez-Paz and Ranzato 2017). ``None`` for fewer than two tasks.
    Raises ``ValueError`` if a row has fewer entries than there are rows.
    """
    _check(matrix)
    last = len(matrix) - 1
    return mean([_difference(_entry(matrix, last, task), _entry(matrix, task, task)) for task in range(last)])


def forward_transfer(matrix: Matrix, zero_shot: Row) -> float | None:
    """FWT, what a task gains from those before it, unseen itself: ``1/(T-1) sum_{0<j<T} (a[j-1][j] - z[j])``.

    ``zero_shot[j]`` is the score ``z[j]`` of task ``j`` before the first stage (Lopez-Paz and Ranzato 2017). ``None``
    for fewer than two tasks. Raises ``ValueError`` if a row, or ``zero_shot``, has fewer entries than there are rows.
    """
    _check(matrix)
    if len(zero_shot) < len(matrix):
        raise ValueError(f"zero_shot has {len(zero_shot)} entries for {len(matrix)} stages")
    return mean([_difference(_entry(matrix, task - 1, task), zero_shot[task]) for task in range(1, len(matrix))])


def forgetting(matrix: Matrix) -> float | None:
    """Mean loss against the best a task ever was: ``1/(T-1) sum_{j<T-1} (max_{j<=i<T-1} a[i][j] - a[T-1][j])``.

    The maximum is over the stages since the task was learned (Chaudhry et al. 2018); positive where tasks were
    forgotten, and at least ``-backward_transfer``. ``None`` for fewer than two tasks, or where a task was not measured
    after each of these stages. Raises ``ValueError`` if a row has fewer entries than there are rows.
    """
    _check(matrix)
    last = len(matrix) - 1
    return mean([_difference(_best(matrix, task, last), _entry(matrix, last, task)) for task in range(last)])


def unseen(matrix: Matrix) -> float | None:
    """Mean of the last row of the unseen tasks' matrix: ``1/K sum_k u[T-1][k]``, zero-shot by construction.

    ``matrix[i][k]`` is the score after stage ``i`` of task ``k``, one of ``K`` that are never learned. ``None`` if
    there are none.
    """
    return mean(list(matrix[-1] or ())) if matrix else None


def measured_once(matrix: Matrix) -> bool:
    """Whether no stage of several but the last was measured, as where all tasks are learned at once."""
    return len(matrix) > 1 and all(value is None for row in matrix[:-1] for value in row or ())


def _best(matrix: Matrix, task: int, last: int) -> float | None:
    """Return the highest score of ``task`` from the stage that learned it up to the one before ``last``."""
    scores = [_entry(matrix, stage, task) for stage in range(task, last)]
    measured = [score for score in scores if score is not None]
    return max(measured) if len(measured) == len(scores) else None


def _entry(matrix: Matrix, stage: int, task: int) -> float | None:
    row = matrix[stage]
    return None if row is None else row[task]


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, or ``None`` if there is nothing to average or any of it is missing."""
    measured = [value for value in values if value is not None]
    return sum(measured) / len(measured) if measured and len(measured) == len(values) else None


def _check(matrix: Matrix) -> None:
    for stage, row in enumerate(matrix):
        if row is not None and len(row) < len(matrix):
            raise ValueError(f"row {stage} of the accuracy matrix has {len(row)} entries for {len(matrix)} stages")
