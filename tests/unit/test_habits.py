"""Git hooks run every linter of the Makefile and refuse bad commit titles."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml


def test_every_linter_has_a_hook(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    linters = set(re.findall(r"^(lint-[a-z]+):", makefile, re.MULTILINE))
    listed = re.search(r"^LINTERS := (.*)$", makefile, re.MULTILINE)
    assert listed is not None
    assert linters == set(listed[1].split())
    config = yaml.safe_load((root / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    entries = {hook["id"]: hook["entry"] for hook in hooks}
    assert entries.pop("commit-title") == "scripts/check-commit-title"
    assert entries == {name: f"make --silent {name}" for name in linters}


def test_makefile_has_at_most_80_lines(root: Path) -> None:
    assert len((root / "Makefile").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("Retry downloads after a timeout\n\nThe body says why.\n", ""),
        ("\n# a comment of git\nlock: Keep entries that are not named\n", ""),
        ('Revert "The old title."\n', ""),
        ("x" * 72 + "\n", ""),
        ("x" * 73 + "\n", "the commit title has 73 characters"),
        ("Retry downloads.\n", "the commit title ends with a full stop"),
        ("The downloads are retried\n", "the commit title is not an imperative"),
        ("# only comments\n\n", "the commit has no title"),
        ("Retry downloads\n" + "+ a line of git's long diff\n" * 20_000, ""),
    ],
)
def test_commit_title_hook_refuses_bad_titles(root: Path, tmp_path: Path, message: str, error: str) -> None:
    path = tmp_path / "COMMIT_EDITMSG"
    path.write_text(message, encoding="utf-8")
    done = subprocess.run(
        [root / "scripts" / "check-commit-title", path], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == (1 if error else 0)
    assert error in done.stderr
    assert bool(done.stderr) == bool(error)


def test_scripts_with_pipefail_read_the_whole_output_of_a_program(root: Path) -> None:
    """A reader that ends early kills the writer by SIGPIPE; the script then fails, depending on timing."""
    folders = ("scripts", ".ci", "ansible", "containers", "architectures", "builder", "observability")
    paths = [path for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    paths += [root / "Makefile", *(root / "tests/golden/launch").rglob("slurm.txt")]
    texts = {path: path.read_bytes().decode(errors="replace") for path in paths}
    scripts = {path: text for path, text in texts.items() if "pipefail" in text}
    assert len(scripts) > 10
    early = re.compile(r"\|\s*(head\b|grep\s+-\w*q|sed\b.*\bq\b|awk\b.*\bexit\b)")
    assert [path for path, text in scripts.items() if early.search(text)] == []
