"""Generate small wheels for tests."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path


def make_wheel(folder: Path) -> str:
    """Write the wheel of a tiny package; return its sha256."""
    return add_wheel(folder, "greet", "1.0")


def add_wheel(
    folder: Path, name: str, version: str, requires: Sequence[str] = (), *, python: str = ""
) -> str:
    """Add the wheel of a package with requirements to a folder; return its sha256.

    `python` has the versions of Python that the package is for, for example "<3.11".
    """
    folder.mkdir(exist_ok=True)
    wheel, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    needs += f"Requires-Python: {python}\n" if python else ""
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", "WORD = 'hello'\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()
