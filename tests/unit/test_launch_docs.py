"""The page of launch files is the generated one, and the tests that it relies on exist."""

from pathlib import Path

from builder import catalog
from builder.app import launch_docs


def test_page_is_current(root: Path) -> None:
    """To update it, run python -m builder.app.launch_docs docs/reference/launch.md."""
    assert (root / launch_docs.PAGE).read_text(encoding="utf-8") == launch_docs.page(catalog.load(root))


def test_runs_of_the_page_are_tests(root: Path) -> None:
    text = (root / "tests/launch/test_cluster.py").read_text(encoding="utf-8")
    for target, launcher in launch_docs.RUN_HERE:
        assert launcher == "slurm"
        assert f'"{target}": (' in text
