#!/usr/bin/python3
"""Builds the initramfs of each kernel once, after all packages that change it are installed.

On Debian and Ubuntu about six packages rebuild the initramfs at their installation, which takes half a minute
each time. While the build is deferred, all requests are recorded; one build at the end replaces the builds
that were requested.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: initramfs
short_description: Defer rebuilds of the initramfs and build it once
description:
  - Diverts C(update-initramfs) to a program that records each request, and later removes the diversion.
  - After an interrupted run, diversion and record remain for the next run.
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
ORIGINAL = PROGRAM.with_name(f"{PROGRAM.name}.aside")
OLD_DIVERSIONS = Path("/var/lib/dpkg/diversions-old")
REQUEST = Path("/var/lib/misc/initramfs-asked")
# The package of a kernel writes the boot menu right after it has requested the initramfs, and the menu lists
# only files that exist by then.
WRITE_MENU = Path("/usr/sbin/update-grub")
# Deletions (-d) run at once, because the kernel they belong to is being removed. Other requests are deferred.
STAND_IN = f"""\
#!/bin/sh
# Installed while an image is built: records requests; the initramfs is built once at the end.
case " $* " in
*" -d "*) if [ -x {ORIGINAL} ]; then exec {ORIGINAL} "$@"; fi ;;
*) : > {REQUEST} ;;
esac
"""
ERROR_CHARACTERS = 4000


class CommandError(Exception):
    """Failed command; the message contains the end of its output."""


def run(module: AnsibleModule, *argv: str) -> str:
    code, output, errors = module.run_command(list(argv), environ_update={"LC_ALL": "C"})
    if code != 0:
        output = (errors or output).strip()[-ERROR_CHARACTERS:]
        raise CommandError(f"{shlex.join(argv)}: exit code {code}: {output}")
    return str(output)


def divert(module: AnsibleModule, *words: str) -> None:
    """Add or remove the diversion of update-initramfs; leave no backup of dpkg's diversion table."""
    existed = OLD_DIVERSIONS.exists()
    run(module, "dpkg-divert", "--quiet", "--local", "--rename", *words, str(PROGRAM))
    if not existed:
        OLD_DIVERSIONS.unlink(missing_ok=True)


def is_deferred(module: AnsibleModule) -> bool:
    return run(module, "dpkg-divert", "--truename", str(PROGRAM)).strip() == str(ORIGINAL)


def defer(module: AnsibleModule) -> None:
    if not is_deferred(module):
        divert(module, "--divert", str(ORIGINAL), "--add")
    PROGRAM.write_text(STAND_IN, encoding="utf-8")
    PROGRAM.chmod(0o755)


def build(module: AnsibleModule) -> bool:
    """Build the initramfs if requested; return True if built. The request is deleted only after the build."""
    if not is_deferred(module):
        return False
    wanted = REQUEST.exists() and ORIGINAL.exists()
    if wanted:
        run(module, str(ORIGINAL), "-c", "-k", "all")
        if WRITE_MENU.exists():
            run(module, str(WRITE_MENU))
    REQUEST.unlink(missing_ok=True)
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
    except (OSError, CommandError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=built)


if __name__ == "__main__":
    main()
