"""Shared code of the training programs: options, data, ranks, checkpoints and the training loop.

Only modules whose names begin with `torch_` import PyTorch.
"""
