#!/usr/bin/python3
"""Has the first file system of the kernels made once, after everything that wants to be in it is installed.

On Debian's kin half a dozen packages have it made anew when they are installed, half a minute each time.
While it is put off, such a request is noted; it is carried out when the image has all its parts.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
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
      - C(made) carries out what was noted, for every kernel that is installed, and puts the program back.
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
made:
  description: Whether a first file system was made.
  returned: always
  type: bool
"""

PROGRAM = Path("/usr/sbin/update-initramfs")
NOTE = Path("/var/lib/misc/initramfs-asked")
# With a kernel that is removed goes what belongs to it. Everything else waits.
STAND_IN = """\
#!/bin/sh
# Here while an image is made: requests are noted and carried out at the end, once.
case " $* " in
*" -d "*) if [ -x {aside} ]; then exec {aside} "$@"; fi ;;
*) : > {note} ;;
esac
"""
ERROR_CHARACTERS = 4000


class Refused(Exception):
    """A program of the system failed; the message is what it said last."""


@dataclass(frozen=True)
class Initramfs:
    """The program that makes first file systems, and the note that it is wanted."""

    module: AnsibleModule
    program: Path = PROGRAM
    note: Path = NOTE

    @property
    def aside(self) -> Path:
        return self.program.with_name(f"{self.program.name}.aside")

    def run(self, *argv: str) -> str:
        code, output, errors = self.module.run_command(list(argv), environ_update={"LC_ALL": "C"})
        if code != 0:
            said = (errors or output).strip()[-ERROR_CHARACTERS:]
            raise Refused(f"{shlex.join(argv)}: exit code {code}: {said}")
        return str(output)

    def is_put_off(self) -> bool:
        return self.run("dpkg-divert", "--truename", str(self.program)).strip() == str(self.aside)

    def divert(self, *words: str) -> None:
        self.run("dpkg-divert", "--quiet", "--local", "--rename", *words, str(self.program))

    def put_off(self) -> None:
        if not self.is_put_off():
            self.divert("--divert", str(self.aside), "--add")
        self.program.write_text(STAND_IN.format(aside=self.aside, note=self.note), encoding="utf-8")
        self.program.chmod(0o755)

    def make(self) -> bool:
        """Whether there was something to make; where this is cut short, the next run finds the note."""
        if not self.is_put_off():
            return False
        wanted = self.note.exists() and self.aside.exists()
        if wanted:
            self.run(str(self.aside), "-c", "-k", "all")
        self.note.unlink(missing_ok=True)
        self.program.unlink(missing_ok=True)
        self.divert("--remove")
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
            made = Initramfs(module).make()
        else:
            Initramfs(module).put_off()
    except (OSError, Refused) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=made, made=made)


if __name__ == "__main__":
    main()
