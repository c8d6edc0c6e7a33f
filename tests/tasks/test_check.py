"""What `gorp data` finds in a task."""

from gorp.tasks import Example, Task
from gorp.tasks.check import problems, summarise


def rows(*pairs):
    return [Example(prompt, answer, (0, 0)) for prompt, answer in pairs]


def sound():
    train = [(f"train prompt {n}", "AB"[n % 2]) for n in range(20)]
    return Task("t", rows(*train), rows(("validation prompt", "A")), rows(("one", "A"), ("two", "B")), ("A", "B"))


def test_summary():
    summary = summarise(sound())
    assert (summary.train, summary.validation, summary.test) == (20, 1, 2)
    assert summary.per_label == {"A": 10, "B": 10}
    assert (summary.median_words, summary.longest_words) == (3, 3)


def test_a_sound_task_has_no_problems():
    assert problems(sound()) == []


def test_problems_are_found():
    task = sound()
    task.test.extend(rows(("train prompt 0", "A"), ("one", "A")))
    task.train.extend(rows(("train prompt 0", "B")))
    assert problems(Task("t", task.train, task.train[:2], task.test, ("A", "B", "C"))) == [
        "1 of 4 test prompts are also in train: the score will flatter",
        "2 of 2 validation prompts are also in train: the score will flatter",
        "1 of 21 training prompts occur more than once",
        "1 training prompts have more than one answer",
        "1 of 4 test prompts occur more than once",
        "label 'C' has 0 training rows: too few to be learned",
        "label 'C' has no test rows",
    ]
