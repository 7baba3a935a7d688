#!/usr/bin/env python3
"""Refuses a Python that is too old, or one that cannot make virtual environments, before anything else."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    found = sys.version.split()[0]
    sys.exit(f"error: Python 3.11 or later is needed, this is {found}\nhint: make PYTHON=python3.11")
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("error: this Python cannot make virtual environments\nhint: apt-get install python3-venv")
