import itertools

import pytest

from gorp.report.plots import scatter, spread


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([0.2, 0.6], [0.2, 0.6]),
        ([0.5, 0.5, 0.5], [0.5, 0.6, 0.7]),
        ([0.95, 0.97, 1.0], [0.8, 0.9, 1.0]),
        ([], []),
    ],
)
def test_labels_keep_their_order_and_a_distance(wanted, expected):
    assert spread(wanted, 0.1) == pytest.approx(expected)


def test_too_many_labels_stay_apart():
    places = spread([0.5] * 13, 0.1)
    assert all(after - before == pytest.approx(0.1) for before, after in itertools.pairwise(places))


def test_every_dot_is_named():
    drawing = scatter("AP against BWT", ("BWT", "AP"), [("gorp", 0, -1.0, 80.0), ("<b>", 7, -1.0, 80.1)], "one")
    assert drawing.startswith("<svg") and "gorp" in drawing and "&lt;b&gt;" in drawing
    assert "var(--series-1)" in drawing and "var(--series-2)" in drawing
