"""Comparing methods: an experiment is methods x streams x seeds, every cell a resumable process of its own."""

#: The lock of a folder that cells are run in, and what its holder does there.
LOCK, COMPARES = ".lock", "compares there"
