"""The ``gorp`` command: lists the commands, loads the one that was asked for, and turns errors into exit codes.

Exit codes: 0 done, or saved and stopped by SIGTERM; 1 failed, 2 bad input, 3 forgetting budget exceeded, 130 Ctrl-C.
"""

import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from gorp import __version__
from gorp.cli.completion import being_completed
from gorp.cli.shared import is_first_process
from gorp.errors import GorpError
from gorp.preemption import Stopped, stopped_by

#: Each command's line in ``gorp --help``. Its module ``gorp.cli.<name>`` has the function ``command``, and is
#: imported only when that command runs: naming the commands must not cost importing torch.
COMMANDS: dict[str, str] = {
    "demo": "Teach the built-in model five tasks with three methods; compare.",
    "init": "Write the files of a first run from a folder of data.",
    "run": "Learn a whole stream of tasks, or go on with an interrupted run.",
    "learn": "Teach a finished run one more task.",
    "plan": "Tell what a run will cost: memory, growth, operations, time.",
    "evaluate": "Score a run on its tasks, or on other rows.",
    "generate": "Ask a run's model something.",
    "export": "Write a run's model as others load it: transformers, peft, the hub.",
    "compare": "Run methods x streams x seeds; tables with intervals, and a page.",
    "report": "Write report.html from one or more runs.",
    "history": "Print what happened to a run: tasks learnt, rolled back, retracted.",
    "diff": "Print what changed in a run between two of its tasks.",
    "rollback": "Put back a run as it was when a task had just been learnt.",
    "retract": "Give back the room that a task no longer wanted takes up.",
    "protect": "Before the first task: protect what the base model knows.",
    "inspect": "Print what a run protects, layer by layer.",
    "list": "List the methods, with what each keeps and costs.",
    "data": "List streams and benchmarks; check data before training on it.",
}


def build_app(invoked: str | None) -> typer.Typer:
    """Return the application with the command ``invoked`` loaded and the others known by name and summary only."""
    app = typer.Typer(
        name="gorp",
        help="Fine-tune one language model on task after task, and know what it keeps.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog="Start with:  gorp demo --out runs/demo, or with your own data:  gorp init DATA")(_root_options)
    for name, summary in COMMANDS.items():
        function: Callable[..., object] = import_module(f"gorp.cli.{name}").command if name == invoked else _unloaded
        app.command(name, short_help=summary)(function)
    return app


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``gorp`` with ``arguments`` (default: the process's own) and exit; a known error is one message on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it wherever it is installed
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # of a descriptor that became a pipe since
                stream.reconfigure(errors="replace")  # what cannot show a sign shows a question mark
    invoked = next((argument for argument in being_completed() or given if not argument.startswith("-")), None)
    try:
        with stopped_by(signal.SIGINT):
            build_app(invoked)(args=given, prog_name="gorp")
    except Stopped as stop:
        _fail(str(stop), stop.exit_code)
    except GorpError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:  # a full disk, a folder that may not be written: nothing a traceback would explain
        _fail(str(error), GorpError.exit_code)
    sys.exit(0)


def _fail(message: str, exit_code: int) -> NoReturn:
    speaker = "gorp" if is_first_process() else f"gorp, rank {os.environ['RANK']}"
    typer.echo(f"{speaker}: {message}", err=True)
    sys.exit(exit_code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gorp {__version__}")
        raise typer.Exit


def _root_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of ``gorp`` itself, before the command's name."""


def _unloaded() -> None:
    """Stand in for a command that was not asked for; it is listed, never run."""
