#!/usr/bin/python3
"""Fetches the files of one locked commit, and nothing that the commit does not vouch for."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.fetching import rewrite

DOCUMENTATION = """
module: checkout
short_description: Fetch one locked commit
description:
  - Asks the server for the commit alone; of one that does not answer to that, for the reference.
  - The folder holds the locked commit or does not come into being.
options:
  url:
    description: Where the vendor has the repository.
    type: str
    required: true
  ref:
    description: Tag or branch that the commit was found under.
    type: str
    required: true
  commit:
    description: Commit that it has to be.
    type: str
    required: true
  dest:
    description: Folder of the files.
    type: path
    required: true
  mirrors:
    description: Beginning of an address to what stands in its place; the longest that fits is taken.
    type: dict
    default: {}
author: The image factory
"""

EXAMPLES = """
- name: Fetch the sources
  checkout:
    url: "{{ nccl_tests_downloads.source.url }}"
    ref: "{{ nccl_tests_downloads.source.ref }}"
    commit: "{{ nccl_tests_downloads.source.commit }}"
    dest: "{{ work_folder }}/nccl-tests"
"""

RETURN = """
expected:
  description: The commit of the lock, where there is another one.
  returned: on a mismatch
  type: str
actual:
  description: The commit that came instead.
  returned: on a mismatch
  type: str
"""

# No answer for this long ends a transfer: bytes a second, seconds.
SLOWEST = ("1000", "60")


class Git:
    """git in one folder."""

    def __init__(self, module: AnsibleModule, folder: Path) -> None:
        program = module.get_bin_path("git")
        if program is None:
            module.fail_json(msg="no program git here to fetch sources with")
        options = {
            "advice.detachedHead": "false",
            "http.lowSpeedLimit": SLOWEST[0],
            "http.lowSpeedTime": SLOWEST[1],
            "protocol.version": "2",
            "safe.directory": str(folder),
        }
        if os.environ.get("SSL_CERT_FILE"):
            options["http.sslCAInfo"] = os.environ["SSL_CERT_FILE"]
        self._module = module
        self._command = [program, "-C", str(folder)]
        for name, value in options.items():
            self._command += ["-c", f"{name}={value}"]

    def __call__(self, *words: str) -> tuple[int, str]:
        environment = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
        code, output, errors = self._module.run_command([*self._command, *words], environ_update=environment)
        return code, (output + errors if code else output).strip()


def fetch(module: AnsibleModule, folder: Path) -> None:
    """Brings the commit into `folder`, which is empty."""
    url, ref, commit = (module.params[name] for name in ("url", "ref", "commit"))
    place = rewrite(url, module.params["mirrors"])
    git = Git(module, folder)
    code, said = git("init", "--quiet")
    if code == 0:
        code, said = git("fetch", "--quiet", "--no-tags", "--depth=1", place, commit)
        if code != 0:
            code, said = git("fetch", "--quiet", "--no-tags", place, ref)
    if code != 0:
        module.fail_json(msg=f"{place}: cannot be fetched: {said}", url=url)
    _, actual = git("rev-parse", "FETCH_HEAD^{commit}")
    if actual != commit:
        module.fail_json(
            msg=f"{url} {ref} does not match its lock: expected commit {commit}, got {actual}",
            url=f"{url} {ref}",
            expected=commit,
            actual=actual,
        )
    code, said = git("checkout", "--quiet", "--detach", commit)
    if code != 0:
        module.fail_json(msg=f"{url}: commit {commit} cannot be laid out: {said}", url=url)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "ref": {"type": "str", "required": True},
            "commit": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "mirrors": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    dest = Path(module.params["dest"])
    if module.check_mode:
        module.exit_json(changed=True)
    os.umask(0o022)
    shutil.rmtree(dest, ignore_errors=True)
    unproven = dest.with_name(f".{dest.name}.unproven")
    shutil.rmtree(unproven, ignore_errors=True)
    unproven.mkdir(parents=True)
    fetch(module, unproven)
    unproven.rename(dest)
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
