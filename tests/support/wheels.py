"""Generate small wheels for tests."""

import hashlib
import io
import tarfile
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

    `python` is the Requires-Python value of the package, for example "<3.11".
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


_INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "greet.py,,\n",
}
# Build backend of the source distribution: writes a wheel, and the file BUILD_RECORD as proof that it ran.
_BACKEND = f"""
import os, zipfile
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    Path(os.environ["BUILD_RECORD"]).write_text("ran")
    name = "greet-1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder, name), "w") as archive:
        archive.writestr("greet.py", "WORD = 'built'")
        for file, text in {_INFO!r}.items():
            archive.writestr("greet-1.0.dist-info/" + file, text)
    return name
"""
_PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def make_sdist(folder: Path) -> str:
    """Write the source distribution of a tiny package, which needs no build tools; return its sha256.

    A build of the source distribution writes the file that the environment variable BUILD_RECORD names.
    """
    folder.mkdir(exist_ok=True)
    path = folder / "greet-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {
            "PKG-INFO": _INFO["METADATA"],
            "pyproject.toml": _PROJECT,
            "backend.py": _BACKEND,
        }.items():
            member = tarfile.TarInfo(f"greet-1.0/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()
