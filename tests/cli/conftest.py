"""The command line, called within the process."""

import pytest

from gorp.cli.main import main


@pytest.fixture
def gorp(capsys):
    """Call ``gorp`` with arguments; returns exit code, stdout and stderr."""

    def call(*arguments):
        capsys.readouterr()  # what making a run has printed
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return (stop.value.code or 0, *capsys.readouterr())

    return call
