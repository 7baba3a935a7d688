"""Find the git commit of a checkout, as recorded in receipts and AMI tags."""

import shutil
from functools import cache
from pathlib import Path

from builder.adapters.host import process


@cache
def commit_of(root: Path) -> str:
    """Return the commit of a checkout, with a "+" if files differ from it; "" without git or a repository.

    The result is cached for the whole process, so that all records of a run agree.
    """
    if shutil.which("git") is None:
        return ""
    git = ["git", "-C", str(root)]
    head = process.run([*git, "rev-parse", "HEAD"], timeout_s=30)
    if head.code != 0:
        return ""
    changed = process.run([*git, "status", "--porcelain"], timeout_s=60)
    return head.output.strip() + ("+" if changed.output.strip() else "")
