"""``gorp generate``: ask a run's model something."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.shared import parse_list, progress_only
from gorp.errors import InputError


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What to ask.", show_default="standard input")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer.", show_default="those of answers in training")
    ] = None,
    options: Annotated[
        str | None,
        typer.Option(help="Answers to choose from, between commas.", show_default="of an encoder TASK's labels"),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="The task asked; a PROMPT is then a text, put as that task's are.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the base model is now.", show_default="as in the run")
    ] = None,
) -> None:
    """Print the answer to each prompt of the model as it is after the last task learnt.

    \b
    Examples:
      gorp generate runs/desk "Where is my parcel?" --task topic
      gorp generate runs/desk < prompt.txt
    """
    from gorp.ask import ask

    given = prompts or [_read_prompt()]
    if odd := next((prompt for prompt in given if not _is_text(prompt)), None):
        raise InputError(f"prompt {odd!r:.60} is not UTF-8")
    if not all(prompt.strip() for prompt in given):
        raise InputError("no prompt: give one, or send it to standard input")
    chosen = parse_list(options)
    with progress_only(quiet=True):
        answers = ask(run, given, chosen, task, max_new_tokens, model)
    print(*answers, sep="\n")


def _read_prompt() -> str:
    try:
        return sys.stdin.read().rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: byte {error.start} is not UTF-8") from None


def _is_text(prompt: str) -> bool:
    """Whether it holds no byte that could not be decoded, which Python passes on as half of a character."""
    return not any("\ud800" <= letter <= "\udfff" for letter in prompt)
