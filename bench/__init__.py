"""Compares the factory with Packer and with a Dockerfile, in one run and on one machine: python -m bench."""
