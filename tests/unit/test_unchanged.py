"""A repeated build prints recorded output only if inputs, images, arguments and environment are equal."""

import json
import os
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cli import unchanged

ARGV = ["hello"]
REFERENCE = "factory-layers:key"
TEXTS = {"stdout": "sha256:1\n", "stderr": "  hello is ready\n"}


class _Engine(socketserver.ThreadingUnixStreamServer):
    """Fake engine that answers image look-ups by reference."""

    daemon_threads = True
    images: dict[str, dict[str, object]]


class _Handler(socketserver.StreamRequestHandler):
    server: _Engine

    def handle(self) -> None:
        target = self.rfile.readline().split()[1].decode()
        image = self.server.images.get(target.removeprefix("/images/").removesuffix("/json"))
        status = "200 OK" if image else "404 Not Found"
        self.wfile.write(f"HTTP/1.0 {status}\r\n\r\n{json.dumps(image)}".encode())


@pytest.fixture
def engine() -> Iterator[_Engine]:
    with tempfile.TemporaryDirectory() as folder:  # short: the path of a socket has at most 107 bytes
        server = _Engine(f"{folder}/s", _Handler)
        server.images = {REFERENCE: {"Id": "sha256:1", "RepoTags": [REFERENCE, "hello:debian-12"]}}
        with server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield server
            server.shutdown()
            thread.join()


@pytest.fixture
def catalog(tmp_path: Path, engine: _Engine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Record a build; return the folder of its inputs."""
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(unchanged, "_STARTED", time.time() + 60)
    monkeypatch.setattr(unchanged, "_SESSION", unchanged._SESSION | {"PYTEST_CURRENT_TEST"})
    folder = tmp_path / "catalog"
    (folder / "targets").mkdir(parents=True)
    (folder / "targets" / "hello.toml").write_text("summary = 'one'")
    record(folder, engine)
    assert unchanged.repeat(ARGV)
    return folder


def record(folder: Path, engine: _Engine) -> None:
    roots = [str(folder), str(folder.parent / "site.toml")]
    unchanged.record(ARGV, roots, [REFERENCE], str(engine.server_address), TEXTS)


def records(catalog: Path) -> list[Path]:
    return list((catalog.parent / "home" / "cache" / "unchanged").glob("*"))


def test_repeats_the_output_on_both_streams(catalog: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert unchanged.repeat(ARGV)
    assert capfd.readouterr() == (TEXTS["stdout"], TEXTS["stderr"])


def test_plans_again_after_an_edit_that_keeps_size_and_mtime(catalog: Path) -> None:
    file = catalog / "targets" / "hello.toml"
    before = file.stat()
    file.write_text("summary = 'two'")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not unchanged.repeat(ARGV)


def test_plans_again_after_a_file_was_added_removed_or_replaced(catalog: Path, engine: _Engine) -> None:
    added = catalog / "targets" / "other.toml"
    added.touch()
    assert not unchanged.repeat(ARGV)
    record(catalog, engine)
    assert unchanged.repeat(ARGV)
    added.unlink()
    assert not unchanged.repeat(ARGV)
    record(catalog, engine)
    (catalog.parent / "site.toml").touch()  # absent when it was recorded
    assert not unchanged.repeat(ARGV)
    record(catalog, engine)
    (catalog / "targets" / "hello.toml").chmod(0o755)
    assert not unchanged.repeat(ARGV)


def test_plans_again_for_other_arguments_or_environment_variables(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not unchanged.repeat([*ARGV, "--jobs", "1"])
    monkeypatch.setenv("OLDPWD", "/elsewhere")
    assert unchanged.repeat(ARGV)
    monkeypatch.setenv("BUILDER_SITE", "aws")
    assert not unchanged.repeat(ARGV)
    monkeypatch.delenv("BUILDER_SITE")
    assert unchanged.repeat(ARGV)
    monkeypatch.chdir(catalog)
    assert not unchanged.repeat(ARGV)


def test_plans_again_if_the_image_is_gone_replaced_or_untagged(catalog: Path, engine: _Engine) -> None:
    engine.images[REFERENCE]["RepoTags"] = [REFERENCE]
    assert not unchanged.repeat(ARGV)
    engine.images[REFERENCE] = {"Id": "sha256:2", "RepoTags": [REFERENCE, "hello:debian-12"]}
    assert not unchanged.repeat(ARGV)
    engine.images.clear()
    assert not unchanged.repeat(ARGV)


def test_plans_again_if_the_engine_does_not_answer(catalog: Path, engine: _Engine) -> None:
    Path(str(engine.server_address)).unlink()
    assert not unchanged.repeat(ARGV)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 1, "roots": 1}', "[" * 100_000, "\0"])
def test_plans_again_if_the_record_is_damaged(catalog: Path, text: str) -> None:
    records(catalog)[0].write_text(text)
    assert not unchanged.repeat(ARGV)


def test_ignores_a_record_that_other_users_may_write(catalog: Path) -> None:
    (path,) = records(catalog)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o620)
    assert not unchanged.repeat(ARGV)


def test_a_repeated_build_plans_again_if_stdout_cannot_be_written(
    catalog: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = os.dup(1)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    try:
        assert not unchanged.repeat(ARGV)
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(full)


def test_records_nothing_if_inputs_have_just_changed(
    catalog: Path, engine: _Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    records(catalog)[0].unlink()
    newest = max(path.stat().st_ctime for path in [catalog, *catalog.rglob("*")])
    monkeypatch.setattr(unchanged, "_STARTED", newest + 0.05)
    record(catalog, engine)
    assert not records(catalog)


@pytest.mark.parametrize(
    ("changed", "young"), [(997.0, False), (999.0, True), (999.5, False), (999.95, True), (1000.5, True)]
)
def test_file_times_in_whole_seconds_are_trusted_later(
    changed: float, young: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On file systems with times in whole seconds, two changes within seconds may have the same time."""
    monkeypatch.setattr(unchanged, "_STARTED", 1000.0)
    times = {"st_ctime": changed, "st_ctime_ns": int(changed * 10**9)}
    assert unchanged._young(os.stat_result(range(10), times)) is young


def test_records_nothing_with_a_symbolic_link_among_the_inputs(catalog: Path, engine: _Engine) -> None:
    records(catalog)[0].unlink()
    (catalog / "link").symlink_to("targets")
    record(catalog, engine)
    assert not records(catalog)


def test_only_the_newest_build_records_are_kept(
    catalog: Path, monkeypatch: pytest.MonkeyPatch, engine: _Engine
) -> None:
    monkeypatch.setattr(unchanged, "_MOST_RECORDS", 2)
    for number in range(4):
        roots = [str(catalog)]
        unchanged.record([str(number)], roots, [REFERENCE], str(engine.server_address), TEXTS)
    assert len(records(catalog)) == 2
    assert unchanged.repeat(["3"])


def test_build_record_contains_no_values_of_environment_variables(
    catalog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "PATH" not in records(catalog)[0].read_text()
    assert os.environ["PATH"] not in records(catalog)[0].read_text()
