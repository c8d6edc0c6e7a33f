"""A lock is of the file that stands there, whoever removed what before."""

import pytest

from gorp import files
from gorp.errors import BusyError
from gorp.files import locked


@pytest.mark.parametrize("anew", [True, False])
def test_a_file_that_its_holder_removed_in_the_meantime_locks_nobody_out(tmp_path, monkeypatch, anew):
    path, take = tmp_path / "lock", files._try_lock

    def once_it_is_gone(descriptor, wait):
        monkeypatch.setattr(files, "_try_lock", take)
        path.unlink()
        if anew:
            path.touch()
        return take(descriptor, wait)

    monkeypatch.setattr(files, "_try_lock", once_it_is_gone)
    with locked(path, "works here"), pytest.raises(BusyError, match="works here"), locked(path, "works here"):
        pass
    with locked(path, "works here"):
        pass
