#!/usr/bin/python3
"""Install packages with apt-get, optionally at a given version and held, in one module run.

If the packages are already installed, it only queries dpkg. Ansible's own apt module opens apt's cache and
reads all pins once per package, which takes longer than most installations.
"""

from __future__ import annotations

import fnmatch
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.patience import run_when_unlocked

DOCUMENTATION = """
module: apt_packages
short_description: Install packages, optionally at a given version and held
description:
  - Updates the package lists only if a package must be installed and the lists are older than a day.
  - Prevents package scripts from starting services.
options:
  names:
    description: Names of the packages.
    type: list
    elements: str
    required: true
  version:
    description:
      - Version of all packages, as a glob pattern; the newest matching version is installed.
      - Installed packages are upgraded or downgraded to it.
    type: str
  files:
    description: Package files of C(names) to install instead of packages from repositories.
    type: list
    elements: path
    default: []
  hold:
    description: True to hold the packages at their version.
    type: bool
    default: false
  wait_s:
    description: Seconds to wait for locks that another program holds.
    type: int
    default: 120
author: The image factory
"""

EXAMPLES = """
- name: Install libfabric
  apt_packages:
    names: [libfabric1]
    version: "{{ libfabric_version }}"
    hold: true
"""

RETURN = """
changed:
  description: True if a package was installed, upgraded, downgraded or held.
  returned: always
  type: bool
"""

LISTS = Path("/var/lib/apt/lists")
FRESH_S = 86400
# Folder with entries that dpkg has not merged into its database; not empty after dpkg was killed.
INTERRUPTED = Path("/var/lib/dpkg/updates")
POLICY = Path("/usr/sbin/policy-rc.d")
DENY_POLICY = "#!/bin/sh\n# Keeps package scripts from starting services during the build.\nexit 101\n"
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBIAN_PRIORITY": "critical",
    "LC_ALL": "C",
    # NEEDRESTART_SUSPEND keeps Ubuntu's needrestart from restarting services after library upgrades.
    "NEEDRESTART_SUSPEND": "1",
}
STATUS = "${db:Status-Want} ${db:Status-Status} ${Package} ${Version}\\n"
NO_CHANGES = re.compile(r"^0 upgraded, 0 newly installed, 0 to remove", re.MULTILINE)
PROBLEM = re.compile(r"^E: (.*)$", re.MULTILINE)
OUTPUT_CHARACTERS = 4000


class AptError(Exception):
    """Failure of apt-get or apt-mark; `output` is the end of the program's output."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output[-OUTPUT_CHARACTERS:]


@dataclass(frozen=True)
class Package:
    """State of an installed package."""

    version: str
    held: bool


@contextmanager
def deny_service_starts() -> Iterator[None]:
    """Keep package scripts from starting services in the with block; remove policy-rc.d of a killed run."""
    before = POLICY.read_bytes() if POLICY.exists() else None
    mode = POLICY.stat().st_mode & 0o7777 if POLICY.exists() else 0
    POLICY.write_text(DENY_POLICY, encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None or before == DENY_POLICY.encode():
            POLICY.unlink()
        else:
            POLICY.write_bytes(before)
            POLICY.chmod(mode)


def are_fresh(lists: Path, now: float) -> bool:
    """Return True if there are recent package lists; every update sets the mtime of the folder.

    Lists from the future are not recent: the clock was wrong, and they would stay fresh until that time.
    """
    return any(lists.glob("*Packages*")) and 0 <= now - lists.stat().st_mtime < FRESH_S


@dataclass(frozen=True)
class Apt:
    """Wrapper of apt-get and dpkg for the packages of one task."""

    module: AnsibleModule
    names: list[str]
    version: str | None
    files: list[str]
    wait_s: int

    def query(self, *command: str) -> str:
        return str(self.module.run_command(list(command), environ_update=ENVIRONMENT)[1])

    def apt_get(self, action: str, *words: str) -> str:
        """Run an apt-get action and return its output."""
        options = [f"--option=DPkg::Lock::Timeout={self.wait_s}", "--option=APT::Update::Error-Mode=any"]
        command = ["apt-get", "--yes", *options, action, *words]
        code, output, errors = run_when_unlocked(self.module, command, self.wait_s, ENVIRONMENT)
        if code != 0:
            problems = "; ".join(PROBLEM.findall(errors)) or errors.strip() or output.strip()
            raise AptError(f"apt-get {action}: {problems}", f"{output}\n{errors}")
        return output

    def installed(self) -> dict[str, Package]:
        """Return the named packages that are completely installed, by name."""
        lines = self.query("dpkg-query", "--show", "--showformat", STATUS, *self.names).splitlines()
        rows = (line.split(" ", 3) for line in lines)
        return {
            name: Package(version=version, held=want == "hold")
            for want, status, name, version in rows
            if status == "installed"
        }

    def missing(self) -> list[str]:
        """Return the names of the packages that are not installed or have another version."""
        found = self.installed()
        return [
            name
            for name in self.names
            if name not in found or not fnmatch.fnmatchcase(found[name].version, self.version or "*")
        ]

    def choose(self, name: str) -> str:
        """Return name=version of the newest matching version; apt-cache lists the newest first."""
        if self.version is None:
            return name
        rows = [line.split("|") for line in self.query("apt-cache", "madison", name).splitlines()]
        offered = list(dict.fromkeys(row[1].strip() for row in rows if len(row) > 1))
        fitting = fnmatch.filter(offered, self.version)
        if not fitting:
            available = ", ".join(offered) or "none"
            raise AptError(f"no package {name}={self.version} is available; versions: {available}")
        return f"{name}={fitting[0]}"

    def install(self, missing: list[str]) -> bool:
        """Install the missing packages; return True if apt-get changed anything."""
        if not are_fresh(LISTS, time.time()):
            self.apt_get("update")
            os.utime(LISTS)
        words = ["--no-install-recommends"]
        words += [f"--option=Dpkg::Options::=--force-{answer}" for answer in ("confdef", "confold")]
        if self.version is not None or self.files:
            words += ["--allow-downgrades", "--allow-change-held-packages"]
        wanted = self.files or [self.choose(name) for name in missing]
        with deny_service_starts():
            if any(INTERRUPTED.glob("[0-9]*")):
                # If dpkg was killed, apt-get refuses to run until all unpacked packages are configured.
                self.module.run_command(["dpkg", "--configure", "--pending"], environ_update=ENVIRONMENT)
            output = self.apt_get("install", *words, *wanted)
        return not NO_CHANGES.search(output)

    def hold(self) -> bool:
        """Hold the packages; return True if at least one package was not held before."""
        found = self.installed()
        unheld = [name for name in self.names if name not in found or not found[name].held]
        if unheld:
            code, output, errors = self.module.run_command(["apt-mark", "hold", *unheld])
            if code != 0:
                raise AptError(f"apt-mark hold: {errors.strip()}", output)
        return bool(unheld)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "version": {"type": "str"},
            "files": {"type": "list", "elements": "path", "default": []},
            "hold": {"type": "bool", "default": False},
            "wait_s": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    given = {name: module.params[name] for name in ("names", "version", "files", "wait_s")}
    apt = Apt(module, **given)
    missing = apt.missing()
    # Only apt-get reads the versions in package files, so it always runs if files are given.
    wanted = bool(missing or apt.files)
    if module.check_mode:
        module.exit_json(changed=bool(missing))
    try:
        changed = apt.install(missing) if wanted else False
        if module.params["hold"]:
            changed |= apt.hold()
    except AptError as error:
        module.fail_json(msg=str(error), stdout=error.output)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
