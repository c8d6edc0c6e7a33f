import itertools
import math
import random

import pytest

from gorp.compare.statistics import mean, paired, sign_flip_p_value, student


@pytest.mark.parametrize(
    ("freedom", "point"), [(1, 12.706), (2, 4.303), (8, 2.306), (11, 2.201), (30, 2.042), (500, 1.965)]
)
def test_student_is_the_tabulated_one(freedom, point):
    assert student(freedom) == pytest.approx(point, abs=1e-3)


def test_the_interval_is_students():
    figure = mean([40.0, 43.0, 46.0])
    assert figure.value == 43 and figure.count == 3
    assert figure.margin == pytest.approx(4.303 * 3 / math.sqrt(3))
    assert mean([5.0]).margin is None and mean([]) is None


def test_pairs_take_out_what_seeds_share():
    ours, theirs = [10.0, 50.0, 90.0], [8.0, 49.0, 87.0]
    found = paired(ours, theirs)
    assert found.difference.value == 2 and found.difference.margin < 3 < mean(ours).margin
    assert found.p_value == 2 / 2**3
    assert paired([1.0], [0.0]).p_value is None and paired([], []) is None
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired([1.0], [])


def test_the_p_value_is_the_share_of_turned_signs():
    differences = [3.0, -1.0, 2.0, 0.5]
    turns = itertools.product((1, -1), repeat=4)
    sums = [sum(sign * value for sign, value in zip(signs, differences, strict=True)) for signs in turns]
    assert sign_flip_p_value(differences) == sum(abs(total) >= 4.5 for total in sums) / 16
    assert sign_flip_p_value([0.0, 0.0]) == 1


def test_many_pairs_are_turned_at_random_and_agree_with_the_normal_limit():
    generator = random.Random(3)
    differences = [generator.gauss(0.4, 1) for _ in range(60)]
    z = sum(differences) / math.sqrt(sum(d * d for d in differences))
    assert sign_flip_p_value(differences) == pytest.approx(math.erfc(abs(z) / math.sqrt(2)), abs=0.01)
    assert sign_flip_p_value(differences) == sign_flip_p_value(differences)
