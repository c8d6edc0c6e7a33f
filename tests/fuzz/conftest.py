"""Says what ``make fuzz`` tried, and bounds the memory that it may take."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from fuzzing import NIGHTLY, Tally

from gorp.methods import METHODS, load_method

#: Bytes of address space beyond what the tests need anyhow.
MOST_BYTES = 4 * 2**30


@pytest.fixture(scope="session", autouse=True)
def everything_imported() -> None:
    """Importing opens, unpickles and starts what it likes; only what is read afterwards is watched."""
    for name in METHODS:
        load_method(name)


@pytest.fixture(scope="session", autouse=True)
def bounded_memory() -> None:
    """What asks for more memory fails with a `MemoryError`, which no test lets pass."""
    if NIGHTLY:
        with contextlib.suppress(ImportError, FileNotFoundError):  # no such limits on this platform
            import resource

            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, resource.RLIM_INFINITY))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if NIGHTLY:
        told = f"{Tally.read} read, {Tally.refused} refused in a message, {Tally.failed} failed"
        terminalreporter.write_line(f"{Tally.read + Tally.refused + Tally.failed} fuzzed inputs: {told}")
