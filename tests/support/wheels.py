"""Generate a small wheel for tests."""

import hashlib
import zipfile
from pathlib import Path


def make_wheel(folder: Path) -> str:
    """Write the wheel of a tiny package; return its sha256."""
    folder.mkdir()
    wheel = folder / "greet-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greet.py", "WORD = 'hello'\n")
        archive.writestr("greet-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n")
        archive.writestr(
            "greet-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("greet-1.0.dist-info/RECORD", "greet.py,,\n")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()
