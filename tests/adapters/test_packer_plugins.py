"""Installation of Packer's plugins: exactly the bytes of the lock, or an error."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.adapters.ami import plugins
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.adapters.upstream.fetch import Fetcher
from builder.adapters.upstream.mirror import Mirror
from builder.errors import IntegrityError
from builder.lock import Entry, Lock, Want
from builder.tooling import Plugin
from tests.support.stub_server import Serve, Stub

PROGRAM = "packer-plugin-amazon_v1.8.2_x5.0_linux_amd64"


def zip_of(*names: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, f"program {name}")
    return stream.getvalue()


def lock_of(plugin: Plugin, content: bytes) -> Lock:
    values = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return Lock(entries={Want("archive", plugin.url): Entry(values=values, verified=True)})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "plugins") as opened:
        yield opened


class Vendor:
    """A server of one plugin, whose archive a test may replace."""

    def __init__(self, serve: Serve) -> None:
        self.archive = zip_of("LICENSE.txt", PROGRAM)
        self.stub = serve(Stub(answer=lambda _: (200, {}, self.archive)))
        url = f"http://{self.stub.host}/amazon.zip"
        self.plugin = Plugin(name="amazon", version="1.8.2", source="github.com/hashicorp/amazon", url=url)

    def install(self, run: Run, lock: Lock) -> Path:
        return plugins.install(run, [self.plugin], lock, Fetcher(Mirror()))


@pytest.fixture
def vendor(serve: Serve) -> Vendor:
    return Vendor(serve)


def test_installs_the_program_with_its_digest(run: Run, vendor: Vendor) -> None:
    folder = vendor.install(run, lock_of(vendor.plugin, vendor.archive))
    program = folder / "github.com/hashicorp/amazon" / PROGRAM
    content = f"program {PROGRAM}".encode()
    assert program.read_bytes() == content
    assert program.stat().st_mode & 0o777 == 0o700
    digest = program.with_name(f"{PROGRAM}_SHA256SUM").read_text()
    assert digest == hashlib.sha256(content).hexdigest()
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        PROGRAM,
        f"{PROGRAM}_SHA256SUM",
    ]


def test_downloads_an_archive_once_and_again_if_it_is_damaged(run: Run, vendor: Vendor) -> None:
    lock = lock_of(vendor.plugin, vendor.archive)
    vendor.install(run, lock)
    program = vendor.install(run, lock) / "github.com/hashicorp/amazon" / PROGRAM
    assert len(vendor.stub.asked) == 1
    (cached,) = run.workspace.cache("packer-plugins").iterdir()
    content = bytearray(cached.read_bytes())
    content[40] ^= 1
    cached.write_bytes(content)
    vendor.install(run, lock)
    assert len(vendor.stub.asked) == 2
    assert cached.read_bytes() == vendor.archive
    assert program.read_bytes() == f"program {PROGRAM}".encode()


def test_refuses_an_archive_that_differs_from_the_lock(run: Run, vendor: Vendor) -> None:
    lock = lock_of(vendor.plugin, vendor.archive)
    vendor.archive = zip_of(PROGRAM)
    with pytest.raises(IntegrityError, match="does not match its lock"):
        vendor.install(run, lock)
    assert list(run.workspace.cache("packer-plugins").iterdir()) == []
    assert not (run.scratch / "packer-plugins").exists()


def test_refuses_a_plugin_that_is_not_locked(run: Run, vendor: Vendor) -> None:
    with pytest.raises(IntegrityError, match=r"amazon 1\.8\.2 is not locked") as caught:
        vendor.install(run, Lock())
    assert caught.value.exit_code == 7
    assert caught.value.hint.startswith("builder lock")
    assert vendor.stub.asked == []


@pytest.mark.parametrize("names", [(), (f"../{PROGRAM}",), ("packer-plugin-amazon_v1.8.3_x5.0_linux_amd64",)])
def test_refuses_an_archive_without_the_program(run: Run, vendor: Vendor, names: tuple[str, ...]) -> None:
    vendor.archive = zip_of(*names)
    with pytest.raises(IntegrityError, match="exactly one program"):
        vendor.install(run, lock_of(vendor.plugin, vendor.archive))
