"""Benchmark that compares the factory with Packer and a Dockerfile on the same machine: python -m bench."""
