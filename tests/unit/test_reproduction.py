"""`builder build --reproduce`: differences between two builds with the same layer keys."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import IO, Any

import pytest

from builder.adapters.container.differences import differences
from builder.app import reproduction
from builder.cli.main import main
from builder.model import Plan
from tests.support.repository import Repository

Files = Mapping[str, tuple[str, int]]  # content and time by name


def tar_of(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, (text, time) in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(text), time
            tar.addfile(member, io.BytesIO(text))
    return content.getvalue()


class Engine:
    """Fake engine whose images are lists of layers, exported in the format of Docker Engine 20.10."""

    def __init__(self, images: Mapping[str, Sequence[Files]], **settings: object) -> None:
        self._images, self._settings = images, settings

    def inspect_image(self, image: str) -> dict[str, Any]:
        layers = [json.dumps(layer) for layer in self._images[image]]
        return {"RootFS": {"Layers": layers}, "Config": self._settings.get(image, {})}

    @contextmanager
    def export(self, image: str) -> Iterator[IO[bytes]]:
        names = [f"{number}/layer.tar" for number in range(len(self._images[image]))]
        members = {
            name: (tar_of({path: (text.encode(), time) for path, (text, time) in layer.items()}), 0)
            for name, layer in zip(names, self._images[image], strict=True)
        }
        members["0/json"] = (b"{}", 0)
        members["manifest.json"] = (json.dumps([{"Layers": names}]).encode(), 0)
        yield io.BytesIO(tar_of(members))


BASE: Files = {"bin/sh": ("x", 0)}
LAYERS: list[Files] = [BASE, BASE, {"etc/a": ("1", 5), "etc/b": ("1", 5), "etc/c": ("1", 5)}, {}, {}]


@pytest.mark.parametrize(
    ("second", "settings", "found"),
    [
        (
            [BASE, BASE, {"etc/a": ("2", 5), "etc/b": ("1", 6), "etc/d": ("1", 5)}, {"x": ("1", 1)}, {}],
            {},
            [
                "layer system: /etc/a: content",
                "layer system: /etc/b: time",
                "layer system: /etc/c: only in the first build",
                "layer system: /etc/d: only in the second build",
                "layer final: /x: only in the second build",
            ],
        ),
        (LAYERS, {"two": {"Env": ["A=1"]}}, ["configuration: Config"]),
        (
            [*LAYERS[:2], dict(reversed(LAYERS[2].items())), *LAYERS[3:]],
            {},
            ["the order of the files in a layer"],
        ),
    ],
)
def test_names_the_files_and_settings_that_differ(
    repository: Repository, second: list[Files], settings: dict[str, object], found: list[str]
) -> None:
    engine: Any = Engine({"one": LAYERS, "two": second}, **settings)
    plan = repository.plan()
    assert len(LAYERS) == len(plan.layers) + 1, "the base has two layers"
    assert differences(engine, plan, "one", "two") == found
    assert differences(engine, plan, "one", "one") == []


@pytest.mark.parametrize(
    ("lines", "code", "out"),
    [([], 0, "sha256:2\n"), (["layer final: /x: time"], 1, "hello: layer final: /x: time\n")],
)
def test_reproduce_builds_all_layers_twice_and_prints_the_image_or_differences(
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lines: list[str],
    code: int,
    out: str,
) -> None:
    rebuilt: list[tuple[str, ...]] = []

    def build(context: object, plans: list[Plan], request: Any) -> list[object]:
        rebuilt.append(request.rebuild)
        artifact = SimpleNamespace(reference=f"sha256:{len(rebuilt)}", kind="container", layers=())
        return [SimpleNamespace(artifact=artifact, plan=plans[0])]

    monkeypatch.setattr(reproduction, "build", build)
    monkeypatch.setattr(reproduction, "differences", lambda *_: lines)
    monkeypatch.setattr("builder.cli.build._show", lambda *_: None)
    assert main(["build", "hello", "--reproduce", "--root", str(repository.root)]) == code
    assert rebuilt == [("base", "system", "final", "workload")] * 2
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("option", ["--all", "--publish", "--dry-run", "--rebuild=final"])
def test_option_reproduce_excludes_other_options(
    repository: Repository, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    words = ["build", "--reproduce", option, "--root", str(repository.root)]
    assert main(words if option == "--all" else [*words, "hello"]) == 2
    assert f"--reproduce is not allowed with {option.partition('=')[0]}" in capsys.readouterr().err
