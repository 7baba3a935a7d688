"""The module `venv` asks the stack's wheel index only for wheels that the indexes of the site lack."""

import hashlib
import http.server
import shutil
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest

from tests.adapters.test_fetch import Web, serving
from tests.support.wheels import make_wheel
from tests.unit.test_ansible_files import play


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """The site's index, which has no wheel."""
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


def install(tmp_path: Path, digest: str) -> str:
    arguments = {
        "path": str(tmp_path / "venv"),
        "name": "test",
        "python": sys.executable,
        "requirements": [f"greet==1.0 --hash=sha256:{digest}"],
    }
    return play(tmp_path, {"name": "Install", "venv": arguments}).stdout


def test_a_wheel_that_the_site_lacks_comes_from_the_last_index(
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


def test_byte_code_has_no_time_even_of_files_that_python_imports_at_its_start(
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


def test_a_last_index_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Web, last: str
) -> None:
    monkeypatch.setenv("FACTORY_WHEEL_INDEX", f"{last}/cpu/")
    printed = install(tmp_path, "0" * 64)
    assert f"{last}/cpu/ was asked as well: {last}/cpu/greet/: HTTP Error 404" in printed
    assert Files.asked == ["/cpu/greet/"]
    assert site.asked == ["/simple/greet/"]
