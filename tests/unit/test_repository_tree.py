"""The tree: what may name what."""

import re
import subprocess
from pathlib import Path

# The folder at the top; roles and workloads have folders of their own with that name.
NAMES_TESTS = re.compile(
    r"\b(?:from|import|-m) tests\b|(?<![\w-])tests\.[a-z]|(?<![\w*}{\"'/>-])tests/\w|[\"']tests/"
)
PRODUCT = ("builder", "ansible", "bench", "packer", "containers", "catalog", ".config")


def test_nothing_in_the_product_names_the_tests(root: Path) -> None:
    """Stand-ins and test helpers reach the product through files and options alone."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", *PRODUCT], capture_output=True, text=True, check=True
    )
    found = []
    for name in listed.stdout.splitlines():
        path = root / name
        if not path.is_file() or path.is_symlink():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if NAMES_TESTS.search(line):
                found.append(f"{name}:{number}: {line.strip()}")
    assert found == []
