"""Marks the tests that run roles on machines; they take an hour, so only `make molecule` runs them."""

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("engine"):
            item.add_marker("roles")
