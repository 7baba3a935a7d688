"""The image factory: machine images and containers for distributed training that fit together."""

__version__ = "0.1.0"
