import random

from gorp.methods.replay import fill_reservoir
from gorp.tasks import Example, Task


def task(name, count):
    return Task(name, [Example(f"{name} {number}", "yes", (0, 0)) for number in range(count)], [], [])


def test_every_row_seen_is_kept_with_the_same_chance():
    runs, capacity, rows = 3000, 3, 12
    counts = [0] * rows
    for seed in range(runs):
        generator = random.Random(seed)
        kept, seen = [], 0
        for part in (range(2), range(2, 5), range(5, rows)):  # arriving in parts makes no difference
            kept = fill_reservoir(kept, seen, part, capacity, generator)
            seen += len(part)
        assert len(set(kept)) == capacity
        for item in kept:
            counts[item] += 1
    expected = runs * capacity / rows
    assert all(abs(count - expected) < 4.5 * expected**0.5 for count in counts)


def test_a_share_of_old_rows_joins_each_new_task(attach):
    method = attach("replay", capacity=8, share=0.25)
    tasks = [task(name, 20) for name in "abc"]
    old = []
    for index, new in enumerate(tasks):
        rows = method.training_rows(new, index)
        assert rows[:20] == new.train
        assert len(rows) == (25 if index else 20)
        assert len(set(rows)) == len(rows)
        assert set(rows[20:]) <= set(old)
        assert method.training_rows(new, index) == rows
        method.end_task(new, index)
        old += new.train
    assert int(method.state()["seen"]) == 60


def test_few_kept_rows_join_once(attach):
    method = attach("replay", capacity=2, share=1)
    method.end_task(task("a", 5), 0)
    assert len(method.training_rows(task("b", 5), 1)) == 7


def test_rows_come_back_whole(attach):
    rows = [
        Example("Größe?\u2028\nAnswer:", "« ja »", (0, 3), ("yes", "oui"), (("user", "a\nb"), ("assistant", "c"))),
        Example("b", "c", (0, 1)),
    ]
    method, again = attach("replay", share=1), attach("replay", share=1)
    again.load_state(method.state())
    assert again.training_rows(task("b", 2), 1) == task("b", 2).train  # nothing kept comes back, too
    method.end_task(Task("a", rows, [], []), 0)
    again.load_state(method.state())
    assert set(again.training_rows(task("b", 2), 1)[2:]) == set(rows)
    assert again.training_rows(task("b", 2), 1) == method.training_rows(task("b", 2), 1)
    for each in (method, again):
        each.end_task(task("c", 2000), 1)
    assert again.state()["rows"].equal(method.state()["rows"])
