"""The module `venv` asks the stack's wheel index only for wheels that the indexes of the site lack."""

import hashlib
import http.server
import importlib.util
import json
import shutil
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from tests.adapters.test_fetch import Web, serving
from tests.support.wheels import make_sdist, make_wheel
from tests.unit.test_ansible_files import play

PLUGINS = Path(__file__).resolve().parents[2] / "ansible" / "plugins"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Function that imports an Ansible module or module utility of this repository by name."""

    def load(name: str) -> ModuleType:
        folder = "module_utils" if name == "fetching" else "modules"
        name_in_ansible = f"ansible.{folder}.{name}"
        spec = importlib.util.spec_from_file_location(name_in_ansible, PLUGINS / folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name_in_ansible, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """Server of an empty package index, which is pip's configured index."""
    with serving(Web()) as web:
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/simple/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
        yield web


class Files(http.server.SimpleHTTPRequestHandler):
    """Handler that serves a folder and records the requested paths."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=86400")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def last(tmp_path: Path) -> Iterator[str]:
    """The URL of the stack's wheel index, which serves the folder `last`."""
    Files.asked.clear()
    folder = tmp_path / "last"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def install(tmp_path: Path, digest: str, *options: str) -> str:
    arguments = {
        "path": str(tmp_path / "venv"),
        "name": "test",
        "python": sys.executable,
        "requirements": [*options, f"greet==1.0 --hash=sha256:{digest}"],
    }
    return play(tmp_path, {"name": "Install", "venv": arguments}).stdout


def test_a_wheel_that_the_site_index_lacks_comes_from_the_wheel_index_of_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Web, last: str
) -> None:
    digest = make_wheel(tmp_path / "wheels")
    (wheel,) = (tmp_path / "wheels").iterdir()
    page = tmp_path / "last/cpu/greet/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    wheel.rename(page.with_name(wheel.name))
    assert "No matching distribution found for greet==1.0" in install(tmp_path, digest)
    assert site.asked == ["/simple/greet/"]
    assert Files.asked == []
    monkeypatch.setenv("FACTORY_WHEEL_INDEX", f"{last}/cpu")
    printed = install(tmp_path, digest)
    assert "failed=0" in printed, printed
    assert [path.name for path in (tmp_path / "venv/lib").rglob("greet.py")] == ["greet.py"]
    assert site.asked == ["/simple/greet/"] * 3


def test_a_source_distribution_is_built_only_if_its_hash_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "sources"))
    built = tmp_path / "built"
    monkeypatch.setenv("BUILD_RECORD", str(built))
    digest = make_sdist(tmp_path / "sources")
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "false")
    assert "No matching distribution found" in install(tmp_path, digest)
    assert "DO NOT MATCH THE HASHES" in install(tmp_path, "0" * 64, "--no-binary greet")
    assert not built.exists()
    printed = install(tmp_path, digest, "--no-binary greet")
    assert "failed=0" in printed, printed
    (found,) = (tmp_path / "venv/lib").rglob("greet.py")
    assert found.read_text() == "WORD = 'built'"


def test_byte_code_has_no_timestamps_even_for_modules_imported_at_startup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    make_wheel(tmp_path / "wheels")
    (wheel,) = (tmp_path / "wheels").iterdir()
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("greet.pth", "import greet\n")
    printed = install(tmp_path, hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert "failed=0" in printed, printed
    (found,) = (tmp_path / "venv/lib").rglob("*.pyc")
    assert found.name.startswith("greet.")
    assert found.read_bytes()[4] & 1, "the byte code holds the time of its source instead of a hash"


def test_a_damaged_wheel_in_the_cache_is_downloaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Web, last: str
) -> None:
    del site
    monkeypatch.setenv("PIP_INDEX_URL", f"{last}/simple/")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "127.0.0.1")  # pip caches no other files that come without TLS
    digest = make_wheel(tmp_path / "wheels")
    (wheel,) = (tmp_path / "wheels").iterdir()
    page = tmp_path / "last/simple/greet/index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    wheel.rename(page.with_name(wheel.name))
    assert "failed=0" in install(tmp_path, digest)
    assert len(damage_wheels(tmp_path / "cache")) == 1
    for downloads in (2, 3):  # without the cache, then into the emptied cache
        shutil.rmtree(tmp_path / "venv")
        printed = install(tmp_path, digest)
        assert "failed=0" in printed, printed
        assert sum(path.endswith(".whl") for path in Files.asked) == downloads


def damage_wheels(cache: Path) -> list[Path]:
    """Flip a byte of each wheel in pip's cache."""
    found = [path for path in cache.rglob("*") if path.is_file() and b"WORD = 'hello'" in path.read_bytes()]
    for path in found:
        path.write_bytes(path.read_bytes().replace(b"WORD = 'hello'", b"WORD = 'hellp'"))
    return found


def test_progress_of_a_download_is_reported_at_most_once_per_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[str], ModuleType]
) -> None:
    (tmp_path / "stdout").touch()
    monkeypatch.setenv("FACTORY_PROGRESS", str(tmp_path / "stdout"))
    times = iter([0.0, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0, 2.1])
    progress = load("fetching").Progress(lambda: next(times))
    for done, total in ((1, 9), (2, 9), (3, 9), (0, 0), (9, 9), (1, 5)):
        progress(done, total)
    events = [json.loads(line) for line in (tmp_path / "stdout").read_text().splitlines()]
    assert [(event["event"], event["done"], event["total"]) for event in events] == [
        ("progress", 2, 9),
        ("progress", 9, 9),
    ]


@pytest.mark.parametrize("variable", ["FACTORY_PROGRESS", "OTHER"])
def test_downloads_and_pip_report_the_transferred_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[str], ModuleType], variable: str
) -> None:
    (tmp_path / "stdout").touch()
    monkeypatch.setenv(variable, str(tmp_path / "stdout"))
    fetching, module = load("fetching"), load("venv")
    monkeypatch.setattr(fetching, "EVERY_S", 0.0)
    (tmp_path / "file").write_bytes(b"x" * 3)
    digest = hashlib.sha256(b"xxx").hexdigest()
    fetching.fetch(f"file://{tmp_path}/file", digest, tmp_path / "copy", {})
    code = "import sys; print('Progress 5 of 7'); print('done'); print('late', file=sys.stderr); sys.exit(3)"
    assert module.run_pip([sys.executable, "-c", code]) == (3, "done\n", "late\n")
    events = [json.loads(line) for line in (tmp_path / "stdout").read_text().splitlines()]
    expected = [(3, 3), (5, 7)] if variable == "FACTORY_PROGRESS" else []
    assert [(event["done"], event["total"]) for event in events] == expected


def test_a_wheel_index_of_the_stack_that_lacks_the_package_is_requested_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Web, last: str
) -> None:
    monkeypatch.setenv("FACTORY_WHEEL_INDEX", f"{last}/cpu/")
    printed = install(tmp_path, "0" * 64)
    assert f"{last}/cpu/ was asked as well: {last}/cpu/greet/: HTTP Error 404" in printed
    assert Files.asked == ["/cpu/greet/"]
    assert site.asked == ["/simple/greet/"]
