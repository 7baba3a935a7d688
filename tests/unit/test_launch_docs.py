"""The reference page of launch files equals the generated page, and the tests that the page cites exist."""

from pathlib import Path

from builder import catalog
from builder.app import launch_docs


def test_reference_page_of_launch_files_is_current(root: Path) -> None:
    """To update it, run python -m builder.app.launch_docs docs/reference/launch.md."""
    assert (root / launch_docs.PAGE).read_text(encoding="utf-8") == launch_docs.page(catalog.load(root))


def test_cluster_runs_that_the_page_cites_are_tests(root: Path) -> None:
    text = (root / "tests/launch/test_cluster.py").read_text(encoding="utf-8")
    for target, launcher in launch_docs.RUN_HERE:
        assert launcher == "slurm"
        assert f'\n    "{target}": r' in text
