#!/usr/bin/python3
"""Remove or empty the files that match glob patterns, in one module run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: sweep
short_description: Remove files by pattern and empty others
description:
  - Removes all matching files and directories and truncates files that must exist but be empty.
  - Never removes the file of this module.
options:
  remove:
    description: Absolute glob patterns; C(**) crosses directories. Removes directories with their contents.
    type: list
    elements: str
    default: []
  empty:
    description: Absolute glob patterns of regular files to truncate.
    type: list
    elements: str
    default: []
  spare_mounts:
    description: Skip mounts below the root, which are not part of a container image.
    type: bool
    default: true
author: The image factory
"""

EXAMPLES = """
- name: Remove the package lists
  sweep:
    remove: ["/var/lib/apt/lists/*"]
    empty: ["/var/log/wtmp"]
"""

RETURN = """
paths:
  description: Paths that were removed or emptied.
  returned: always
  type: list
  elements: str
"""

MOUNT_TABLE = Path("/proc/self/mountinfo")
ROOT = Path("/")


def list_mounts() -> frozenset[Path]:
    """Return the mount points below the root, including bind mounts, which only the mount table shows."""
    fields = (line.split()[4] for line in MOUNT_TABLE.read_text(encoding="utf-8").splitlines())
    points = (Path(field.encode().decode("unicode_escape")) for field in fields)
    return frozenset(point for point in points if point != ROOT)


def may_touch(path: Path, spared: frozenset[Path]) -> bool:
    """Return True if the path is neither inside nor above a spared path."""
    real = path.parent.resolve() / path.name
    return not any(real.is_relative_to(other) or other.is_relative_to(real) for other in spared)


def find(patterns: Iterable[str], spared: frozenset[Path]) -> list[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        below_root = pattern.lstrip("/")
        if not pattern.startswith("/") or ".." in pattern.split("/") or not below_root.strip("*/"):
            raise ValueError(f"{pattern}: not an absolute pattern below the root")
        found.update(path for path in ROOT.glob(below_root) if may_touch(path, spared))
    return sorted(found)


def find_nonempty(patterns: Iterable[str], spared: frozenset[Path]) -> list[Path]:
    """Return the regular files that match the patterns and are not empty."""
    files = (path for path in find(patterns, spared) if path.is_file() and not path.is_symlink())
    return [path for path in files if path.stat().st_size]


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)  # may be deleted already, with a matching parent directory


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "remove": {"type": "list", "elements": "str", "default": []},
            "empty": {"type": "list", "elements": "str", "default": []},
            "spare_mounts": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    spared = frozenset({Path(__file__).resolve()})
    if module.params["spare_mounts"]:
        spared |= list_mounts()
    try:
        to_remove = find(module.params["remove"], spared)
        to_empty = [path for path in find_nonempty(module.params["empty"], spared) if path not in to_remove]
        if not module.check_mode:
            for path in to_remove:
                remove(path)
            for path in to_empty:
                path.write_bytes(b"")
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    paths = [str(path) for path in to_remove + to_empty]
    module.exit_json(changed=bool(paths), paths=paths)


if __name__ == "__main__":
    main()
