"""Name the commit of a checkout, the same way for receipts and for tags of AMIs."""

import shutil
from functools import cache
from pathlib import Path

from builder.adapters.host import process


@cache
def commit_of(root: Path) -> str:
    """The checkout's commit, with + if files differ from it; "" outside a repository or without git.

    The first answer holds for the whole process, so that all records of a run agree.
    """
    if shutil.which("git") is None:
        return ""
    git = ["git", "-C", str(root)]
    head = process.run([*git, "rev-parse", "HEAD"], timeout_s=30)
    if head.code != 0:
        return ""
    changed = process.run([*git, "status", "--porcelain"], timeout_s=60)
    return head.output.strip() + ("+" if changed.output.strip() else "")
