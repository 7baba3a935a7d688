"""Run pip with the environment markers of another Python version and machine.

pip downloads wheels for the version and platform in its options, but evaluates markers such as
`python_version < "3.12"` (pip issue 11664) and Requires-Python of packages for the Python that runs it.
Run as a program: PYTHON MACHINE, then the arguments of pip.
"""

import sys
from collections.abc import Mapping

from pip._internal.cli.main import main as run_pip
from pip._internal.resolution.resolvelib import candidates, factory
from pip._vendor.packaging import markers


def main(python: str, machine: str, *arguments: str) -> int:
    own = markers.default_environment
    foreign: Mapping[str, str] = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
        "platform_machine": machine,
    }
    markers.default_environment = lambda: {**own(), **foreign}
    # pip compares Requires-Python with this candidate; `pip install` has no option for its version.
    version = tuple(map(int, python.split(".")))
    candidate = candidates.RequiresPythonCandidate(version)
    factory.RequiresPythonCandidate = lambda _: candidate  # type: ignore[attr-defined,assignment]
    return run_pip(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
