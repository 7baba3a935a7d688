"""scripts/images.py: the selection of images, the layers that may be removed, and the rows of the table."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from builder.app.context import Context
from builder.errors import UsageError
from tests.support.repository import Repository, flavour


@pytest.fixture(scope="module")
def images(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("images", root / "scripts" / "images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def context(repository: Repository) -> Context:
    path = repository.root / "catalog/targets/hello.toml"
    path.write_text(path.read_text() + flavour("tiny-1", "plain-1", "wide"), encoding="utf-8")
    repository.write("catalog/aliases.toml", '[aliases]\nHi = "hello"\n')
    return Context(repository.root, arch="x86_64")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["hello@plain", "hello@wide"]),
        (["hello"], ["hello@plain", "hello@wide"]),
        (["Hi@wide"], ["hello@wide"]),
    ],
)
def test_images_are_selected_by_target_and_flavour(
    images: ModuleType, context: Context, words: list[str], names: list[str]
) -> None:
    assert [images.name_of(plan) for plan in images.selected(context, words)] == names


@pytest.mark.parametrize("word", ["helo", "hello@no"])
def test_an_unknown_image_is_refused(images: ModuleType, context: Context, word: str) -> None:
    with pytest.raises(UsageError, match=r"no (target|container)"):
        images.selected(context, [word])


def test_layers_are_kept_until_no_later_image_needs_them(images: ModuleType, context: Context) -> None:
    (plan,) = images.selected(context, ["hello@plain"])
    keys = [layer.key for layer in plan.layers]
    assert images.removable(keys, keys, [plan]) == set()
    assert images.removable(keys[1:], [*keys, "another"], []) == set(keys[1:])
    assert images.removable([*keys, "gone"], keys, []) == set(keys)


def test_reason_against_an_image_names_its_unlocked_inputs(
    images: ModuleType, context: Context, repository: Repository
) -> None:
    repository.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    (plan,) = images.selected(context, ["hello@plain"])
    reason = images.reason_against(plan)
    assert "not locked: requirements containers/hello/requirements.lock" in reason
    assert reason.endswith("builder lock hello")


def test_table_rows_have_a_cell_for_every_header(images: ModuleType) -> None:
    done = {
        "target": "hello",
        "flavour": "cpu",
        "outcome": "passed",
        "passed": 12,
        "skipped": 1,
        "cold_s": 61.0,
        "warm_s": 0.5,
        "size_bytes": 1_240_000_000,
        "why": "",
    }
    assert images.line(done) == ("hello", "cpu", "passed", "12", "1", "1 min 01 s", "500 ms", "1.24 GB", "")
    refused = {"target": "hello", "flavour": "efa", "outcome": "unproven", "why": "not locked"}
    assert len(images.line(refused)) == len(images.HEADERS)


@pytest.mark.parametrize(
    "differences", [[], ["layer system: /etc/now: content", "layer system: /etc/x: time"]]
)
def test_an_image_with_two_different_builds_has_failed(
    images: ModuleType,
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    differences: list[str],
) -> None:
    calls: list[list[str]] = []

    def call(words: list[str]) -> dict[str, object]:
        calls.append(words)
        result = {
            "checks": {"passed": 1, "skipped": 0},
            "seconds": 1.0,
            "layers": [],
            "differences": differences,
        }
        return {"error": None, "exit_code": 0, "seconds": 1.0, "result": [result]}

    monkeypatch.setattr(images, "_call", call)
    monkeypatch.setattr(images, "_size", lambda key: 1)
    row = images.build(repository.root, repository.plan(), reproduce=True)
    assert ["--reproduce" in words for words in calls] == [True, False]
    assert (row["outcome"], row["reproduced"]) == (("failed", False) if differences else ("passed", True))
    expected = "2 differences between two builds: layer system: /etc/now: content" if differences else ""
    assert row["why"] == expected
