#!/usr/bin/python3
"""Installs packages with apt-get, of one version and held there if that is asked for, in one module run.

What is installed as it is asked for costs one look into dpkg's table. The module that comes with Ansible
opens apt's cache for it and reads all pins once for every package: longer than installing most of them takes.
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
from ansible.module_utils.patience import run_patiently

DOCUMENTATION = """
module: apt_packages
short_description: Install packages, of one version and held there
description:
  - Reads the lists of packages anew only if something is to be installed and they are older than a day.
  - Scripts of packages start nothing.
options:
  names:
    description: Names of the packages.
    type: list
    elements: str
    required: true
  version:
    description:
      - The version of all of them, as a pattern; of versions that fit, the newest is taken.
      - Packages move to it from any other, up or down.
    type: str
  files:
    description: Files that hold the packages C(names), for apt-get to take them from.
    type: list
    elements: path
    default: []
  hold:
    description: Whether nothing may ever move them.
    type: bool
    default: false
  wait_s:
    description: How long another program may hold a lock.
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
  description: Whether a package was installed, moved or held.
  returned: always
  type: bool
"""

LISTS = Path("/var/lib/apt/lists")
FRESH_S = 86400
# What dpkg has decided and not yet written into its table.
UNFINISHED = Path("/var/lib/dpkg/updates")
POLICY = Path("/usr/sbin/policy-rc.d")
NOTHING_STARTS = "#!/bin/sh\n# Here while packages of an image are installed.\nexit 101\n"
ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBIAN_PRIORITY": "critical",
    "LC_ALL": "C",
    # Ubuntu would restart what uses a library that changed.
    "NEEDRESTART_SUSPEND": "1",
}
STATUS = "${db:Status-Want} ${db:Status-Status} ${Package} ${Version}\\n"
NOTHING_DONE = re.compile(r"^0 upgraded, 0 newly installed, 0 to remove", re.MULTILINE)
PROBLEM = re.compile(r"^E: (.*)$", re.MULTILINE)
OUTPUT_CHARACTERS = 4000


class Refused(Exception):
    """apt-get did not do it; `output` is what a person needs to see of it."""

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output[-OUTPUT_CHARACTERS:]


@dataclass(frozen=True)
class Package:
    """What dpkg has of a package."""

    version: str
    held: bool


@contextmanager
def nothing_starts() -> Iterator[None]:
    """Has scripts of packages start nothing; what a killed run left of this is not put back."""
    before = POLICY.read_bytes() if POLICY.exists() else None
    mode = POLICY.stat().st_mode & 0o7777 if POLICY.exists() else 0
    POLICY.write_text(NOTHING_STARTS, encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None or before == NOTHING_STARTS.encode():
            POLICY.unlink()
        else:
            POLICY.write_bytes(before)
            POLICY.chmod(mode)


def are_fresh(lists: Path, now: float) -> bool:
    """Whether there are lists, and read lately; the folder is as old as the last reading."""
    return any(lists.glob("*Packages*")) and now - lists.stat().st_mtime < FRESH_S


@dataclass(frozen=True)
class Apt:
    """apt-get and dpkg, asked for the packages of one task."""

    module: AnsibleModule
    names: list[str]
    version: str | None
    files: list[str]
    wait_s: int

    def ask(self, *command: str) -> str:
        return str(self.module.run_command(list(command), environ_update=ENVIRONMENT)[1])

    def get(self, action: str, *words: str) -> str:
        """What apt-get says when it does something."""
        options = [f"--option=DPkg::Lock::Timeout={self.wait_s}", "--option=APT::Update::Error-Mode=any"]
        command = ["apt-get", "--yes", *options, action, *words]
        code, output, errors = run_patiently(self.module, command, self.wait_s, ENVIRONMENT)
        if code != 0:
            problems = "; ".join(PROBLEM.findall(errors)) or errors.strip() or output.strip()
            raise Refused(f"apt-get {action}: {problems}", f"{output}\n{errors}")
        return output

    def installed(self) -> dict[str, Package]:
        """Those of the packages that are installed, whole."""
        lines = self.ask("dpkg-query", "--show", "--showformat", STATUS, *self.names).splitlines()
        rows = (line.split(" ", 3) for line in lines)
        return {
            name: Package(version=version, held=want == "hold")
            for want, status, name, version in rows
            if status == "installed"
        }

    def missing(self) -> list[str]:
        """Those of the packages that are not there, or not of the version."""
        found = self.installed()
        return [
            name
            for name in self.names
            if name not in found or not fnmatch.fnmatchcase(found[name].version, self.version or "*")
        ]

    def choose(self, name: str) -> str:
        """The package with its version, as apt-get wants it; apt-cache names the newest first."""
        if self.version is None:
            return name
        rows = [line.split("|") for line in self.ask("apt-cache", "madison", name).splitlines()]
        offered = list(dict.fromkeys(row[1].strip() for row in rows if len(row) > 1))
        fitting = fnmatch.filter(offered, self.version)
        if not fitting:
            there = ", ".join(offered) or "no version of it"
            raise Refused(f"no package {name}={self.version} is on offer; there is {there}")
        return f"{name}={fitting[0]}"

    def install(self, missing: list[str]) -> bool:
        """Whether apt-get had to do something."""
        if not are_fresh(LISTS, time.time()):
            self.get("update")
            os.utime(LISTS)
        words = ["--no-install-recommends"]
        words += [f"--option=Dpkg::Options::=--force-{answer}" for answer in ("confdef", "confold")]
        if self.version is not None or self.files:
            words += ["--allow-downgrades", "--allow-change-held-packages"]
        wanted = self.files or [self.choose(name) for name in missing]
        with nothing_starts():
            if any(UNFINISHED.glob("[0-9]*")):
                # dpkg was killed; apt-get refuses to do anything before it is told how that ends.
                self.module.run_command(["dpkg", "--configure", "--pending"], environ_update=ENVIRONMENT)
            said = self.get("install", *words, *wanted)
        return not NOTHING_DONE.search(said)

    def hold(self) -> bool:
        """Whether there was one to hold."""
        found = self.installed()
        loose = [name for name in self.names if name not in found or not found[name].held]
        if loose:
            code, output, errors = self.module.run_command(["apt-mark", "hold", *loose])
            if code != 0:
                raise Refused(f"apt-mark hold: {errors.strip()}", output)
        return bool(loose)


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
    # What is in a file shows when apt-get reads it.
    wanted = bool(missing or apt.files)
    if module.check_mode:
        module.exit_json(changed=bool(missing))
    try:
        changed = apt.install(missing) if wanted else False
        if module.params["hold"]:
            changed |= apt.hold()
    except Refused as error:
        module.fail_json(msg=str(error), stdout=error.output)
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
