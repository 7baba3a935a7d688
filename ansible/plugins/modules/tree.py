#!/usr/bin/python3
"""Create, change and remove the files, directories and links of a role in one module run.

Every module run takes almost a second, so one task for ten files is ten times faster than ten tasks. The
action plugin of the same name renders templates and reads files on the controller.
"""

from __future__ import annotations

import base64
import grp
import os
import pwd
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: tree
short_description: Write all the files of a role in one module run
description:
  - Creates, changes or removes files, directories and symbolic links below a root.
  - Files are replaced atomically; a symbolic link at the destination is replaced, never written through.
  - Missing parent directories are created with mode 0755.
options:
  root:
    description: Root of all destinations, which are absolute paths inside it.
    type: path
    default: /
  entries:
    description: Files, directories and links, in the order in which they are applied.
    type: list
    elements: dict
    required: true
    suboptions:
      dest:
        description: Absolute path without C(..).
        type: str
        required: true
      state:
        description: Desired type of the path.
        type: str
        choices: [file, directory, link, absent]
        default: file
      content:
        description: Text of the file. A file needs one of C(content), C(src) and C(template).
        type: str
      src:
        description: File of the role's C(files) folder, copied byte by byte.
        type: str
      template:
        description: Template of the role's C(templates) folder.
        type: str
      content_base64:
        description: Content of the file; set by the action plugin from the three options above.
        type: str
      target:
        description: Target of a link, written unchanged.
        type: str
      mode:
        description: Octal digits in quotes; 0644 for a file and 0755 for a directory when left out.
        type: str
      owner:
        description: Name or number.
        type: str
        default: root
      group:
        description: Name or number.
        type: str
        default: root
author: The image factory
"""

EXAMPLES = """
- name: Write the files of the role
  tree:
    entries:
      - {dest: /etc/motd, content: "Welcome\\n"}
      - {dest: /etc/app.conf, template: app.conf.j2, mode: "0640", group: app}
      - {dest: /srv/app, state: directory, owner: app, group: app}
      - {dest: /etc/localtime, state: link, target: /usr/share/zoneinfo/Etc/UTC}
      - {dest: /etc/app.conf.old, state: absent}
"""

RETURN = """
paths:
  description: Destinations that were changed, in order.
  returned: always
  type: list
  elements: str
"""

DEFAULT_MODES = {"file": "0644", "directory": "0755"}
OCTAL = re.compile(r"0?[0-7]{3,4}")

Entry = dict[str, Any]
Difference = dict[str, str]
Condition = tuple[str, "bytes | None"]  # mode and owner, content of a file


class EntryError(Exception):
    """An item of `entries` is invalid or cannot be applied."""


def locate(root: Path, dest: str) -> Path:
    """Return the path of a destination on this machine; raise EntryError if it is outside the root."""
    if not dest.startswith("/") or ".." in dest.split("/"):
        raise EntryError(f"{dest}: not an absolute path without '..'")
    path = root / dest.lstrip("/")
    if path == root:
        raise EntryError(f"{dest}: the destination is the root of the file system")
    if not path.parent.resolve().is_relative_to(root.resolve()):
        raise EntryError(f"{dest}: a symbolic link leads out of {root}")
    return path


def parse_mode(entry: Entry) -> int:
    text = entry.get("mode") or DEFAULT_MODES[entry["state"]]
    if not OCTAL.fullmatch(text):
        raise EntryError(f"{entry['dest']}: mode {text!r} is not three or four octal digits in quotes")
    return int(text, 8)


def find_owner(entry: Entry) -> tuple[int, int]:
    owner, group = entry["owner"], entry["group"]
    try:
        uid = int(owner) if owner.isdigit() else pwd.getpwnam(owner).pw_uid
        gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise EntryError(f"{entry['dest']}: {error.args[0]}") from error
    return uid, gid


def read_status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def make_parents(path: Path) -> None:
    if not path.parent.is_dir():
        make_parents(path.parent)
        path.parent.mkdir()
        path.parent.chmod(0o755)


def apply_file(path: Path, entry: Entry, *, check: bool) -> Difference | None:
    content = base64.b64decode(entry["content_base64"], validate=True)
    mode, (uid, gid) = parse_mode(entry), find_owner(entry)
    status = read_status(path)
    if status and stat.S_ISDIR(status.st_mode):
        raise EntryError(f"{entry['dest']}: is a directory, not a file")
    before = path.read_bytes() if status and stat.S_ISREG(status.st_mode) else None
    current = describe_status(status)
    desired = f"mode {mode:04o}, owner {uid}:{gid}"
    if before == content and current == desired:
        return None
    if not check:
        make_parents(path)
        write_atomically(path, content, mode=mode, uid=uid, gid=gid)
    return make_difference(entry["dest"], (current, before), (desired, content))


def write_atomically(path: Path, content: bytes, *, mode: int, uid: int, gid: int) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchown(handle, uid, gid)
            os.fchmod(handle, mode)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def apply_directory(path: Path, entry: Entry, *, check: bool) -> Difference | None:
    mode, (uid, gid) = parse_mode(entry), find_owner(entry)
    status = read_status(path)
    if status and not stat.S_ISDIR(status.st_mode):
        raise EntryError(f"{entry['dest']}: exists and is not a directory")
    current = describe_status(status)
    desired = f"mode {mode:04o}, owner {uid}:{gid}"
    if current == desired:
        return None
    if not check:
        if not status:
            make_parents(path)
            path.mkdir(0o700)
        os.chown(path, uid, gid)
        path.chmod(mode)
    return make_difference(entry["dest"], (current, None), (desired, None))


def apply_link(path: Path, entry: Entry, *, check: bool) -> Difference | None:
    status = read_status(path)
    if status and stat.S_ISDIR(status.st_mode):
        raise EntryError(f"{entry['dest']}: is a directory, not a link")
    desired = f"link to {entry['target']}"
    linked = status and stat.S_ISLNK(status.st_mode)
    # Path.readlink would normalize the target; os.readlink does not.
    current = f"link to {os.readlink(path)}" if linked else describe_status(status)  # noqa: PTH115
    if current == desired:
        return None
    if not check:
        make_parents(path)
        # Renaming replaces the destination atomically.
        with tempfile.TemporaryDirectory(prefix=".tree-", dir=path.parent) as folder:
            fresh = Path(folder, "link")
            fresh.symlink_to(entry["target"])
            fresh.replace(path)
    return make_difference(entry["dest"], (current, None), (desired, None))


def remove(path: Path, entry: Entry, *, check: bool) -> Difference | None:
    status = read_status(path)
    if not status:
        return None
    if not check:
        if stat.S_ISDIR(status.st_mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    return make_difference(entry["dest"], (describe_status(status), None), ("absent", None))


APPLY = {"file": apply_file, "directory": apply_directory, "link": apply_link, "absent": remove}


def describe_status(status: os.stat_result | None) -> str:
    if not status:
        return "absent"
    if stat.S_ISLNK(status.st_mode):
        return "link"
    return f"mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid}:{status.st_gid}"


def make_difference(dest: str, before: Condition, after: Condition) -> Difference:
    return {
        "before_header": f"{dest} ({before[0]})",
        "after_header": f"{dest} ({after[0]})",
        "before": show_text(*before),
        "after": show_text(*after),
    }


def show_text(condition: str, content: bytes | None) -> str:
    try:
        text = (content or b"").decode()
    except UnicodeDecodeError:
        return f"{condition}, {len(content or b'')} bytes\n"
    return text if content is not None else f"{condition}\n"


def check_entry(entry: Entry) -> None:
    needed = {"file": "content_base64", "link": "target"}.get(entry["state"])
    if needed and entry.get(needed) is None:
        raise EntryError(
            f"{entry['dest']}: a {entry['state']} needs {needed.replace('content_base64', 'content')}"
        )


def apply_entry(root: Path, entry: Entry, *, check: bool) -> Difference | None:
    """Apply an entry; return the difference, or None if nothing changed."""
    check_entry(entry)
    path = locate(root, entry["dest"])
    try:
        return APPLY[entry["state"]](path, entry, check=check)
    except OSError as error:
        raise EntryError(f"{entry['dest']}: {error.strerror}") from error


def make_argument_spec() -> dict[str, Any]:
    return {
        "root": {"type": "path", "default": "/"},
        "entries": {
            "type": "list",
            "elements": "dict",
            "required": True,
            "options": {
                "dest": {"type": "str", "required": True},
                "state": {"type": "str", "default": "file", "choices": sorted(APPLY)},
                "content_base64": {"type": "str"},
                "target": {"type": "str"},
                "mode": {"type": "str"},
                "owner": {"type": "str", "default": "root"},
                "group": {"type": "str", "default": "root"},
            },
        },
    }


def main() -> None:
    module = AnsibleModule(argument_spec=make_argument_spec(), supports_check_mode=True)
    paths: list[str] = []
    differences: list[Difference] = []
    try:
        for entry in module.params["entries"]:
            difference = apply_entry(Path(module.params["root"]), entry, check=module.check_mode)
            if difference:
                paths.append(entry["dest"])
                differences.append(difference)
    except EntryError as error:
        module.fail_json(msg=str(error), paths=paths, changed=bool(paths))
    shown = {"diff": differences} if module._diff else {}
    module.exit_json(changed=bool(paths), paths=paths, **shown)


if __name__ == "__main__":
    main()
