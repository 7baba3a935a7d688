"""What the training programs of these images share: options, data, ranks, checkpoints and the loop."""
