"""Package folders of build containers: filled from the store, kept in it, never more than what there is."""

from pathlib import Path

import pytest

from builder.adapters import playbook
from builder.adapters.workspace import Workspace, open_run
from tests.repository import Repository


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(home=tmp_path / "home", out=tmp_path / "out")


def use_packages(workspace: Workspace, repository: Repository, **downloaded: str) -> None:
    """One container's life: its folders are filled, it downloads, what it downloaded is kept."""
    store = workspace.cache("apt", "tiny")
    plan = repository.plan()
    with open_run(workspace, "test") as run:
        scratch = run.scratch / "layer"
        archives, lists = (Path(bind.source) for bind in playbook._package_folders(store, scratch, plan))
        for name, text in downloaded.items():
            for folder in (archives / "archives", lists):
                # As apt does it: a new file takes the place of the old one.
                (folder / "partial" / name).write_text(text)
                (folder / "partial" / name).replace(folder / name)
        playbook._keep_packages(run, store, scratch, plan)


def names(workspace: Workspace, folder: str) -> list[str]:
    return sorted(path.name for path in (workspace.cache("apt", "tiny") / folder).iterdir())


def test_the_store_holds_each_file_once_however_many_layers_used_it(
    workspace: Workspace, repository: Repository
) -> None:
    use_packages(workspace, repository, first="1", second="2")
    for _ in range(3):
        use_packages(workspace, repository)
    assert names(workspace, "archives") == ["first", "second"]
    assert names(workspace, "lists") == ["first", "second"]


def test_a_newer_file_takes_the_place_of_the_older(workspace: Workspace, repository: Repository) -> None:
    use_packages(workspace, repository, package="old")
    use_packages(workspace, repository, package="new", other="x")
    kept = workspace.cache("apt", "tiny") / "archives"
    assert (kept / "package").read_text() == "new"
    assert names(workspace, "archives") == ["other", "package"]


def test_a_container_begins_with_what_others_downloaded(workspace: Workspace, repository: Repository) -> None:
    use_packages(workspace, repository, package="bytes")
    with open_run(workspace, "test") as run:
        binds = playbook._package_folders(
            workspace.cache("apt", "tiny"), run.scratch / "layer", repository.plan()
        )
        assert [bind.target for bind in binds] == ["/var/cache/apt", "/var/lib/apt/lists"]
        assert (Path(binds[0].source) / "archives" / "package").read_text() == "bytes"


def test_lists_that_are_not_there_are_old(workspace: Workspace, repository: Repository) -> None:
    with open_run(workspace, "test") as run:
        binds = playbook._package_folders(
            workspace.cache("apt", "tiny"), run.scratch / "layer", repository.plan()
        )
        assert Path(binds[1].source).stat().st_mtime == 0
