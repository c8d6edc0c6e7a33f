from __future__ import annotations

from pathlib import Path

import pytest

from gorp.errors import InputError
from gorp.space_file import SPACE_FILE, SPACE_IN_EXPORT, find_space


@pytest.mark.parametrize("name", [SPACE_FILE, SPACE_IN_EXPORT])
def test_a_space_is_found_in_a_run_and_in_an_export(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"a space")
    assert find_space(tmp_path) == find_space(file) == file


def test_where_there_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keeps no gradient space"):
        find_space(tmp_path)
    with pytest.raises(InputError, match="missing: no such file or folder"):
        find_space(tmp_path / "missing")
