"""docs/methods.md names every method and tells the truth about it."""

import re
from pathlib import Path

from gorp.methods import METHODS, load_method

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "methods.md").read_text()


def test_every_method_is_in_the_table_with_what_it_is_given():
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| `")]
    told = {
        name: (old_rows, task.strip(" |"))
        for names, _, _, old_rows, task in rows
        for name in re.findall(r"`([a-z0-9-]+)`", names)
    }
    assert set(told) == set(METHODS)
    for name, given in told.items():
        method = load_method(name)
        assert given == tuple("yes" if flag else "no" for flag in (method.keeps_old_rows, method.told_task)), name
