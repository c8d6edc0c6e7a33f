"""Every snippet of README and docs: Python runs, YAML is validated, commands are parsed, and the cheap ones run.

A page's Python shares one namespace and one folder. What a reader need not see stands in HTML comments:

    <!-- before: CODE -->          runs before what follows
    <!-- run -->                   the commands of the next block are run, not only parsed
    <!-- not run: REASON -->       the next block is compiled or parsed only, for a reason that is told
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

import gorp
from gorp.cli.main import COMMANDS, build_app, main
from gorp.compare.experiment import Experiment
from gorp.methods import load_method
from gorp.run_config import RunConfig
from gorp.tasks.stream_file import StreamFile

ROOT = Path(__file__).parents[1]
PAGES = {page.stem: page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}

#: How many blocks of all pages are marked as not run: a new one is to be a decision.
NOT_RUN = 4

SHELL = ("", "bash", "console", "sh")
DATA = ("json", "text", "toml")
PROGRAMS = ("accelerate", "cd", "git", "python", "ray", "torchrun")

_PIECES = re.compile(r"<!--(?P<comment>.*?)-->|^```(?P<language>\w*)\n(?P<body>.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Snippet:
    """A block of a page with the line it begins at; ``marks`` are the comments right before it."""

    page: str
    line: int
    language: str
    body: str
    marks: dict[str, str]

    @property
    def is_run(self) -> bool:
        return "not run" not in self.marks


def snippets(page: str) -> Iterator[Snippet]:
    text = PAGES[page].read_text(encoding="utf-8")
    marks: dict[str, str] = {}
    for piece in _PIECES.finditer(text):
        line = text[: piece.start()].count("\n") + 1
        if piece["comment"] is None:
            yield Snippet(page, line, piece["language"], piece["body"], marks)
            marks = {}
            continue
        mark, _, value = piece["comment"].partition(":")
        if mark.strip() == "before":
            yield Snippet(page, line, "python", value, {})
        else:
            marks = {**marks, mark.strip(): value.strip()}


def commands(snippet: Snippet) -> Iterator[list[str]]:
    """The words of each command of a shell block; of a console's those after ``$``."""
    for line in snippet.body.replace("\\\n", " ").splitlines():
        if snippet.language == "console" and not line.startswith("$ "):
            continue
        for command in line.removeprefix("$ ").split(" && "):
            if words := shlex.split(command, comments=True):
                yield words


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_checked(page):
    assert {snippet.language for snippet in snippets(page)} <= {*SHELL, *DATA, "python", "yaml"}


@pytest.mark.parametrize("page", [page for page in PAGES if any(s.language == "python" for s in snippets(page))])
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for snippet in snippets(page):
        if snippet.language == "python":
            code = compile("\n" * snippet.line + snippet.body, str(PAGES[page]), "exec")
            if snippet.is_run:
                exec(code, namespace)
        elif snippet.language in SHELL and snippet.is_run and "run" in snippet.marks:
            for words in commands(snippet):
                with pytest.raises(SystemExit) as exit_:
                    main(words[1:])
                assert words[0] == "gorp" and not exit_.value.code, words
    capsys.readouterr()


@pytest.mark.parametrize("page", [page for page in PAGES if any(s.language == "yaml" for s in snippets(page))])
def test_yaml_is_valid(page, tmp_path):
    for snippet in snippets(page):
        if snippet.language != "yaml":
            continue
        file = tmp_path / "snippet.yaml"
        file.write_text(snippet.body, encoding="utf-8")
        keys = yaml.safe_load(snippet.body)
        if "cells" in keys:
            experiment = Experiment.read(file)
            for config in map(experiment.config, experiment.plan()):
                load_method(config.method).read_options(config.options)
        elif keys.keys() & {"tasks", "benchmark", "unseen"}:
            assert StreamFile.read(file)
        else:
            assert RunConfig.from_yaml(file)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_what_the_command_line_takes(page):
    for snippet in snippets(page):
        if snippet.language in SHELL:
            for words in commands(snippet):
                check_command(words)


def check_command(words: list[str]) -> None:
    if words[0] == "gorp":
        check_gorp(words[1:])
    elif words[:2] == ["pip", "install"]:
        for extra in re.findall(r"\[(.*?)\]", " ".join(words[2:])):
            assert set(extra.split(",")) <= extras(), words
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets), words
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), words
    else:
        assert words[0] in PROGRAMS, words
        if "gorp" in words and words[words.index("gorp") - 1] == "-m":
            check_gorp(words[words.index("gorp") + 1 :])


def check_gorp(arguments: list[str]) -> None:
    """Parse a command line as gorp does, without running it; what it would refuse is raised."""
    name = next((word for word in arguments if not word.startswith("-")), None)
    assert name is None or name in COMMANDS, arguments
    app = typer.main.get_command(build_app(name))
    if name is None or "--help" in arguments:
        options = {option for parameter in app.params for option in parameter.opts}
        assert {word for word in arguments if word.startswith("-")} <= {*options, "--help"}, arguments
        return
    with app.make_context("gorp", arguments, resilient_parsing=True) as context:
        command = app.get_command(context, name)
        command.make_context(name, arguments[arguments.index(name) + 1 :], parent=context)


def extras() -> set[str]:
    (section,) = re.findall(
        r"\[project.optional-dependencies\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.S
    )
    return set(re.findall(r"^(\w+) =", section, re.MULTILINE))


def test_what_is_not_run_has_a_reason_and_is_counted():
    reasons = [snippet.marks["not run"] for page in PAGES for snippet in snippets(page) if "not run" in snippet.marks]
    assert all(reasons) and len(reasons) == NOT_RUN


def test_every_public_name_used_exists():
    text = "".join(snippet.body for page in PAGES for snippet in snippets(page) if snippet.language == "python")
    names = set(re.findall(r"gorp\.([A-Za-z_]+)\(", text))
    assert names and all(hasattr(gorp, name) for name in names)


@pytest.mark.parametrize(
    "line",
    [
        "gorp rnu x.yaml",
        "gorp run x.yaml --sett a=1",
        "gorp run",
        "gorp data --show many",
        "gorp --versoin",
        "pip install gorp-cl[qantized]",
        "make tset",
        "python scripts/none.py",
        "rm -rf runs",
    ],
)
def test_a_command_that_would_not_work_is_found(line):
    with pytest.raises(BaseException):  # noqa: B017, PT011  # an assertion, or whatever the parser raises
        check_command(shlex.split(line))
