"""What goes wrong around a build: one clear message, a hint, an exit code of its own, and nothing lost."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import lock
from builder.lock import Want
from tests.support.engine_proxy import Fault, engine_with
from tests.support.factory import Build, Factory
from tests.support.wheels import make_wheel

pytestmark = [pytest.mark.engine, pytest.mark.e2e]


def says(build: Build, code: int, *words: str) -> None:
    assert build.code == code, build.stderr
    for word in words:
        assert word in build.stderr
    assert "hint: " in build.stderr
    assert "Traceback" not in build.stderr


def clean_and_well(factory: Factory) -> None:
    """Nothing is left of the build that failed, and the next one succeeds."""
    assert factory.containers() == []
    assert factory.untagged() == []
    assert factory.scratch() == []
    build = factory.build()
    assert build.code == 0, build.stderr


def test_disk_full_while_a_layer_is_stored(factory: Factory, tmp_path: Path) -> None:
    fault = Fault(r"POST \S*/commit", status=500, message="write /layer.tar: no space left on device")
    with engine_with(fault, tmp_path) as url:
        build = factory.build(DOCKER_HOST=url)
    says(build, 4, "the disk of the engine is full", "no space left on device", "builder clean")
    assert factory.repository.keys()["system"] not in factory.engine.layers()
    clean_and_well(factory)


@pytest.mark.parametrize(
    "pattern", [r"POST \S*/containers/create", r"GET \S*/logs", r"POST \S*/commit", r"POST \S*/build\?"]
)
def test_engine_stopped_in_the_middle(factory: Factory, tmp_path: Path, pattern: str) -> None:
    with engine_with(Fault(pattern, forever=True), tmp_path) as url:
        build = factory.build(DOCKER_HOST=url)
    says(build, 3, "the engine", "start it")
    # What the stopped engine still held is removed by the next build, because the run is known to be dead.
    assert factory.build().code == 0
    assert factory.containers() == []


def test_no_engine_at_all(factory: Factory, tmp_path: Path) -> None:
    says(
        factory.build(DOCKER_HOST=f"unix://{tmp_path}/none.sock"),
        3,
        "no answer from the engine",
        "builder doctor",
    )


class _NotFound(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def empty_mirror() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _NotFound)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/debian"
    server.shutdown()
    server.server_close()


def test_a_mirror_that_lacks_a_package(factory: Factory, empty_mirror: str) -> None:
    assert factory.build().code == 0  # the base does not come from the broken mirror
    factory.repository.write("site.toml", f'[mirror]\napt = "{empty_mirror}"\n')
    tasks = "ansible/roles/base/tasks/main.yml"
    install = """
        - name: Install a package
          ansible.builtin.include_tasks: "../../../tasks/install_{{ system_family }}.yml"
          vars:
            install_packages: [hello]
    """
    before = (factory.repository.root / tasks).read_text()
    factory.repository.write(tasks, install)
    says(factory.build(), 4, "the package mirror lacks what it asked for", "mirror.apt in site.toml")
    factory.repository.write(tasks, before)
    clean_and_well(factory)


def test_a_wheel_that_is_not_the_locked_one(factory: Factory, root: Path, tmp_path: Path) -> None:
    right = make_wheel(tmp_path / "wheels")
    factory.use_role(root, "python_env", 'summary = "venv"\nlayer = "final"\nrequirements = "stack"\n')
    factory.use_role(
        root,
        "workload_env",
        'summary = "venv"\nlayer = "final"\nrequires = ["python_env"]\nrequirements = "workload"\n',
    )
    factory.repository.write("site.toml", f'[mirror]\npip_find_links = ["{tmp_path / "wheels"}"]\n')
    build = factory.build()
    says(build, 7, "does not match its locked hash", "0" * 64, right)
    factory.repository.replace("containers/hello/requirements.lock", "0" * 64, right)
    factory.repository.relock()
    clean_and_well(factory)
    image = f"factory-layers:{factory.repository.keys()['workload']}"
    said = factory.in_image(image, "/opt/venv/bin/python", "-c", "import greet; print(greet.WORD)")
    assert said.strip() == "hello"
    assert str(tmp_path) not in factory.in_image(
        image, "sh", "-c", "cat /opt/venv/pyvenv.cfg; env; cat /etc/pip.conf || :"
    )


def edit_lock(factory: Factory, want: Want, **values: str) -> str:
    """Changes an entry of the lock, or removes it; returns what the file was."""
    path = factory.repository.root / lock.LOCK_PATH
    before = path.read_text()
    found = lock.read(factory.repository.root)
    entries = dict(found.entries)
    old = entries.pop(want)
    if values:
        entries[want] = lock.Entry(values={**old.values, **values}, verified=True)
    path.write_text(lock.to_text(lock.Lock(entries=entries, inputs=found.inputs)))
    return before


def test_a_build_without_an_entry_in_the_lock(factory: Factory) -> None:
    edit_lock(factory, Want("suite", "debian bookworm-updates"))
    build = factory.build()
    says(build, 7, "suite debian bookworm-updates (system debian-12)", "builder lock")
    assert build.events == []


def test_a_package_archive_in_another_state(factory: Factory) -> None:
    before = edit_lock(
        factory, Want("suite", "debian bookworm"), sha256="0" * 64, date="2001-01-01T00:00:00Z"
    )
    key = factory.repository.keys()["base"]
    build = factory.build()
    says(
        build,
        7,
        "suite debian bookworm is not what catalog/lock.json says",
        f"expected  sha256 {'0' * 64}",
        "/dists/bookworm/InRelease",
        "builder lock --update debian-12",
    )
    assert key not in factory.engine.layers()
    (factory.repository.root / lock.LOCK_PATH).write_text(before)
    clean_and_well(factory)


def test_updates_of_the_package_archive_that_moved_on(factory: Factory) -> None:
    """They do so every day: a build says it once and goes on."""
    want = Want("suite", "debian bookworm-security")
    edit_lock(factory, want, sha256="0" * 64, date="2001-01-01T00:00:00Z")
    build = factory.build()
    assert build.code == 0, build.stderr
    notes = [event["text"] for event in build.events if event["name"] == "note"]
    (note,) = (text for text in notes if "has moved on since it was locked" in text)
    assert note.startswith("debian-12: ")
    assert "bookworm-security (2001-01-01T00:00:00Z → 20" in note


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        (
            "catalog/targets/hello.toml",
            '"plain-1"',
            '"plain-9"',
            ("no stack 'plain-9'", "did you mean 'plain-1'?"),
        ),
        ("catalog/targets/hello.toml", "workload =", "wokload =", ("wokload: unknown key",)),
        (
            "catalog/components/base.toml",
            'layer = "system"',
            'layer = "system"\nrequires = ["base"]',
            ("goes in a circle: base → base",),
        ),
    ],
)
def test_a_catalog_that_contradicts_itself(
    factory: Factory, file: str, old: str, new: str, words: tuple[str, ...]
) -> None:
    factory.repository.replace(file, old, new)
    says(factory.build(), 2, *words)


def test_a_target_that_does_not_exist(factory: Factory) -> None:
    says(factory.build("--target", "helo"), 2, "no target 'helo' (did you mean 'hello'?)", "builder list")


def test_a_registry_that_is_not_there(factory: Factory) -> None:
    factory.repository.write("site.toml", '[registry]\npush = "127.0.0.1:1/images"\n')
    build = factory.build("--target", "hello", "--publish")
    says(build, 3, "127.0.0.1:1")
    # Nothing is lost: the image and its checks are there for the next try.
    assert set(factory.build().outcomes.values()) == {"reused"}
