"""Reach outside this process: one package for each thing that it talks to."""
