"""The `gorp` command in a forked process, after the imports: a run costs what it does, not six seconds of imports.

What disturbs a run is put into the child alone, by patching named functions there; gorp itself has no hooks for faults.
The parent must never compute a gradient: autograd's threads do not survive a fork.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

Inject = Callable[[], None]
CRASHED, LIMIT_SECONDS = 70, 180


@dataclass
class Outcome:
    """How a command ended: its exit code, or minus the signal that ended it, and what it printed."""

    code: int
    said: str

    @property
    def lines(self) -> list[str]:
        """What it printed, line by line."""
        return self.said.strip().splitlines()


@dataclass
class Child:
    """A command that runs in a process of its own; ``output`` is the reading end of what it prints."""

    pid: int
    output: int
    _said: bytes = field(default=b"", repr=False)

    def kill_at(self, moment: float) -> Outcome:
        """Send SIGKILL at this reading of the monotonic clock, unless the command has ended before."""
        if not self._read_until(moment):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> Outcome:
        """Wait for its end."""
        if not self._read_until(time.monotonic() + LIMIT_SECONDS):
            os.kill(self.pid, signal.SIGKILL)
            self._said += f"\nended after {LIMIT_SECONDS} s".encode()
        _, status = os.waitpid(self.pid, 0)
        os.close(self.output)
        return Outcome(os.waitstatus_to_exitcode(status), self._said.decode(errors="replace"))

    def _read_until(self, moment: float) -> bool:
        """Take down what is printed; whether the command closed its output before that moment."""
        while (left := moment - time.monotonic()) > 0:
            if select.select([self.output], [], [], left)[0]:
                block = os.read(self.output, 1 << 16)
                if not block:
                    return True
                self._said += block
        return False


def start(arguments: list[str], inject: Inject | None = None) -> Child:
    """Start ``gorp`` with arguments in a child; ``inject`` is called there first."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    for descriptor in (1, 2):
        os.dup2(writing, descriptor)
    os.close(writing)
    os.close(reading)
    os._exit(_call(arguments, inject))


def gorp(arguments: list[str], inject: Inject | None = None) -> Outcome:
    """Run ``gorp`` with arguments in a child to its end."""
    return start(arguments, inject).wait()


def _call(arguments: list[str], inject: Inject | None) -> int:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    try:
        if inject:
            inject()
        import_module("gorp.cli.main").main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
        return CRASHED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def warm_up(arguments: list[str]) -> None:
    """Import here whatever a child that runs ``gorp`` with these arguments imports."""

    def tell_modules() -> None:
        import gorp.cli.main as cli

        leave = cli.main

        def main(given: list[str]) -> None:
            try:
                leave(given)
            finally:
                print("\nmodules:", *sys.modules)

        cli.main = main  # type: ignore[assignment]

    for name in gorp(arguments, tell_modules).lines[-1].split()[1:]:
        if name not in sys.modules and not name.startswith(("__", "torch.classes", "torch.ops")):
            try:
                import_module(name)
            except Exception:  # a module that another made up
                continue
    import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("t5")  # slow, and then kept
    gc.collect()
    gc.freeze()
