from dataclasses import replace

from gorp.tasks import Example, Task

ROW = Example("a cat Answer:", "yes", (0, 5))


def test_a_tasks_labels_are_the_options_of_its_rows():
    own = replace(ROW, options=("yes", "maybe"))
    task = Task("a", [ROW, own], [ROW], [ROW], ("no", "yes"))
    assert [row.options for row in task.train] == [("no", "yes"), ("yes", "maybe")]
    assert task.validation == task.test == [replace(ROW, options=("no", "yes"))]
    assert Task("free", [ROW], [], []).train == [ROW]


def test_options_of_its_own_tell_a_task_from_another():
    labels = ("no", "yes")
    task = Task("a", [ROW], [], [], labels)
    assert task.fingerprint() == Task("a", task.train, [], [], labels).fingerprint()
    other = Task("a", [replace(ROW, options=("yes", "no"))], [], [], labels)
    assert task.fingerprint() != other.fingerprint()


def test_runs_made_before_rows_had_options_know_their_tasks_again():
    assert Task("a", [ROW], [], []).fingerprint().startswith("af759279369091bf")
    assert Task("a", [ROW], [], [], ("no", "yes")).fingerprint().startswith("dd6904c7a01bce37")
