"""Roles on a machine in a container: the same play, variables and checks as in a build, without the layers.

`python -m tests.roles COMPONENT...` for people, `Bench` for tests and molecule.
"""
