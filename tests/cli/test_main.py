"""The command line itself: quick help, one message and an exit code for what goes wrong."""

import ast
import importlib
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from gorp import __version__
from gorp.cli.main import COMMANDS, main
from gorp.errors import GorpError, InputError, nearest


def run(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    return exit_.value.code or 0


def gorp(*arguments):
    program = "from gorp.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)


def test_help_lists_every_command(capsys):
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert f"  {name}" in printed and summary[:50] in printed


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"gorp {__version__}\n"


def test_help_imports_nothing_heavy_and_is_quick():
    program = (
        "import sys; from gorp.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "pydantic", "pandas", "matplotlib", "datasets", "yaml"}
    assert min(seconds) < 2, "0.5 s on an idle machine; this leaves room for a busy one"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name, capsys):
    assert run(name, "--help") == 0
    printed = capsys.readouterr().out
    assert f"Usage: gorp {name}" in printed
    assert f"gorp {name} " in printed.split("\n", 1)[1], "no example"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_import_torch_only_when_they_run(name):
    tree = ast.parse(Path(importlib.import_module(f"gorp.cli.{name}").__file__).read_text())
    imported = {
        alias
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert not {str(name).split(".")[0] for name in imported} & {"torch", "transformers", "matplotlib", "datasets"}


def test_an_unknown_command_suggests_one():
    done = gorp("dta")
    assert done.returncode == 2 and "data" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_option_suggests_one(capsys):
    assert run("run", "x.yaml", "--sett", "seed=1") == 2
    printed = capsys.readouterr().err
    assert "--sett" in printed and "--set" in printed.replace("--sett", "")


def test_a_command_that_was_not_asked_for_is_not_loaded(monkeypatch):
    monkeypatch.setitem(sys.modules, "gorp.cli.run", None)  # importing it would fail
    assert run("--help") == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GorpError("it broke"), 1),
        (InputError("f.jsonl:3: it is wrong"), 2),
        (OSError(28, "No space left on device"), 1),
    ],
)
def test_known_errors_are_one_message_and_an_exit_code(monkeypatch, capsys, error, code):
    def command() -> None:
        raise error

    monkeypatch.setitem(sys.modules, "gorp.cli.data", types.SimpleNamespace(command=command))
    assert run("data") == code
    printed = capsys.readouterr()
    assert printed.err == f"gorp: {error}\n" and printed.out == ""


def test_other_errors_keep_their_traceback(monkeypatch):
    def command() -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(sys.modules, "gorp.cli.data", types.SimpleNamespace(command=command))
    with pytest.raises(ZeroDivisionError):
        main(["data"])


def test_nearest():
    assert nearest("lables", ["text", "labels"]) == " (did you mean 'labels'?)"
    assert nearest("WORLD", ["World"]) == " (did you mean 'World'?)"
    assert nearest("zzz", ["text"]) == ""
    assert nearest("x", []) == ""
