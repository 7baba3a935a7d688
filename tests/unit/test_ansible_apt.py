"""The Ansible module `apt_packages` decides when to fetch package lists."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

NOW = 1_800_000_000.0
DAY_S = 86_400


@pytest.fixture
def module(root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    plugins = root / "ansible" / "plugins"
    loaded: dict[str, ModuleType] = {}
    for name, path in (
        ("ansible.module_utils.patience", plugins / "module_utils" / "patience.py"),
        ("apt_packages_module", plugins / "modules" / "apt_packages.py"),
    ):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        loaded[name] = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, loaded[name])
        spec.loader.exec_module(loaded[name])
    return loaded["apt_packages_module"]


@pytest.mark.parametrize(
    ("age_s", "is_fresh"), [(0, True), (DAY_S - 1, True), (DAY_S, False), (-1, False), (-365 * DAY_S, False)]
)
def test_old_package_lists_and_lists_from_the_future_are_not_fresh(
    module: ModuleType, tmp_path: Path, age_s: int, *, is_fresh: bool
) -> None:
    assert not module.are_fresh(tmp_path, NOW), "a folder without lists"
    (tmp_path / "archive_Packages").touch()
    os.utime(tmp_path, (NOW - age_s, NOW - age_s))
    assert module.are_fresh(tmp_path, NOW) is is_fresh
