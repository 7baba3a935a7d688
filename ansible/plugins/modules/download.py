#!/usr/bin/python3
"""Download a locked file and verify its checksum and signature."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.fetching import FetchError, dearmor, fetch, sha256_of

DOCUMENTATION = """
module: download
short_description: Download and verify a locked file
description:
  - Downloads a file, verifies its sha256 and, if a signature is given, the signature with the vendor's key.
  - Does not download a file that already exists with the right checksum. A file that fails verification never
    appears at O(dest).
  - Retries temporary failures (timeouts, broken connections, busy servers), with three attempts in all.
options:
  url:
    description: URL of the vendor's file.
    type: str
    required: true
  sha256:
    description: Expected SHA-256 digest of the file.
    type: str
    required: true
  size:
    description: Locked size in bytes; a longer file is refused before it is complete.
    type: int
  dest:
    description: Path of the file; parent folders are created.
    type: path
    required: true
  mode:
    description: Octal mode of the file, in quotes.
    type: str
    default: "0644"
  signature:
    description: Detached OpenPGP signature (V(url), V(sha256), V(size)).
    type: dict
  key:
    description: Public key of the signature (V(url), V(sha256), V(size)), armored or binary.
    type: dict
  mirrors:
    description: URL prefix → prefix of its mirror; the longest matching prefix is used.
    type: dict
    default: {}
author: The image factory
"""

EXAMPLES = """
- name: Download the installer
  download:
    url: "{{ efa_downloads.installer.url }}"
    sha256: "{{ efa_downloads.installer.sha256 }}"
    dest: "{{ work_folder }}/installer.tgz"
"""

RETURN = """
fetched_from:
  description: URL that the file was read from.
  returned: if the file was downloaded
  type: str
expected:
  description: Digest or signature that the lock requires.
  returned: on a mismatch
  type: str
actual:
  description: Digest or error of the downloaded file.
  returned: on a mismatch
  type: str
"""


def check_signature(module: AnsibleModule, path: Path, mirrors: dict[str, str]) -> None:
    signature, key = module.params["signature"], module.params["key"]
    folder = Path(module.tmpdir)
    fetch(signature["url"], signature["sha256"], folder / "signature", mirrors, signature.get("size"))
    fetch(key["url"], key["sha256"], folder / "key", mirrors, key.get("size"))
    keyring = folder / "key.gpg"
    keyring.write_bytes(dearmor((folder / "key").read_bytes()))
    files = ["--homedir", str(folder), "--keyring", str(keyring), str(folder / "signature"), str(path)]
    code, _, output = module.run_command([*verifier(module), *files])
    if code != 0:
        url = module.params["url"]
        raise FetchError(
            f"{url} does not match its lock: expected a signature by {key['url']}, got: {output.strip()}",
            url=url,
            expected=f"a signature by {key['url']}",
            actual=output.strip(),
        )


def verifier(module: AnsibleModule) -> list[str]:
    """Return the program that verifies signatures: gpgv, or gpg, because gnupg2-minimal has no gpgv."""
    if gpgv := module.get_bin_path("gpgv"):
        return [gpgv]
    if gpg := module.get_bin_path("gpg"):
        options = "--batch --no-autostart --no-default-keyring --trust-model=always --verify"
        return [gpg, *options.split()]
    raise FetchError("neither gpgv nor gpg is installed: install gpgv (Debian) or gnupg2")


def obtain(module: AnsibleModule) -> dict[str, Any]:
    """Ensure that the file exists at `dest`; return the result of the module."""
    given = module.params
    dest, mirrors = Path(given["dest"]), given["mirrors"]
    mode = int(given["mode"], 8)
    if dest.is_file() and sha256_of(dest) == given["sha256"].lower():
        changed = dest.stat().st_mode & 0o7777 != mode
        if changed and not module.check_mode:
            dest.chmod(mode)
        return {"changed": changed}
    if module.check_mode:
        return {"changed": True}
    if not given["signature"]:
        source = fetch(given["url"], given["sha256"], dest, mirrors, given["size"])
    else:
        # The file gets its final name only after its signature is verified.
        unverified = dest.with_name(f".{dest.name}.unverified")
        try:
            source = fetch(given["url"], given["sha256"], unverified, mirrors, given["size"])
            check_signature(module, unverified, mirrors)
            unverified.replace(dest)
        finally:
            unverified.unlink(missing_ok=True)
    dest.chmod(mode)
    return {"changed": True, "fetched_from": source}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "size": {"type": "int"},
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
    except FetchError as error:
        module.fail_json(msg=str(error), **error.fields)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['dest']}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
