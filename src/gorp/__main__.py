"""``python -m gorp``: the ``gorp`` command, for launchers that start modules."""

from gorp.cli.main import main

if __name__ == "__main__":
    main()
