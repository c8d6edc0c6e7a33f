"""Messages that docs/troubleshooting.md explains are ones that gorp prints."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")

#: Said by the parser of the command line, by pydantic and by the system.
OTHERS = ("No such command", "No such option", "Input should be", "No space left on device")

TERMS = [
    line for line, below in zip(PAGE.splitlines(), PAGE.splitlines()[1:], strict=False) if below.startswith(":   ")
]
MESSAGES = [message for term in TERMS for message in re.findall(r"`([^`]+)`", term) if not message.startswith("gorp ")]


def sources() -> str:
    """All of gorp's sources, texts that go on in the next line joined, in one line of single spaces."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "src").rglob("*.py")))
    return re.sub(r"\s+", " ", re.sub(r"\"\s*\n\s*f?\"", "", text))


@pytest.fixture(scope="module")
def source():
    return sources()


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_one_of_gorps(message, source):
    """What stands for something else (a name in quotes, a number, ...) parts a message into the pieces to look for."""
    pieces = re.split(r"'[^']*'|\b[NM]\b|\.\.\.|\d[\d.]*|0x\w+|[(:][^)]*[)?]|\btraining\.lr\b", message)
    longest = max((piece.strip(" :;,?=") for piece in pieces), key=len)
    assert len(longest) > 5 or message.startswith(OTHERS), message
    assert longest in source or message.startswith(OTHERS) or longest in OTHERS, longest
