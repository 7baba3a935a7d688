"""Shared code of the training programs: options, data, ranks, checkpoints and the training loop."""
