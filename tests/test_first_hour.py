"""A newcomer's transcript: docs/start.md, from an empty folder and a CSV to a reported model, as the page has it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "start.md").read_text(encoding="utf-8")
SOURCES = Path(__file__).parents[1] / "src"


def gorp(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "gorp", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def said(text):
    """Lines that say something, without scores: these may differ by a row between processors."""
    return [re.sub(r"\d+\.\d", "N", line.strip()) for line in text.splitlines() if line.strip(" ─")]


@pytest.mark.slow  # half a minute; CI runs it
def test_five_commands_from_a_csv_to_a_model(tmp_path):
    (make_data,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    subprocess.run([sys.executable, "-c", make_data], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tickets.csv"]
    blocks = re.findall(r"```console\n\$ gorp (.*?)\n(.*?)```", PAGE, re.DOTALL)
    assert [line.split()[0] for line, _ in blocks] == ["init", "data", "run", "report", "export"]
    for line, shown in blocks:
        done = gorp(tmp_path, *line.split())
        assert done.returncode == 0, done.stderr
        printed = said(done.stdout)
        missing = [wanted for wanted in said(shown) if wanted not in printed]
        assert not missing, (line, missing, printed)
    assert "<html" in (tmp_path / "runs" / "desk" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "desk-model" / "config.json").is_file()
