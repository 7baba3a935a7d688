#!/usr/bin/python3
"""Builds the initramfs of each kernel once, after all packages that change it are installed.

On Debian and Ubuntu half a dozen packages rebuild it when they are installed, half a minute each time. While
the build is deferred, requests are recorded; one build at the end answers all of them.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: initramfs
short_description: Defer rebuilds of the initramfs and build it once
description:
  - Diverts C(update-initramfs) to a program that records each request, and removes the diversion.
  - A run that is interrupted in between leaves diversion and record to the next run.
options:
  state:
    description:
      - C(deferred) records requests from now on.
      - C(built) builds the initramfs of every installed kernel if there was a request, writes the boot menu
        and restores the program.
    type: str
    choices: [deferred, built]
    required: true
author: The image factory
"""

EXAMPLES = """
- name: Defer rebuilds of the initramfs
  initramfs:
    state: deferred
"""

RETURN = """
changed:
  description: True if an initramfs was built.
  returned: always
  type: bool
"""

PROGRAM = Path("/usr/sbin/update-initramfs")
ASIDE = PROGRAM.with_name(f"{PROGRAM.name}.aside")
COPY = Path("/var/lib/dpkg/diversions-old")
NOTE = Path("/var/lib/misc/initramfs-asked")
# The package of a kernel writes the boot menu right after it has requested the initramfs, and the menu lists
# only files that exist by then.
WRITE_MENU = Path("/usr/sbin/update-grub")
# Deletions (-d) run at once, because the kernel they belong to is being removed. Everything else is deferred.
STAND_IN = f"""\
#!/bin/sh
# Installed while an image is built: records requests; the initramfs is built once at the end.
case " $* " in
*" -d "*) if [ -x {ASIDE} ]; then exec {ASIDE} "$@"; fi ;;
*) : > {NOTE} ;;
esac
"""
ERROR_CHARACTERS = 4000


class Refused(Exception):
    """A program of the system failed; the message is what it said last."""


def run(module: AnsibleModule, *argv: str) -> str:
    code, output, errors = module.run_command(list(argv), environ_update={"LC_ALL": "C"})
    if code != 0:
        said = (errors or output).strip()[-ERROR_CHARACTERS:]
        raise Refused(f"{shlex.join(argv)}: exit code {code}: {said}")
    return str(output)


def divert(module: AnsibleModule, *words: str) -> None:
    """Leaves no copy of the table of diversions as it was before."""
    kept = COPY.exists()
    run(module, "dpkg-divert", "--quiet", "--local", "--rename", *words, str(PROGRAM))
    if not kept:
        COPY.unlink(missing_ok=True)


def is_deferred(module: AnsibleModule) -> bool:
    return run(module, "dpkg-divert", "--truename", str(PROGRAM)).strip() == str(ASIDE)


def defer(module: AnsibleModule) -> None:
    if not is_deferred(module):
        divert(module, "--divert", str(ASIDE), "--add")
    PROGRAM.write_text(STAND_IN, encoding="utf-8")
    PROGRAM.chmod(0o755)


def build(module: AnsibleModule) -> bool:
    """Builds if requested and returns True then; after an interruption the next run finds the request."""
    if not is_deferred(module):
        return False
    wanted = NOTE.exists() and ASIDE.exists()
    if wanted:
        run(module, str(ASIDE), "-c", "-k", "all")
        if WRITE_MENU.exists():
            run(module, str(WRITE_MENU))
    NOTE.unlink(missing_ok=True)
    PROGRAM.unlink(missing_ok=True)
    divert(module, "--remove")
    return wanted


def main() -> None:
    module = AnsibleModule(
        argument_spec={"state": {"type": "str", "choices": ["deferred", "built"], "required": True}},
        supports_check_mode=True,
    )
    built = False
    try:
        if module.check_mode:
            pass
        elif module.params["state"] == "built":
            built = build(module)
        else:
            defer(module)
    except (OSError, Refused) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=built)


if __name__ == "__main__":
    main()
