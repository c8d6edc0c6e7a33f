"""Held-out parts depend on the texts alone; limits are balanced."""

from collections import Counter

from gorp.tasks.splits import default_validation_rows, hold_out, limit


def text(item):
    return item[0]


def label(item):
    return item[1]


ITEMS = [(f"text {n}", "ABC"[n % 3]) for n in range(90)]


def test_hold_out_takes_the_asked_number_and_shares_nothing():
    rest, held = hold_out(ITEMS, 20, text, "validation")
    assert len(held) == 20
    assert sorted([*rest, *held]) == sorted(ITEMS)


def test_hold_out_does_not_depend_on_the_order_or_on_other_rows():
    _, held = hold_out(ITEMS, 20, text, "validation")
    _, reversed_held = hold_out(ITEMS[::-1], 20, text, "validation")
    assert set(held) == set(reversed_held)
    _, fewer = hold_out(ITEMS, 10, text, "validation")
    assert set(fewer) < set(held)


def test_hold_out_differs_by_salt():
    assert set(hold_out(ITEMS, 20, text, "validation")[1]) != set(hold_out(ITEMS, 20, text, "test")[1])


def test_no_text_is_on_both_sides():
    twice = [(f"text {n // 2}", str(n)) for n in range(60)]
    rest, held = hold_out(twice, 15, text, "validation")
    assert len(held) == 15
    assert not {item[0] for item in rest} & {item[0] for item in held}


def test_default_validation_rows():
    assert default_validation_rows(400) == 40
    assert default_validation_rows(100_000) == 500


def test_limit_is_balanced_and_seeded():
    chosen = limit(ITEMS, 31, text, label, seed=0)
    assert sorted(Counter(label(item) for item in chosen).values()) == [10, 10, 11]
    assert chosen == limit(ITEMS[::-1], 31, text, label, seed=0)
    assert set(chosen) != set(limit(ITEMS, 31, text, label, seed=1))


def test_limit_makes_up_for_a_small_class():
    uneven = [
        *((f"a{n}", "A") for n in range(2)),
        *((f"b{n}", "B") for n in range(5)),
        *((f"c{n}", "C") for n in range(90)),
    ]
    assert Counter(label(item) for item in limit(uneven, 40, text, label, seed=0)) == {"A": 2, "B": 5, "C": 33}


def test_limit_mixes_the_classes():
    in_blocks = sorted(ITEMS, key=label)
    assert len({label(item) for item in limit(in_blocks, 60, text, label, seed=0)[:15]}) == 3


def test_no_limit_keeps_everything_as_it_is():
    assert limit(ITEMS, None, text, label, seed=0) == ITEMS
    assert limit(ITEMS, 1000, text, label, seed=0) == ITEMS
