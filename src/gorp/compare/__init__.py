"""Comparing methods: an experiment is methods x streams x seeds, every cell a resumable process of its own."""
