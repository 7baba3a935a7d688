#!/usr/bin/python3
"""Add a vendor's package repository with its locked key.

During the build, the source file factory-NAME points at the mirror; the play removes it at the end of the
role. A machine image keeps a disabled source with the vendor's URL: users can enable it, but nothing is
upgraded by default.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.fetching import FetchError, dearmor, fetch, rewrite
from ansible.module_utils.patience import run_when_unlocked

DOCUMENTATION = """
module: repository
short_description: Add a signed package repository
description:
  - Installs the key, writes the source file and updates the package lists of this repository only.
options:
  manager:
    description: Package manager of the machine.
    type: str
    choices: [apt, dnf]
    required: true
  name:
    description: Name of the source and key files.
    type: str
    required: true
  url:
    description: URL of the vendor's repository.
    type: str
    required: true
  suite:
    description: Suite of an apt repository; ends in a slash for a flat repository.
    type: str
    default: ./
  components:
    description: Components of the suite; empty for a flat repository.
    type: list
    elements: str
    default: []
  key:
    description: Public key that signs the repository (V(url), V(sha256), V(size)).
    type: dict
    required: true
  signed_lists:
    description: True if the key also signs the lists of a dnf repository. An apt repository has signed lists.
    type: bool
    default: false
  mirrors:
    description: URL prefix → prefix of its mirror; the longest matching prefix is used.
    type: dict
    default: {}
  keep:
    description: True to keep a disabled source with the vendor's URL in the image.
    type: bool
    default: false
author: The image factory
"""

EXAMPLES = """
- name: Add the vendor's repository
  repository:
    manager: apt
    name: cuda
    url: "{{ cuda_downloads.packages.url }}"
    key: "{{ cuda_downloads.packages.key }}"
"""

RETURN = """
files:
  description: Source and key files that exist only during the build.
  returned: always
  type: list
  elements: str
"""

LOCK_WAIT_S = 120
APT_LISTS = Path("/var/lib/apt/lists")
APT_SOURCE = """\
# {comment}
Enabled: {enabled}
Types: deb
URIs: {url}
Suites: {suite}
{components}Signed-By: {key}
"""
DNF_SOURCE = """\
# {comment}
[{name}]
name={name}
baseurl={url}
enabled={enabled}
gpgcheck=1
repo_gpgcheck={signed_lists}
gpgkey=file://{key}
{extra}"""
DISABLED_COMMENT = (
    "Disabled: the installed packages were tested together. Enable it to install newer versions."
)
BUILD_COMMENT = "Used only while the image is built."
# Messages of apt and dnf about a repository without a valid signature.
BAD_SIGNATURE = re.compile(
    r"^.*(?:not signed|signature|GPG verification|BADSIG|NO_PUBKEY|EXPKEYSIG).*$", re.MULTILINE
)
PROBLEM = re.compile(r"^(?:[EW]|Err[a-z]*|Error): ?.*$", re.MULTILINE)


def file_paths(manager: str, name: str) -> tuple[Path, Path]:
    """Return the paths of the source file and the key file."""
    if manager == "apt":
        return Path(f"/etc/apt/sources.list.d/{name}.sources"), Path(f"/etc/apt/keyrings/{name}.gpg")
    return Path(f"/etc/yum.repos.d/{name}.repo"), Path(f"/etc/pki/rpm-gpg/RPM-GPG-KEY-{name}")


def render(given: Mapping[str, Any], name: str, key: Path, *, building: bool) -> str:
    """Return the content of a source file."""
    url = rewrite(given["url"], given["mirrors"]) if building else given["url"]
    if given["manager"] == "apt":
        components = " ".join(given["components"])
        return APT_SOURCE.format(
            comment=BUILD_COMMENT if building else DISABLED_COMMENT,
            enabled="yes" if building else "no",
            url=url,
            suite=given["suite"],
            components=f"Components: {components}\n" if components else "",
            key=key,
        )
    # Without module_hotfixes, dnf hides pinned versions that are in a non-default module stream.
    # By default, Amazon Linux ignores a repository that is unreachable or has no valid signature.
    extra = "module_hotfixes=1\nskip_if_unavailable=0\n" if building else ""
    if building and (bundle := os.environ.get("SSL_CERT_FILE", "")):  # dnf ignores the variable
        extra += f"sslcacert={bundle}\n"
    return DNF_SOURCE.format(
        comment=BUILD_COMMENT if building else DISABLED_COMMENT,
        name=name,
        url=url,
        enabled=int(building),
        signed_lists=int(given["signed_lists"]),
        key=key,
        extra=extra,
    )


def write(path: Path, content: bytes) -> bool:
    """Write the file atomically if its content differs; return True if it was written."""
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
    return True


def read_lists(module: AnsibleModule, source: Path, name: str) -> None:
    """Update the package lists of this repository only."""
    url, before = module.params["url"], None
    if module.params["manager"] == "dnf":
        command = ["dnf", "--quiet", "--assumeyes", "makecache", "--disablerepo=*", f"--enablerepo={name}"]
    else:
        # The folder's mtime shows the age of the other repositories' lists, so it is restored afterwards.
        before = APT_LISTS.stat() if APT_LISTS.is_dir() else None
        options = {
            "Dir::Etc::SourceList": source,
            "Dir::Etc::SourceParts": "-",
            "APT::Get::List-Cleanup": "0",
            "APT::Update::Error-Mode": "any",
        }
        command = ["apt-get", "update", *(word for k, v in options.items() for word in ("-o", f"{k}={v}"))]
    code, output, errors = run_when_unlocked(module, command, LOCK_WAIT_S)
    if before:
        os.utime(APT_LISTS, (before.st_atime, before.st_mtime))
    if code == 0:
        return
    text = f"{output}\n{errors}"
    invalid = BAD_SIGNATURE.search(text)
    if invalid:
        key = module.params["key"]["url"]
        raise FetchError(
            f"{url} does not match its lock: expected a repository signed by {key}, got: {invalid.group()}",
            url=url,
            expected=f"a repository signed by {key}",
            actual=invalid.group(),
        )
    problem = PROBLEM.search(text)
    reason = problem.group() if problem else text.strip()[-400:]
    raise FetchError(f"{url}: reading the package lists failed: {reason}", url=url)


def add(module: AnsibleModule) -> dict[str, Any]:
    given = module.params
    manager, name, building = given["manager"], given["name"], f"factory-{given['name']}"
    kept_source, kept_key = file_paths(manager, name)
    source, temporary_key = file_paths(manager, building)
    if module.check_mode:
        return {"changed": given["keep"] and not kept_source.exists(), "files": []}
    fetched = Path(module.tmpdir, "key")
    key = given["key"]
    fetch(key["url"], key["sha256"], fetched, given["mirrors"], key.get("size"))
    key = fetched.read_bytes()
    key = dearmor(key) if manager == "apt" else key
    changed = False
    if given["keep"]:
        changed = write(kept_key, key)
        changed |= write(kept_source, render(given, name, kept_key, building=False).encode())
    write(temporary_key, key)
    write(source, render(given, building, temporary_key, building=True).encode())
    read_lists(module, source, building)
    return {"changed": changed, "files": [str(source), str(temporary_key)]}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "manager": {"type": "str", "choices": ["apt", "dnf"], "required": True},
            "name": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "suite": {"type": "str", "default": "./"},
            "components": {"type": "list", "elements": "str", "default": []},
            "key": {"type": "dict", "required": True, "no_log": False},
            "signed_lists": {"type": "bool", "default": False},
            "mirrors": {"type": "dict", "default": {}},
            "keep": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = add(module)
    except FetchError as error:
        module.fail_json(msg=str(error), **error.fields)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
