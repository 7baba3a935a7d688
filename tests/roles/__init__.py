"""Roles on a machine in a container: the same play, variables and checks as in a build, without layers."""
