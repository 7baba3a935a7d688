"""Publish to a registry by digest, without repeated uploads and despite faults of the registry."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.registry.client import Registry
from builder.rehearsal.registry.server import Fault, LocalRegistry
from tests.support.factory import Factory

pytestmark = [pytest.mark.engine, pytest.mark.e2e]


class Switch:
    """Fault of the registry that a test can turn on and off; records all push requests."""

    def __init__(self) -> None:
        self.pattern = ""
        self.fault = Fault()
        self.pushed: list[str] = []

    def __call__(self, method: str, path: str) -> Fault | None:
        request = f"{method} {path}"
        if method in ("PUT", "POST"):
            self.pushed.append(request)
        return self.fault if self.pattern and re.search(self.pattern, request) else None


@pytest.fixture
def switch() -> Switch:
    return Switch()


@pytest.fixture
def registry(tmp_path: Path, switch: Switch) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path / "registry", faults=switch) as serving:
        yield serving


@pytest.fixture
def publishing(built: Factory, registry: LocalRegistry) -> Factory:
    built.repository.write("site.toml", f'[registry]\npush = "{registry.host}/images"\n')
    return built


def publish(factory: Factory) -> tuple[int, str, str]:
    done = factory.call("build", "--target", "hello", "--publish")
    return done.code, done.stdout, done.stderr


def test_stdout_is_a_digest_reference_that_the_engine_can_pull(
    publishing: Factory, registry: LocalRegistry
) -> None:
    code, name, stderr = publish(publishing)
    assert code == 0, stderr
    assert re.fullmatch(rf"{registry.host}/images/hello@sha256:[0-9a-f]{{64}}\n", name)
    image = publishing.engine.inspect_image(f"factory-layers:{publishing.repository.keys()['workload']}")
    publishing.engine.pull(name.strip())
    pulled = publishing.engine.inspect_image(name.strip())
    assert image
    assert pulled
    assert pulled["Id"] == image["Id"]
    publishing.engine.remove_image(name.strip())


def test_publishing_again_uploads_nothing(publishing: Factory, switch: Switch) -> None:
    first = publish(publishing)
    switch.pushed.clear()
    assert publish(publishing)[:2] == first[:2]
    assert switch.pushed == []


def test_a_rebuild_in_another_folder_has_the_same_digest_and_uploads_nothing(
    publishing: Factory, switch: Switch, tmp_path: Path
) -> None:
    """The second build has other paths, another run name and no stored compressed layers."""
    first, before = publish(publishing), publishing.engine.layers()
    switch.pushed.clear()
    copy = publishing.copy(tmp_path / "elsewhere")
    copy.home = tmp_path / "home"
    for name in ("runtime", "apt"):
        shutil.copytree(publishing.home / "cache" / name, copy.home / "cache" / name)
    shutil.rmtree(copy.out)
    build = copy.build("hello", "--publish", "--rebuild", "system")
    assert build.code == 0, build.stderr
    made = {
        name: copy.repository.keys()[name] for name, outcome in build.outcomes.items() if outcome == "built"
    }
    assert set(made) == {"system", "final", "workload"}
    after = copy.engine.layers()
    assert {name: after[key].id for name, key in made.items()} == {
        name: before[key].id for name, key in made.items()
    }
    assert json.loads(build.stdout.splitlines()[-1])["result"][0]["name"] == first[1].strip()
    assert switch.pushed == []


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(close_after_bytes=100)], ids=["answers-500", "closes-mid-upload"]
)
def test_after_a_failed_push_only_the_push_is_repeated(
    publishing: Factory, switch: Switch, fault: Fault
) -> None:
    switch.pattern, switch.fault = r"PUT .*/blobs/uploads/", fault
    code, name, stderr = publish(publishing)
    assert (code, name) == (6, "")
    assert "hint: " in stderr
    assert publishing.containers() == []
    switch.pattern = ""
    before = len(publishing.run_names())
    build = publishing.build("--target", "hello", "--publish")
    assert build.code == 0, build.stderr
    assert build.outcomes["publish"] == "pushed"
    assert set(build.outcomes.values()) == {"reused", "pushed"}
    assert len(publishing.run_names()) == before + 1


def test_pulls_the_topmost_layer_that_the_registry_cache_has(
    factory: Factory, registry: LocalRegistry
) -> None:
    factory.repository.write("site.toml", f'[registry]\ncache = "{registry.host}/layers"\n')
    assert factory.build().code == 0
    for layer in ("workload", "final", "system"):
        factory.remove_layer(layer)
    factory.repository.replace("containers/hello/src/hello.py", "hello", "good day")
    build = factory.build()
    assert build.code == 0, build.stderr
    # Layers below the pulled layer count as reused without a request to the registry.
    assert [build.outcomes[name] for name in ("system", "final", "workload")] == ["reused", "pulled", "built"]


def test_rebuilds_a_layer_for_which_the_registry_cache_has_a_layer_with_another_key(
    factory: Factory, registry: LocalRegistry
) -> None:
    factory.repository.write("site.toml", f'[registry]\ncache = "{registry.host}/layers"\n')
    assert factory.build().code == 0
    final, workload = (f"cache-{factory.repository.keys()[name]}" for name in ("final", "workload"))
    for layer in ("workload", "final"):
        factory.remove_layer(layer)
    with Registry(registry.host) as client:
        planted = client.get_manifest("layers", final)
        assert planted is not None
        client.put_manifest("layers", workload, planted[0])
        build = factory.build()
        assert build.code == 0, build.stderr
        assert [build.outcomes[name] for name in ("final", "workload")] == ["pulled", "built"]
        assert client.find_manifest("layers", workload) != planted[1]
