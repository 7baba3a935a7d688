"""Build machine images and containers for distributed training from one catalog of tested versions."""

__version__ = "0.1.0"
