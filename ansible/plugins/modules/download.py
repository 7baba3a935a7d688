#!/usr/bin/python3
"""Fetches one file over the network and lets it in only if it is the one that was locked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.fetching import Refused, dearmor, fetch, sum_of

DOCUMENTATION = """
module: download
short_description: Fetch a locked file
description:
  - Downloads a file, compares its sha256 and, where a signature is given, checks it with the vendor's key.
  - A file that is there already with the right sum is left alone. What does not fit never appears at O(dest).
  - What may pass (no answer, a cut connection, a busy server) is tried again, three times in all.
options:
  url:
    description: Where the vendor has it.
    type: str
    required: true
  sha256:
    description: Sum that the file has to have.
    type: str
    required: true
  dest:
    description: Where to put it; folders above it are made.
    type: path
    required: true
  mode:
    description: Octal mode of the file, in quotes.
    type: str
    default: "0644"
  signature:
    description: Address and sum of a detached OpenPGP signature (V(url), V(sha256)).
    type: dict
  key:
    description: Address and sum of the public key that has to have made it; armored or not.
    type: dict
  mirrors:
    description: Beginning of an address to what stands in its place; the longest that fits is taken.
    type: dict
    default: {}
author: The image factory
"""

EXAMPLES = """
- name: Fetch the installer
  download:
    url: "{{ efa_downloads.installer.url }}"
    sha256: "{{ efa_downloads.installer.sha256 }}"
    dest: "{{ work_folder }}/installer.tgz"
"""

RETURN = """
fetched_from:
  description: Address that answered.
  returned: when something was fetched
  type: str
expected:
  description: What the lock says, where the file is another one.
  returned: on a mismatch
  type: str
actual:
  description: What came instead.
  returned: on a mismatch
  type: str
"""


def check_signature(module: AnsibleModule, path: Path, mirrors: dict[str, str]) -> None:
    signature, key = module.params["signature"], module.params["key"]
    folder = Path(module.tmpdir)
    fetch(signature["url"], signature["sha256"], folder / "signature", mirrors)
    fetch(key["url"], key["sha256"], folder / "key", mirrors)
    keyring = folder / "key.gpg"
    keyring.write_bytes(dearmor((folder / "key").read_bytes()))
    checker = module.get_bin_path("gpgv")
    if checker is None:
        raise Refused("no program gpgv here to check signatures with: install gpgv (Debian) or gnupg2")
    command = [checker, "--homedir", str(folder), "--keyring", str(keyring), str(folder / "signature")]
    code, _, said = module.run_command([*command, str(path)])
    if code != 0:
        url = module.params["url"]
        raise Refused(
            f"{url} does not match its lock: expected a signature by {key['url']}, got: {said.strip()}",
            url=url,
            expected=f"a signature by {key['url']}",
            actual=said.strip(),
        )


def obtain(module: AnsibleModule) -> dict[str, Any]:
    """The file at its place, fetched or found."""
    given = module.params
    dest, mirrors = Path(given["dest"]), given["mirrors"]
    mode = int(given["mode"], 8)
    if dest.is_file() and sum_of(dest) == given["sha256"].lower():
        changed = dest.stat().st_mode & 0o7777 != mode
        if changed and not module.check_mode:
            dest.chmod(mode)
        return {"changed": changed}
    if module.check_mode:
        return {"changed": True}
    if not given["signature"]:
        place = fetch(given["url"], given["sha256"], dest, mirrors)
    else:
        # Nothing gets its name before it has been proven to be what it says.
        unproven = dest.with_name(f".{dest.name}.unproven")
        try:
            place = fetch(given["url"], given["sha256"], unproven, mirrors)
            check_signature(module, unproven, mirrors)
            unproven.replace(dest)
        finally:
            unproven.unlink(missing_ok=True)
    dest.chmod(mode)
    return {"changed": True, "fetched_from": place}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "dest": {"type": "path", "required": True},
            "mode": {"type": "str", "default": "0644"},
            "signature": {"type": "dict"},
            "key": {"type": "dict", "no_log": False},
            "mirrors": {"type": "dict", "default": {}},
        },
        required_by={"signature": ("key",)},
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = obtain(module)
    except Refused as error:
        module.fail_json(msg=str(error), **error.fields)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['dest']}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
