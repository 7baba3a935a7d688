"""Llama-style decoder that several programs train: its sizes, options and module."""
