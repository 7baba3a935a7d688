"""`builder clean` removes layers whose keys an earlier version of the builder computed."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from builder import plan
from builder.adapters.engine.client import LAYERS, Image
from builder.adapters.host.workspace import find_workspace
from builder.cli import clean
from builder.marks import CHECKOUT_LABEL
from tests.support.repository import Repository


class FakeEngine:
    """Fake engine in which all layers belong to the same checkout."""

    url = "unix:///nowhere.sock"

    def __init__(self, checkout: str, keys: Mapping[str, str]) -> None:
        self.removed: list[str] = []
        self._layers = {
            key: Image(
                id=key,
                size_bytes=1,
                tags=(f"{LAYERS}:{key}",),
                labels={CHECKOUT_LABEL: checkout},
                created=number,
            )
            for number, key in enumerate(keys.values())
        }

    def layers(self) -> Mapping[str, Image]:
        return self._layers

    def images(self) -> list[Image]:
        return list(self._layers.values())

    def containers(self, label: str) -> list[dict[str, object]]:
        return []

    def remove_image(self, reference: str) -> None:
        self.removed.append(reference)


@pytest.mark.parametrize("before", range(1, plan.FORMAT))
def test_removes_layers_with_keys_of_an_older_format(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: int
) -> None:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    current = repository.keys()
    with monkeypatch.context() as older:
        older.setattr(plan, "FORMAT", before)
        old = repository.keys()
    assert not set(old.values()) & set(current.values())
    checkout = find_workspace(repository.root).checkout
    engine = FakeEngine(checkout, {**old, **{f"now {name}": key for name, key in current.items()}})
    monkeypatch.setattr(clean, "Engine", lambda: engine)
    assert clean.run(["--root", str(repository.root), "--yes"]) == 0
    assert set(engine.removed) == {f"{LAYERS}:{key}" for key in old.values()}
