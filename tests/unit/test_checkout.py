"""`commit_of` returns the commit that receipts and AMI tags record."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.ami.finder import tags
from builder.adapters.host.checkout import commit_of
from builder.adapters.host.receipts import Receipts
from builder.adapters.host.workspace import Workspace, open_run
from builder.model import Artifact
from tests.support.repository import Repository


@pytest.fixture(autouse=True)
def _clear_commit_cache() -> Iterator[None]:
    commit_of.cache_clear()
    yield
    commit_of.cache_clear()


def commit(root: Path) -> str:
    """Commit all files in `root` to git and return the commit hash."""
    name = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for words in (["init", "-q"], ["add", "-A"], [*name, "commit", "-q", "-m", "test"]):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    head = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()


def test_returns_the_commit_of_a_clean_checkout(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    assert commit_of(tmp_path) == ""
    commit_of.cache_clear()
    assert commit_of(tmp_path / "none") == ""
    head = commit(tmp_path)
    assert commit_of(tmp_path) == head


def test_appends_a_plus_if_files_changed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    head = commit(tmp_path)
    (tmp_path / "file").write_text("b")
    assert commit_of(tmp_path) == f"{head}+"
    (tmp_path / "file").write_text("a")
    assert commit_of(tmp_path) == f"{head}+", "the result is cached for the whole process"


def test_returns_no_commit_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) == ""


def test_receipt_and_ami_tag_have_the_same_commit(repository: Repository, tmp_path: Path) -> None:
    commit(repository.root)
    repository.write("notes", "not committed")
    plan = repository.plan()
    workspace = Workspace(home=tmp_path / "home", out=tmp_path / "out")
    artifact = Artifact(kind="container", target="hello", reference="sha256:1", key=plan.key, layers=())
    with open_run(workspace, "test") as run:
        receipt = Receipts(workspace, root=repository.root, run=run).record(plan, artifact, None, ())
    assert receipt.commit.endswith("+")
    assert tags(plan, run, commit_of(repository.root))["factory:commit"] == receipt.commit
