"""The reference page of vendor targets is current and explains each test case without a target."""

from pathlib import Path

from builder import catalog
from builder.app import workload_docs


def test_reference_page_of_vendor_targets_is_current(root: Path) -> None:
    """To update it, run python -m builder.app.workload_docs docs/reference/workloads.md."""
    assert (root / workload_docs.PAGE).read_text(encoding="utf-8") == workload_docs.page(catalog.load(root))


def test_reference_test_cases_listed_as_not_taken_have_no_target(root: Path) -> None:
    found = catalog.load(root)
    assert not {name.lower() for name in workload_docs.NOT_TAKEN} & {
        *found.targets,
        *map(str.lower, found.aliases),
    }
