"""Tasks of EleutherAI's lm-eval on a model in memory (Gao et al., The Language Model Evaluation Harness)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from gorp.encoding import Encoder
from gorp.errors import GorpError, InputError, nearest
from gorp.evaluation import evaluating
from gorp.methods.base import Method
from gorp.over_stages import Measure


def lm_eval_of(
    tasks: Sequence[str], folder: Path | None = None, rows: int | None = None, batch_size: int = 16
) -> Measure[dict[str, float]]:
    """To measure: scores by ``TASK METRIC`` as lm-eval tells them, without their standard errors.

    The measure refuses encoders, and methods that put something before a text, of which lm-eval would not know.

    Args:
        tasks: names of lm-eval's tasks or groups.
        folder: of task files (YAML) beside those that lm-eval brings.
        rows: most rows of a task.
        batch_size: rows a pass.

    Raises:
        GorpError: lm-eval is not installed.
        InputError: no such task.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise GorpError("lm-eval is not installed; pip install gorp-cl[lm-eval]") from None
    manager = TaskManager(include_path=str(folder) if folder else None)
    for task in tasks:
        if task not in manager.all_tasks:
            raise InputError(f"lm-eval has no task {task!r}{nearest(task, manager.all_tasks)}")

    def measure(model: PreTrainedModel, encoder: Encoder, method: Method | None) -> dict[str, float]:
        if encoder.kind == "encoder":
            raise InputError("lm-eval asks a model that generates; accepted: a sequence-to-sequence or causal one")
        if method is not None and type(method).prepare is not Method.prepare:
            raise InputError(f"method {method.name!r} puts something before a text, of which lm-eval does not know")
        with evaluating(model):
            harness = HFLM(pretrained=model, tokenizer=encoder.tokenizer, backend=encoder.kind, batch_size=batch_size)
            told = simple_evaluate(harness, tasks=list(tasks), task_manager=manager, limit=rows, bootstrap_iters=0)
        return {
            f"{task} {metric.partition(',')[0]}": float(value)
            for task, figures in told["results"].items()
            for metric, value in figures.items()
            if isinstance(value, int | float) and "," in metric and "stderr" not in metric
        }

    return measure
