"""Apt sources of a bootstrapped base image, made from the example file in the distribution's apt package."""

import subprocess
from pathlib import Path

import pytest

from builder.adapters.container.bootstrap import _CUSTOMIZE

AREAS = "main contrib non-free"
ONE_LINE = """\
# See sources.list(5) for more information
deb http://deb.debian.org/debian bookworm main non-free-firmware
#deb-src http://deb.debian.org/debian bookworm main
deb http://deb.debian.org/debian-security bookworm-security main
"""
DEB822 = """\
## Debian distribution repository
Types: deb
URIs: http://deb.debian.org/debian
Suites: trixie trixie-updates
Components: main non-free-firmware
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: trixie-security
Components: main non-free-firmware
"""


@pytest.mark.parametrize(
    ("name", "text", "suites"),
    [
        ("sources.list", ONE_LINE, ["bookworm", "bookworm-security"]),
        ("debian.sources", DEB822, ["trixie", "trixie-updates", "trixie-security"]),
    ],
)
def test_apt_sources_of_a_bootstrapped_image_have_all_archive_areas(
    tmp_path: Path, name: str, text: str, suites: list[str]
) -> None:
    for folder in ("usr/share/doc/apt/examples", "etc/apt/apt.conf.d"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "usr/share/doc/apt/examples" / name).write_text(text, encoding="utf-8")
    subprocess.run(["sh", "-c", _CUSTOMIZE.format(areas=AREAS), "sh", str(tmp_path)], check=True)
    lines = (tmp_path / "etc/apt/sources.list").read_text(encoding="utf-8").splitlines()
    assert [line.split()[2] for line in lines] == suites
    assert all(line.startswith("deb http://deb.debian.org/debian") for line in lines)
    assert all(line.endswith(f" {AREAS}") for line in lines)
