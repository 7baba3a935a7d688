"""Product files must not refer to the tests folder; `make` starts the engine only if a build needs it."""

import re
import subprocess
from pathlib import Path

import pytest

# Matches the top-level tests folder, not the tests folders of roles and workloads.
NAMES_TESTS = re.compile(
    r"\b(?:from|import|-m) tests\b|(?<![\w-])tests\.[a-z]|(?<![\w*}{\"'/>-])tests/\w|[\"']tests/"
)
PRODUCT = ("builder", "ansible", "bench", "packer", "containers", "catalog", ".config")


def test_product_files_do_not_refer_to_tests(root: Path) -> None:
    """Tests pass stand-ins to the product only through files and options."""
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


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ami-cpu", "SITE=aws"], False),
        (["ami", "SITE=aws"], False),
        (["ami-cpu"], True),
        (["ami"], True),
        (["cpu-ddp", "SITE=aws"], True),
    ],
)
def test_make_starts_no_engine_for_an_ami_in_an_aws_account(
    root: Path, words: list[str], expected: bool
) -> None:
    done = subprocess.run(["make", "-n", "-C", str(root), *words], capture_output=True, text=True, check=True)
    assert "builder build" in done.stdout
    assert ("scripts/ensure-engine" in done.stdout) is expected
