"""Faults during a build give a hint and the documented exit code, and the next build succeeds."""

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


def assert_fails(build: Build, code: int, *messages: str) -> None:
    assert build.code == code, build.stderr
    for message in messages:
        assert message in build.stderr
    assert "hint: " in build.stderr
    assert "Traceback" not in build.stderr


def assert_recovers(factory: Factory) -> None:
    """Assert that the failed build left nothing behind and the next build succeeds."""
    assert factory.containers() == []
    assert factory.untagged() == []
    assert factory.scratch() == []
    build = factory.build()
    assert build.code == 0, build.stderr


@pytest.mark.usefixtures("one_layer")
def test_reports_a_full_disk_during_commit(factory: Factory, tmp_path: Path) -> None:
    fault = Fault(r"POST \S*/commit", status=500, message="write /layer.tar: no space left on device")
    with engine_with(fault, tmp_path) as url:
        build = factory.build(DOCKER_HOST=url)
    assert_fails(build, 4, "the disk of the engine is full", "no space left on device", "builder clean")
    assert factory.repository.keys()["system"] not in factory.engine.layers()
    assert_recovers(factory)


@pytest.mark.usefixtures("one_layer")
@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"POST \S*/containers/create", marks=pytest.mark.boundaries),
        r"GET \S*/logs",
        pytest.param(r"POST \S*/commit", marks=pytest.mark.boundaries),
        pytest.param(r"POST \S*/build\?", marks=pytest.mark.boundaries),
    ],
)
def test_reports_an_engine_that_stops_during_a_build(factory: Factory, tmp_path: Path, pattern: str) -> None:
    with engine_with(Fault(pattern, forever=True), tmp_path) as url:
        build = factory.build(DOCKER_HOST=url)
    assert_fails(build, 3, "the engine", "start the engine")
    # The next build removes the containers of the dead run.
    assert factory.build().code == 0
    assert factory.containers() == []


def test_reports_a_missing_engine(factory: Factory, tmp_path: Path) -> None:
    assert_fails(
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
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/debian"
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("one_layer")
def test_error_names_the_mirror_that_lacks_a_package(factory: Factory, empty_mirror: str) -> None:
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
    assert_fails(
        factory.build(), 4, "the package mirror lacks a requested package", "mirror.apt in site.toml"
    )
    factory.repository.write(tasks, before)
    assert_recovers(factory)


def test_refuses_a_wheel_with_a_wrong_hash(built: Factory, root: Path, tmp_path: Path) -> None:
    right = make_wheel(tmp_path / "wheels")
    built.use_role(root, "python_env", 'summary = "venv"\nlayer = "final"\nrequirements = "stack"\n')
    built.use_role(
        root,
        "workload_env",
        'summary = "venv"\nlayer = "final"\nrequires = ["python_env"]\nrequirements = "workload"\n',
    )
    built.repository.write("site.toml", f'[mirror]\npip_find_links = ["{tmp_path / "wheels"}"]\n')
    build = built.build()
    assert_fails(build, 7, "does not match its locked hash", "0" * 64, right)
    built.repository.replace("containers/hello/requirements.lock", "0" * 64, right)
    built.repository.relock()
    assert_recovers(built)
    image = f"factory-layers:{built.repository.keys()['workload']}"
    output = built.in_image(image, "/opt/venv/bin/python", "-c", "import greet; print(greet.WORD)")
    assert output.strip() == "hello"
    assert str(tmp_path) not in built.in_image(
        image, "sh", "-c", "cat /opt/venv/pyvenv.cfg; env; cat /etc/pip.conf || :"
    )


def edit_lock(factory: Factory, want: Want, **values: str) -> str:
    """Change or, without values, remove an entry of the lock file; return the previous text of the file."""
    path = factory.repository.root / lock.LOCK_PATH
    before = path.read_text()
    found = lock.read(factory.repository.root)
    entries = dict(found.entries)
    old = entries.pop(want)
    if values:
        entries[want] = lock.Entry(values={**old.values, **values}, verified=True)
    path.write_text(lock.to_text(lock.Lock(entries=entries, inputs=found.inputs)))
    return before


def test_refuses_to_build_without_a_lock_entry(factory: Factory) -> None:
    edit_lock(factory, Want("suite", "debian bookworm-updates"))
    build = factory.build()
    assert_fails(build, 7, "suite debian bookworm-updates (system debian-12)", "builder lock")
    assert build.events == []


@pytest.mark.boundaries  # test_suites proves the refusal without building a base image
def test_refuses_a_changed_package_archive(built: Factory) -> None:
    before = edit_lock(built, Want("suite", "debian bookworm"), sha256="0" * 64, date="2001-01-01T00:00:00Z")
    key = built.repository.keys()["base"]
    build = built.build()
    assert_fails(
        build,
        7,
        "suite debian bookworm differs from catalog/lock.json",
        f"expected  sha256 {'0' * 64}",
        "/dists/bookworm/InRelease",
        "builder lock --update 'suite debian bookworm'",
    )
    assert key not in built.engine.layers()
    (built.repository.root / lock.LOCK_PATH).write_text(before)
    assert_recovers(built)


@pytest.mark.boundaries  # test_suites proves the note without building a base image
def test_notes_newer_updates_in_the_package_archive(factory: Factory) -> None:
    """Update suites change every day, so the build prints a note and continues."""
    want = Want("suite", "debian bookworm-security")
    edit_lock(factory, want, sha256="0" * 64, date="2001-01-01T00:00:00Z")
    build = factory.build()
    assert build.code == 0, build.stderr
    notes = [event["text"] for event in build.events if event["name"] == "note"]
    (note,) = (text for text in notes if "has changed since it was locked" in text)
    assert note.startswith("debian-12: ")
    assert "bookworm-security (2001-01-01T00:00:00Z → 20" in note


@pytest.mark.parametrize(
    ("file", "old", "new", "messages"),
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
            ("dependency cycle: base → base",),
        ),
    ],
)
def test_refuses_an_invalid_catalog(
    factory: Factory, file: str, old: str, new: str, messages: tuple[str, ...]
) -> None:
    factory.repository.replace(file, old, new)
    assert_fails(factory.build(), 2, *messages)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUNX true", ":4: unknown instruction: RUNX"),
        ("RUN false", ":4: RUN false: The command '/bin/sh -c false' returned a non-zero code: 1"),
    ],
)
def test_error_names_the_failing_line_of_a_dockerfile(built: Factory, line: str, message: str) -> None:
    path = "containers/hello/Dockerfile"
    before = (built.repository.root / path).read_text()
    built.repository.write(path, f"{before}{line}\n")
    assert_fails(built.build(), 4, f"{path}{message}", f"correct {path}")
    built.repository.write(path, before)
    assert_recovers(built)


def test_suggests_a_target_for_a_misspelt_name(factory: Factory) -> None:
    assert_fails(
        factory.build("--target", "helo"), 2, "no target 'helo' (did you mean 'hello'?)", "builder list"
    )


def test_keeps_the_image_if_the_registry_is_unreachable(built: Factory) -> None:
    built.repository.write("site.toml", '[registry]\npush = "127.0.0.1:1/images"\n')
    build = built.build("--target", "hello", "--publish")
    assert_fails(build, 3, "127.0.0.1:1")
    assert set(built.build().outcomes.values()) == {"reused"}
