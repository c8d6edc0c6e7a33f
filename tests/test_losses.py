import random

import pytest

from gorp.losses import mean_loss, paired_loss, unpaired_loss


def rows(hits, of):
    return [100.0] * hits + [0.0] * (of - hits)


@pytest.mark.parametrize("loss", ["paired", "unpaired"])
def test_the_same_loss_is_beyond_doubt_on_many_rows_and_not_on_few(loss):
    for count, beyond_doubt in ((20, False), (2000, True)):
        before, after = rows(count // 2, count), rows(count // 2 - count // 20, count)  # 5 points less
        paired = loss == "paired"
        found = paired_loss(before, after, 0.95) if paired else unpaired_loss(50.0, 45.0, count, 0.95)
        assert found.points == pytest.approx(5)
        assert (found.low > 1) == beyond_doubt
        assert found.low < 5 < found.high


def test_pairs_tell_more_than_the_two_scores():
    before, after = rows(500, 1000), rows(480, 1000)
    paired, unpaired = paired_loss(before, after, 0.95), unpaired_loss(50.0, 48.0, 1000, 0.95)
    assert paired.low > 1 > 0 > unpaired.low


def test_rows_that_all_agree_leave_doubt_while_they_are_few():
    assert paired_loss(rows(2, 2), rows(0, 2), 0.95).low < 1
    assert paired_loss(rows(30, 30), rows(0, 30), 0.95).low > 50
    assert paired_loss([100.0] * 5, [100.0] * 5, 0.95).high > 0


def test_scores_between_0_and_100_count_as_they_are():
    generator = random.Random(0)
    before = [generator.uniform(40, 60) for _ in range(400)]
    assert paired_loss(before, [score - 3 for score in before], 0.95).low > 1
    noisy = [score - 3 + 90 * (-1) ** row for row, score in enumerate(before)]
    assert paired_loss(before, noisy, 0.95).low < 1


def test_intervals_cover_as_often_as_they_say():
    generator = random.Random(1)
    covering = 0
    for _ in range(1000):
        before = [100.0 * (generator.random() < 0.7) for _ in range(60)]
        after = [100.0 * (generator.random() < 0.6) for _ in range(60)]
        found = paired_loss(before, after, 0.95)
        covering += found.low <= 10 <= found.high
    assert covering >= 930


def test_without_confidence_the_loss_stands_for_itself():
    found = paired_loss(rows(2, 10), rows(1, 10), 0.0)
    assert found.low == found.points == found.high == pytest.approx(10)


@pytest.mark.parametrize(("tasks", "hits_before", "hits_after"), [(15, 0.9, 0.4), (50, 0.9, 0.4), (50, 0.6, 0.6)])
def test_the_means_interval_covers_as_often_as_it_says_however_many_tasks_and_few_rows(tasks, hits_before, hits_after):
    generator = random.Random(2)

    def task():
        scores = [
            [100.0 * (generator.random() < hits) for _ in range(20)]  # rows
            for hits in (hits_before, hits_after)
        ]
        return paired_loss(*scores, 0.95)

    means = [mean_loss([task() for _ in range(tasks)]) for _ in range(200)]
    lost = 100 * (hits_before - hits_after)
    assert sum(mean.low > lost for mean in means) <= 10  # 5 are expected
    assert sum(mean.high < lost for mean in means) <= 10


def test_the_mean_of_rows_that_were_all_lost_is_within_its_interval():
    mean = mean_loss([paired_loss(rows(40, 40), rows(0, 40), 0.95)] * 10)
    assert mean.low < mean.points == 100 < mean.high


def test_the_mean_of_one_loss_is_that_loss():
    loss = paired_loss(rows(15, 20), rows(9, 20), 0.95)
    mean = mean_loss([loss])
    assert (mean.low, mean.high) == (pytest.approx(loss.low), pytest.approx(loss.high))


def test_the_mean_of_several_is_surer_than_each():
    each = paired_loss(rows(60, 100), rows(50, 100), 0.95)
    mean = mean_loss([each] * 4)
    assert mean.points == each.points
    assert mean.high - mean.low == pytest.approx((each.high - each.low) / 2)
