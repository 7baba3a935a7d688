"""A flipped byte in a cached file: the file is created again, or a single build ends with exit code 7."""

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from builder.adapters.ansible import controller, parsed_settings, playbook, runtime
from builder.adapters.container.maker import LayerMaker
from builder.adapters.engine.client import Engine, Image
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.adapters.upstream.mirror import Mirror
from builder.errors import IntegrityError
from builder.events import OnBytes, Stream, ignore_bytes
from builder.marks import KEY_LABEL
from builder.model import Layer, Plan
from tests.support.repository import Repository
from tests.support.wheels import make_wheel

SOURCE = "WORD = 'hello'\n"
HERE = Path(__file__).resolve().parents[2]
# Folder below `cache` in BUILDER_HOME → test that flips bytes in the files of this folder.
TESTS = {
    "apt": "tests/adapters/test_packages.py::test_a_flipped_byte_in_the_store_leads_to_a_new_download",
    "blobs": "tests/unit/test_registry_blobs.py::test_a_flipped_bit_in_the_store_never_changes_the_image",
    "modules": "tests/unit/test_kernel_modules.py::"
    "test_damaged_archive_or_digest_in_the_cache_leads_to_a_new_build",
    "packer-plugins": "tests/adapters/test_packer_plugins.py::"
    "test_downloads_an_archive_once_and_again_if_it_is_damaged",
    "parsed": "tests/unit/test_parsed.py::test_a_damaged_or_foreign_cache_is_replaced",
    "pip": "tests/unit/test_ansible_venv.py::test_a_damaged_wheel_in_the_cache_is_downloaded_again",
    "runtime": "tests/unit/test_caches.py::test_a_flipped_byte_in_the_ansible_runtime_is_detected",
    "variables": "tests/unit/test_caches.py::test_damaged_cached_role_variables_are_evaluated_again",
}
UNVERIFIED = {"fence"}  # files are written before each use


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as opened:
        yield opened


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_every_cache_has_a_test_that_flips_bytes() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (HERE / "builder").rglob("*.py")]
    used = {name for text in texts for name in re.findall(r'\.cache\("([^"]+)"', text)}
    assert used | {"blobs", "modules"} == TESTS.keys() | UNVERIFIED
    for test in TESTS.values():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (HERE / path).read_text(encoding="utf-8")


@pytest.fixture
def install(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Function that installs the Ansible runtime as a new process would, with two files instead of pip."""

    def write(_run: Run, _lock: Path, folder: Path, **_: object) -> None:
        (folder / "greet-1.0.dist-info").mkdir(parents=True)
        (folder / "greet.py").write_text(SOURCE)
        (folder / "greet-1.0.dist-info/RECORD").write_text("greet.py,,\n")

    monkeypatch.setattr(runtime, "_install", write)
    lock = tmp_path / "requirements.lock"
    lock.write_text("greet==1.0\n")

    def folder_of() -> Path:
        runtime._intact.clear()
        return runtime.folder_of(run, lock, python="3.11", arch="x86_64")

    return folder_of


def compiled(run: Run, install: Callable[[], Path]) -> Path:
    folder = install()

    def compile_in() -> None:
        (folder / "greet.pyc").write_bytes(b"code")
        (folder / parsed_settings.NAME).touch()

    runtime.ensure_compiled(run, folder, compile_in)
    return folder


def test_a_flipped_byte_in_the_ansible_runtime_is_detected(run: Run, install: Callable[[], Path]) -> None:
    folder = compiled(run, install)
    record = folder.with_name(f"{folder.name}.sha256")
    files = [path for path in (*folder.rglob("*"), record) if path.is_file() and path.stat().st_size]
    assert {"greet.py", "greet.pyc", "RECORD", record.name} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            flip(path, position)
            assert not runtime._is_intact(folder), (path, position)
            path.write_bytes(content)
        assert runtime._is_intact(folder)


def _deleted(folder: Path) -> None:
    shutil.rmtree(folder)


def _emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _changed(folder: Path) -> None:
    flip(folder / "greet.py", 0)


def _extended(folder: Path) -> None:
    (folder / "ansible.py").write_text("raise SystemExit(0)")


def _linked(folder: Path) -> None:
    (folder / "greet.py").unlink()
    (folder / "greet.py").symlink_to("/etc/hostname")


def _without_record(folder: Path) -> None:
    folder.with_name(f"{folder.name}.sha256").unlink()


DAMAGES = [_deleted, _emptied, _changed, _extended, _linked, _without_record]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_ansible_runtime_is_installed_again(
    run: Run, install: Callable[[], Path], damage: Callable[[Path], None]
) -> None:
    folder = compiled(run, install)
    damage(folder)
    assert install() == folder
    assert (folder / "greet.py").read_text() == SOURCE
    assert sorted(path.name for path in folder.iterdir()) == ["greet-1.0.dist-info", "greet.py"]
    assert runtime._is_intact(folder)


def test_an_intact_ansible_runtime_is_not_installed_again(
    run: Run, install: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = compiled(run, install)
    monkeypatch.setattr(runtime, "_install", lambda *_, **__: pytest.fail("installed again"))
    assert install() == folder
    runtime.ensure_compiled(run, folder, lambda: pytest.fail("compiled again"))


def test_a_vendor_image_has_its_own_copy_of_the_ansible_runtime(
    run: Run, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python in a vendor's image could write malicious byte code, which the host must not run."""

    def write(_run: Run, _lock: Path, folder: Path, **_: object) -> None:
        folder.mkdir(parents=True)

    monkeypatch.setattr(runtime, "_install", write)
    plan = repository.plan()
    host = runtime.folder_of(
        run,
        repository.root / "ansible/requirements.lock",
        python=plan.system.python,
        arch=plan.arch,
    )
    assert playbook.prepare(run, repository.root, plan) == host
    vendor = dataclasses.replace(plan, base_image=f"vendor/image@sha256:{'0' * 64}")
    newer = dataclasses.replace(
        vendor, layers=(dataclasses.replace(plan.layers[0], key="f" * 64), *plan.layers[1:])
    )
    folders = [playbook.prepare(run, repository.root, each) for each in (vendor, newer)]
    folders.append(playbook.prepare(run, repository.root, plan, compiler="image:given"))
    assert len({host, *folders}) == 4


def test_a_wheel_of_the_runtime_that_does_not_match_the_lock_ends_with_exit_code_7(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels, lock = tmp_path / "wheels", tmp_path / "requirements.lock"
    lock.write_text(f"greet==1.0 --hash=sha256:{make_wheel(wheels)}\n")
    (wheel,) = wheels.iterdir()
    flip(wheel, wheel.read_bytes().index(b"hello"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    with pytest.raises(IntegrityError) as caught:
        runtime.folder_of(run, lock, python="3.11", arch="x86_64")
    assert caught.value.exit_code == 7


@dataclass
class FakeEngine:
    """Fake engine that has layers and no other images."""

    keys: set[str] = field(default_factory=set)

    def layers(self) -> dict[str, Image]:
        return {
            key: Image(id=key, size_bytes=1, tags=(key,), labels={KEY_LABEL: key}, created=0)
            for key in self.keys
        }

    def connect(self) -> None: ...

    def tag(self, *_: str) -> None: ...


@dataclass
class DamagedCache:
    """Fake registry cache that claims to have the layers of `keys`, whose download fails."""

    keys: set[str]
    kept: list[str] = field(default_factory=list)

    def has(self, key: str) -> bool:
        return key in self.keys

    def fetch(self, key: str, on_bytes: OnBytes = ignore_bytes) -> bool:
        self.keys.discard(key)
        return False

    def keep(self, key: str) -> None:
        self.kept.append(key)


@pytest.mark.parametrize("damaged", [(3,), (1, 3), (0, 1, 2, 3), (2,), (0,)])
def test_a_damaged_layer_of_the_registry_cache_and_the_layers_below_are_built(
    run: Run, repository: Repository, monkeypatch: pytest.MonkeyPatch, damaged: tuple[int, ...]
) -> None:
    plan, engine, made = repository.plan(), FakeEngine(), list[str]()
    layers = [layer.key for layer in plan.layers]
    assert len(layers) == 4

    class Maker(LayerMaker):
        def _make_layer(self, plan: Plan, layer: Layer, step: str) -> None:
            del plan, step
            assert not layer.parent or layer.parent in engine.keys
            made.append(layer.key)
            engine.keys.add(layer.key)

    monkeypatch.setattr(playbook, "prepare", lambda *_: None)
    cache = DamagedCache({layers[number] for number in damaged})
    maker = Maker(
        engine=cast(Engine, engine),
        run=run,
        root=repository.root,
        events=Stream(),
        jobs=1,
        mirror=lambda _: Mirror(),
        cache=cache,
        last_layers=lambda _: {},
    )
    try:
        assert maker.make(plan).reference == layers[-1]
    finally:
        maker.close()
    assert made == layers
    assert layers[-1] in cache.kept


def test_damaged_cached_role_variables_are_evaluated_again(
    run: Run, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"base_user": "ml", "base_ports": [22, 80]}
    evaluated: list[Plan] = []

    def evaluate(_run: Run, _root: Path, plan: Plan, _folder: Path) -> str:
        evaluated.append(plan)
        return json.dumps(values)

    monkeypatch.setattr(controller, "_evaluate", evaluate)
    monkeypatch.setattr(controller, "require_unchanged", lambda *_: None)
    plan, root = repository.plan(), repository.root
    shutil.copy(HERE / "ansible/expected.yml", root / "ansible/expected.yml")
    assert controller.evaluate_variables(run, root, plan) == values
    (path,) = run.workspace.cache("variables").iterdir()
    content = path.read_bytes()
    positions = range(0, len(content), 7)
    for position in positions:
        flip(path, position)
        assert controller.evaluate_variables(run, root, plan) == values
        assert path.read_bytes() == content
    assert len(evaluated) == 1 + len(positions)
