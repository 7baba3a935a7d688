#!/usr/bin/env python3
"""Fail early if Python is too old or cannot create virtual environments."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    found = sys.version.split()[0]
    sys.exit(f"error: Python 3.11 or later is required, found {found}\nhint: make PYTHON=python3.11")
try:
    import ensurepip  # noqa: F401
    import venv  # noqa: F401
except ImportError:
    sys.exit("error: this Python cannot create virtual environments\nhint: apt-get install python3-venv")
