#!/usr/bin/python3
"""Adds a vendor's package repository, signed by the key that was locked, in one module run.

While an image is made, packages come through the mirror and from a source whose file begins with
C(factory-); the play removes it when the role is done. What may stay for the users of a machine names the
vendor's own address and is switched off, so that nothing is upgraded that was tested together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.fetching import Refused, dearmor, fetch, rewrite
from ansible.module_utils.patience import run_patiently

DOCUMENTATION = """
module: repository
short_description: Add a signed package repository
description:
  - Puts the key where the package manager finds it, writes the source, and reads its lists and no others.
options:
  manager:
    description: Which package manager the machine has.
    type: str
    choices: [apt, dnf]
    required: true
  name:
    description: Name of the files.
    type: str
    required: true
  url:
    description: Where the vendor has it.
    type: str
    required: true
  suite:
    description: Suite of an apt repository; a flat one ends in a slash.
    type: str
    default: ./
  components:
    description: Components of the suite; a flat repository has none.
    type: list
    elements: str
    default: []
  key:
    description: Address and sum of the key that signs it (V(url), V(sha256)).
    type: dict
    required: true
  mirrors:
    description: Beginning of an address to what stands in its place; the longest that fits is taken.
    type: dict
    default: {}
  keep:
    description: Whether the image keeps the repository, with the vendor's address and switched off.
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
  description: What was written for the time of the build.
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
gpgkey=file://{key}
{extra}"""
OFF = "Switched off: what is installed was tested together. Switched on, it offers what the vendor has now."
ON = "For the time of the build."
# How apt says that a repository is not what the key's owner signed.
FORGED = re.compile(r"^[EW]: .*(?:not signed|signature|BADSIG|NO_PUBKEY|EXPKEYSIG).*$", re.MULTILINE)
PROBLEM = re.compile(r"^(?:[EW]|Err[a-z]*|Error): ?.*$", re.MULTILINE)


def places(manager: str, name: str) -> tuple[Path, Path]:
    """The files of source and key; the prefix marks what goes when the role is done."""
    if manager == "apt":
        return Path(f"/etc/apt/sources.list.d/{name}.sources"), Path(f"/etc/apt/keyrings/{name}.gpg")
    return Path(f"/etc/yum.repos.d/{name}.repo"), Path(f"/etc/pki/rpm-gpg/RPM-GPG-KEY-{name}")


def render(given: Mapping[str, Any], name: str, key: Path, *, building: bool) -> str:
    """The text of a source."""
    url = rewrite(given["url"], given["mirrors"]) if building else given["url"]
    if given["manager"] == "apt":
        components = " ".join(given["components"])
        return APT_SOURCE.format(
            comment=ON if building else OFF,
            enabled="yes" if building else "no",
            url=url,
            suite=given["suite"],
            components=f"Components: {components}\n" if components else "",
            key=key,
        )
    # dnf does not look where every other program looks for certificates.
    bundle = os.environ.get("SSL_CERT_FILE", "") if building else ""
    return DNF_SOURCE.format(
        comment=ON if building else OFF,
        name=name,
        url=url,
        enabled=int(building),
        key=key,
        extra=f"sslcacert={bundle}\n" if bundle else "",
    )


def write(path: Path, content: bytes) -> bool:
    """Whether the file had to be written."""
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)
    return True


def read_lists(module: AnsibleModule, source: Path, name: str) -> None:
    """Has the package manager read what this one repository holds."""
    url, before = module.params["url"], None
    if module.params["manager"] == "dnf":
        command = ["dnf", "--quiet", "--assumeyes", "makecache", "--disablerepo=*", f"--enablerepo={name}"]
    else:
        # The age of the folder tells others whether their own lists are fresh; this was not about theirs.
        before = APT_LISTS.stat() if APT_LISTS.is_dir() else None
        options = {
            "Dir::Etc::SourceList": source,
            "Dir::Etc::SourceParts": "-",
            "APT::Get::List-Cleanup": "0",
            "APT::Update::Error-Mode": "any",
        }
        command = ["apt-get", "update", *(word for k, v in options.items() for word in ("-o", f"{k}={v}"))]
    code, output, errors = run_patiently(module, command, LOCK_WAIT_S)
    if before:
        os.utime(APT_LISTS, (before.st_atime, before.st_mtime))
    if code == 0:
        return
    said = f"{output}\n{errors}"
    forged = FORGED.search(said)
    if forged:
        key = module.params["key"]["url"]
        raise Refused(
            f"{url} does not match its lock: expected a repository signed by {key}, got: {forged.group()}",
            url=url,
            expected=f"a repository signed by {key}",
            actual=forged.group(),
        )
    problem = PROBLEM.search(said)
    raise Refused(f"{url}: cannot be read: {problem.group() if problem else said.strip()[-400:]}", url=url)


def add(module: AnsibleModule) -> dict[str, Any]:
    given = module.params
    manager, name, building = given["manager"], given["name"], f"factory-{given['name']}"
    kept_source, kept_key = places(manager, name)
    source, temporary_key = places(manager, building)
    if module.check_mode:
        return {"changed": given["keep"] and not kept_source.exists(), "files": []}
    fetched = Path(module.tmpdir, "key")
    fetch(given["key"]["url"], given["key"]["sha256"], fetched, given["mirrors"])
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
            "mirrors": {"type": "dict", "default": {}},
            "keep": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        result = add(module)
    except Refused as error:
        module.fail_json(msg=str(error), **error.fields)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
