#!/usr/bin/python3
"""Check out the files of a locked commit."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.fetching import rewrite

DOCUMENTATION = """
module: checkout
short_description: Check out a locked commit
description:
  - Fetches only the commit, or the whole reference if the server does not allow fetching commits.
  - Creates O(dest) only if the locked commit was fetched.
options:
  url:
    description: URL of the vendor's repository.
    type: str
    required: true
  ref:
    description: Tag or branch of the commit.
    type: str
    required: true
  commit:
    description: Locked commit.
    type: str
    required: true
  dest:
    description: Folder for the files.
    type: path
    required: true
  mirrors:
    description: URL prefix → prefix of its mirror; the longest matching prefix is used.
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
  description: Commit in the lock.
  returned: on a mismatch
  type: str
actual:
  description: Commit that was fetched.
  returned: on a mismatch
  type: str
"""

# git aborts a transfer that is slower than 1000 bytes per second for 60 seconds.
SLOWEST = ("1000", "60")
# Protocols that git may use; protocols that run a program, such as ext and ssh, are excluded.
PROTOCOLS = "https:http:file"


class Git:
    """Wrapper that runs git in one folder."""

    def __init__(self, module: AnsibleModule, folder: Path) -> None:
        program = module.get_bin_path("git")
        if program is None:
            module.fail_json(msg="git is not installed")
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
        environment = {
            "GIT_ALLOW_PROTOCOL": PROTOCOLS,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        code, output, errors = self._module.run_command([*self._command, *words], environ_update=environment)
        return code, (output + errors if code else output).strip()


def fetch(module: AnsibleModule, folder: Path) -> None:
    """Check out the commit in the empty folder `folder`."""
    url, ref, commit = (module.params[name] for name in ("url", "ref", "commit"))
    source = rewrite(url, module.params["mirrors"])
    git = Git(module, folder)
    code, output = git("init", "--quiet")
    if code == 0:
        code, output = git("fetch", "--quiet", "--no-tags", "--depth=1", "--", source, commit)
        if code != 0:
            code, output = git("fetch", "--quiet", "--no-tags", "--", source, ref)
    if code != 0:
        module.fail_json(msg=f"{source}: git fetch failed: {output}", url=url)
    _, actual = git("rev-parse", "FETCH_HEAD^{commit}")
    if actual != commit:
        module.fail_json(
            msg=f"{url} {ref} does not match its lock: expected commit {commit}, got {actual}",
            url=f"{url} {ref}",
            expected=commit,
            actual=actual,
        )
    code, output = git("checkout", "--quiet", "--detach", commit)
    if code != 0:
        module.fail_json(msg=f"{url}: git checkout of {commit} failed: {output}", url=url)


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
    unverified = dest.with_name(f".{dest.name}.unverified")
    shutil.rmtree(unverified, ignore_errors=True)
    unverified.mkdir(parents=True)
    fetch(module, unverified)
    unverified.rename(dest)
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
