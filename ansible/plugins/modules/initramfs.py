#!/usr/bin/python3
"""Has the first file system of the kernels made once, after everything that wants to be in it is installed.

On Debian's kin half a dozen packages have it made anew when they are installed, half a minute each time.
While it is put off, such a request is noted; it is carried out when the image has all its parts.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: initramfs
short_description: Put off making the first file system of the kernels, and make it once
description:
  - Diverts C(update-initramfs) to a program that notes each request, and takes the diversion back.
  - A run that ends in between leaves diversion and note to the next one.
options:
  state:
    description:
      - C(put_off) notes requests from now on.
      - C(made) carries out what was noted, for every kernel that is installed, has the boot menu written, and
        puts the program back.
    type: str
    choices: [put_off, made]
    required: true
author: The image factory
"""

EXAMPLES = """
- name: Put off the first file system of the kernel
  initramfs:
    state: put_off
"""

RETURN = """
changed:
  description: Whether a first file system was made.
  returned: always
  type: bool
"""

PROGRAM = Path("/usr/sbin/update-initramfs")
ASIDE = PROGRAM.with_name(f"{PROGRAM.name}.aside")
COPY = Path("/var/lib/dpkg/diversions-old")
NOTE = Path("/var/lib/misc/initramfs-asked")
# The package of a kernel writes the boot menu right after it has asked for the first file system, and the
# menu names only what exists by then.
WRITE_MENU = Path("/usr/sbin/update-grub")
# With a kernel that is removed goes what belongs to it. Everything else waits.
STAND_IN = f"""\
#!/bin/sh
# Here while an image is made: requests are noted and carried out at the end, once.
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


def is_put_off(module: AnsibleModule) -> bool:
    return run(module, "dpkg-divert", "--truename", str(PROGRAM)).strip() == str(ASIDE)


def put_off(module: AnsibleModule) -> None:
    if not is_put_off(module):
        divert(module, "--divert", str(ASIDE), "--add")
    PROGRAM.write_text(STAND_IN, encoding="utf-8")
    PROGRAM.chmod(0o755)


def make(module: AnsibleModule) -> bool:
    """Whether there was something to make; where this is cut short, the next run finds the note."""
    if not is_put_off(module):
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
        argument_spec={"state": {"type": "str", "choices": ["put_off", "made"], "required": True}},
        supports_check_mode=True,
    )
    made = False
    try:
        if module.check_mode:
            pass
        elif module.params["state"] == "made":
            made = make(module)
        else:
            put_off(module)
    except (OSError, Refused) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=made)


if __name__ == "__main__":
    main()
