"""The metrics, on hand-made matrices and on T5-large's published per-stage accuracy (O-LoRA's logs, order 1)."""

import copy
import json
import os
from pathlib import Path

import pytest

from gorp import metrics

# dbpedia, amazon, yahoo, agnews
O_LORA = [
    [98.7105, None, None, None],
    [98.5526, 57.7632, None, None],
    [97.4079, 57.4079, 71.9079, None],
    [97.7368, 56.0658, 71.0395, 88.6184],
]
INC_LORA = [
    [98.7105, None, None, None],
    [82.4737, 57.0132, None, None],
    [80.7763, 44.9474, 72.3816, None],
    [79.5, 40.8158, 64.1447, 90.0132],
]
SEQ_LORA = [
    [98.7105, None, None, None],
    [87.0789, 58.4737, None, None],
    None,
    [59.0526, 39.7105, 62.5395, 90.1974],
]


@pytest.mark.parametrize(
    ("matrix", "performance", "backward", "forgotten"),
    [
        (O_LORA, 78.365125, -1.179833, 1.179833),
        (INC_LORA, 68.618425, -14.548267, 14.548267),
        (SEQ_LORA, 62.875, None, None),  # yahoo was not measured when it had just been learned
    ],
)
def test_published_logs(matrix, performance, backward, forgotten):
    assert metrics.average_performance(matrix) == pytest.approx(performance, abs=1e-5)
    assert metrics.backward_transfer(matrix) == (None if backward is None else pytest.approx(backward, abs=1e-5))
    assert metrics.forgetting(matrix) == (None if forgotten is None else pytest.approx(forgotten, abs=1e-5))


@pytest.mark.skipif("GORP_REFERENCE" not in os.environ, reason="needs $GORP_REFERENCE, published logs per stage")
def test_the_published_averages_are_those_of_the_published_logs():
    """``predict_exact_match`` of the last stage, as O-LoRA's logs print it beside the scores of the tasks."""
    path = Path(os.environ["GORP_REFERENCE"]) / "olora_t5_large_order1.json"
    runs = json.loads(path.read_text())["runs"]
    for run, published in {"o-lora": 78.3651, "inc-lora": 68.6184, "seq-lora": 62.875}.items():
        assert metrics.average_performance(runs[run]) == pytest.approx(published, abs=6e-5)
    assert metrics.backward_transfer(runs["o-lora"]) == pytest.approx(-1.179833, abs=1e-5)
    assert metrics.backward_transfer(runs["seq-lora"]) is None  # the logs of its third stage are not published
    assert runs["o-lora"] == O_LORA and runs["inc-lora"] == INC_LORA and runs["seq-lora"] == SEQ_LORA


def test_unseen_tasks_are_averaged_after_the_last_stage():
    assert metrics.unseen([[10.0, 20.0], [30.0, 50.0]]) == pytest.approx(40.0)
    assert metrics.unseen([None, [30.0, 50.0]]) == pytest.approx(40.0)
    assert metrics.unseen([[10.0, 20.0], [30.0, None]]) is None
    assert metrics.unseen([[]]) is metrics.unseen([]) is metrics.unseen([[1.0], None]) is None


def test_forgetting_counts_from_the_best_stage_and_backward_transfer_from_the_first():
    matrix = [[50.0, None, None], [70.0, 40.0, None], [60.0, 45.0, 90.0]]
    assert metrics.backward_transfer(matrix) == pytest.approx((10 + 5) / 2)
    assert metrics.forgetting(matrix) == pytest.approx((10 - 5) / 2)


def test_the_best_stage_is_not_one_before_the_task_was_learned():
    matrix = [[50.0, 99.0, 0.0], [50.0, 40.0, 0.0], [50.0, 30.0, 90.0]]
    assert metrics.forgetting(matrix) == pytest.approx((0 + 10) / 2)


def test_forward_transfer_compares_the_stage_before_with_zero_shot():
    matrix = [[90.0, 30.0, 7.0], [90.0, 80.0, 20.0], [90.0, 80.0, 85.0]]
    assert metrics.forward_transfer(matrix, [10.0, 25.0, 40.0]) == pytest.approx(((30 - 25) + (20 - 40)) / 2)


def test_forward_transfer_is_unknown_where_unseen_tasks_were_not_measured():
    assert metrics.forward_transfer(O_LORA, [0.0, 0.0, 0.0, 0.0]) is None
    full = [[1.0, 2.0], [3.0, 4.0]]
    assert metrics.forward_transfer(full, [0.0, None]) is None


def test_a_run_in_progress_averages_the_tasks_learned_so_far():
    assert metrics.average_performance([[80.0, 1.0, 2.0], [70.0, 60.0, 3.0]]) == pytest.approx(65.0)


def test_joint_training_is_one_measured_row():
    matrix = [None, None, [90.0, 80.0, 70.0]]
    assert metrics.average_performance(matrix) == pytest.approx(80.0)
    assert metrics.backward_transfer(matrix) is None
    assert metrics.forgetting(matrix) is None


@pytest.mark.parametrize("matrix", [[], [[90.0, None]]])
def test_nothing_to_forget_yet(matrix):
    assert metrics.backward_transfer(matrix) is None
    assert metrics.forgetting(matrix) is None
    assert metrics.forward_transfer(matrix, [0.0, 0.0]) is None


def test_a_missing_last_score_is_not_averaged_away():
    assert metrics.average_performance([[90.0, None], [80.0, None]]) is None
    assert metrics.average_performance([[90.0, 10.0], None]) is None
    assert metrics.average_performance([]) is None


def test_the_matrix_is_left_as_it_was():
    matrix = copy.deepcopy(O_LORA)
    for function in (metrics.average_performance, metrics.backward_transfer, metrics.forgetting):
        function(matrix)
    metrics.forward_transfer(matrix, [1.0, 2.0, 3.0, 4.0])
    assert matrix == O_LORA


def test_short_rows_are_refused():
    with pytest.raises(ValueError, match=r"row 0 .* 1 entries for 2 stages"):
        metrics.average_performance([[1.0], [1.0, 2.0]])
    with pytest.raises(ValueError, match="zero_shot has 1"):
        metrics.forward_transfer([[1.0, 2.0], [1.0, 2.0]], [0.0])
