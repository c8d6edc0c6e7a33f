"""What a shell is offered after a Tab, asked as bash and zsh ask."""

import os
import subprocess
import sys

import pytest

from gorp.cli.completion import methods, run_folders, streams

PROGRAM = "import sys; from gorp.cli.main import main\ntry: main([])\nfinally: print(*sys.modules, file=sys.stderr)"


def complete(line, shell="bash"):
    asked = {"_GORP_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        asked |= {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    else:
        asked |= {"_TYPER_COMPLETE_ARGS": line}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert not {"torch", "transformers", "pandas"} & set(done.stderr.split())
    assert "Traceback" not in done.stderr
    return done.stdout


def test_commands_their_options_and_names_are_offered():
    assert {"run", "report"} <= set(complete("gorp r").split())
    assert "--method" in complete("gorp run x.yaml --me").split()
    assert {"seq-lora", "seq-full"} == set(complete("gorp run x.yaml --method seq").split())
    assert "standard-cl/1" in complete("gorp data stand", "zsh")


def test_names_that_are_offered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "desk").mkdir(parents=True)
    (tmp_path / "runs" / "desk" / "state.json").write_text("{}")
    (tmp_path / "runs" / "other").mkdir()
    (tmp_path / "built.yaml").write_text("")
    assert run_folders("") == ["runs/"] and run_folders("runs/") == ["runs/desk"]
    assert run_folders("none/") == []
    assert streams("buil") == ["builtin", "built.yaml"]
    assert methods("n-") == ["n-lora"]


@pytest.mark.parametrize("line", ["gorp run 'open", "gorp"])
def test_a_line_that_is_not_finished_is_no_error(line):
    complete(line)
