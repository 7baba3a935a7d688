"""Attacks of a build container on the package store of later builds, and damage to the store."""

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder.adapters.ansible import packages
from builder.adapters.host.workspace import Workspace, open_run

HELLO, LIST = "hello_1%3a2.10-3_amd64.deb", "archive_dists_tiny_main_binary-amd64_Packages"
RELEASE, CONTENT = "archive_dists_tiny_InRelease", b"the content of hello"


def stanza(content: bytes, package: str = "hello") -> str:
    digest = hashlib.sha256(content).hexdigest()
    return f"Package: {package}\nVersion: 1:2.10-3\nArchitecture: amd64\nSize: 1\nSHA256: {digest}\n\n"


@dataclass
class Archive:
    """A package archive with its own signing key, which is in `keyrings`."""

    keyrings: Path
    home: Path

    def sign(self, lists: str, date: str = "Sat, 11 Jul 2026 10:16:37 UTC") -> str:
        digest = hashlib.sha256(lists.encode()).hexdigest()
        text = f"Suite: tiny\nDate: {date}\nSHA256:\n {digest} {len(lists)} main/binary-amd64/Packages\n"
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--clearsign"]
        return subprocess.run(argv, input=text, capture_output=True, text=True, check=True).stdout


def make_archive(folder: Path, keyrings: Path) -> Archive:
    folder.mkdir(mode=0o700)
    keyrings.mkdir(exist_ok=True)
    gpg = ["gpg", "--homedir", str(folder), "--batch", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "archive", "ed25519", "sign"], check=True, capture_output=True)
    exported = subprocess.run([*gpg, "--export"], check=True, capture_output=True).stdout
    (keyrings / "tiny-archive-keyring.gpg").write_bytes(exported)
    return Archive(keyrings, folder)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("archive")
    made = make_archive(folder / "gpg", folder / "keyrings")
    yield made
    subprocess.run(["gpgconf", "--homedir", str(made.home), "--kill", "all"], check=False)


@dataclass
class Container:
    """The package folders of a build container, which a test can change."""

    archives: Path
    lists: Path
    files: dict[str, bytes] = field(default_factory=dict)

    def download(self, name: str = HELLO, content: bytes = CONTENT) -> None:
        (self.archives / name).write_bytes(content)

    def update(self, release: str, lists: str) -> None:
        (self.lists / RELEASE).write_text(release)
        (self.lists / LIST).write_text(lists)


@dataclass
class Builds:
    workspace: Workspace
    archive: Archive

    @property
    def store(self) -> Path:
        return self.workspace.cache("apt", "tiny")

    def run(self, *, change: object = None, keep: bool = True) -> dict[str, bytes]:
        """Run a container and call `change` with it; return the files that the container started with."""
        with open_run(self.workspace, "test") as run:
            scratch = run.scratch / "layer"
            cache, lists = (Path(bind.source) for bind in packages.mounts(self.store, scratch))
            container = Container(cache / "archives", lists)
            found = {
                path.name: path.read_bytes()
                for folder in (container.archives, lists)
                for path in folder.iterdir()
                if path.is_file()
            }
            if callable(change):
                change(container)
            if keep:
                packages.keep(run, self.store, scratch, self.archive.keyrings)
        return found


@pytest.fixture
def builds(tmp_path: Path, archive: Archive) -> Builds:
    return Builds(Workspace(home=tmp_path / "home", out=tmp_path / "out"), archive)


def fill(builds: Builds, content: bytes = CONTENT) -> None:
    """Download the package `hello` in a container that attacks nothing."""

    def change(container: Container) -> None:
        container.update(builds.archive.sign(stanza(content)), stanza(content))
        container.download(content=content)

    builds.run(change=change)


def test_a_container_starts_with_the_downloads_of_earlier_containers(builds: Builds) -> None:
    fill(builds)
    found = builds.run()
    assert found[HELLO] == CONTENT
    assert set(found) == {HELLO, RELEASE, LIST}


def test_an_overwritten_file_of_a_container_does_not_change_the_store(builds: Builds) -> None:
    fill(builds)

    def poison(container: Container) -> None:
        for file in (container.archives / HELLO, container.lists / LIST):
            with file.open("r+b") as opened:
                opened.write(b"evil")

    for keep in (False, True):
        builds.run(change=poison, keep=keep)
        assert builds.run()[HELLO] == CONTENT
        assert builds.run()[LIST] == stanza(CONTENT).encode()


def test_a_package_that_the_archive_has_not_signed_is_not_kept(builds: Builds, tmp_path: Path) -> None:
    evil, secret = b"evil content of hello", tmp_path / "secret.deb"
    secret.write_bytes(CONTENT)
    other = make_archive(tmp_path / "gpg", tmp_path / "other")

    def plant(container: Container) -> None:
        lists = stanza(evil)
        container.update(other.sign(lists), lists)
        container.download(content=evil)
        container.download("other_1_amd64.deb", CONTENT)
        (container.archives / "link_1_amd64.deb").symlink_to(secret)
        os.mkfifo(container.archives / "pipe_1_amd64.deb")
        (container.lists / "pipe_InRelease").symlink_to("/dev/zero")

    builds.run(change=plant)
    assert builds.run() == {}
    fill(builds)
    builds.run(change=plant)
    assert set(builds.run()) == {HELLO, RELEASE, LIST}
    assert builds.run()[HELLO] == CONTENT


def test_a_signed_package_under_the_name_of_another_package_is_not_kept(builds: Builds) -> None:
    other = b"an old package with a hole"

    def rename(container: Container) -> None:
        lists = stanza(other, "other") + stanza(CONTENT)
        container.update(builds.archive.sign(lists), lists)
        container.download(content=other)

    builds.run(change=rename)
    assert HELLO not in builds.run()


def test_forged_lists_with_a_real_signature_are_not_kept(builds: Builds) -> None:
    fill(builds)
    evil = b"evil"

    def forge(container: Container) -> None:
        release = builds.archive.sign(stanza(CONTENT))
        container.update(release.replace("Suite: tiny", "Suite: evil"), stanza(evil))
        container.download(content=evil)

    def prepend(container: Container) -> None:
        release = f"Date: now\nSHA256:\n {hashlib.sha256(stanza(evil).encode()).hexdigest()} 1 main/x\n"
        container.update(release + builds.archive.sign(stanza(CONTENT)), stanza(evil))
        container.download("hello_2_amd64.deb", evil)

    for change in (forge, prepend):
        builds.run(change=change)
        assert builds.run() == {
            HELLO: CONTENT,
            RELEASE: builds.run()[RELEASE],
            LIST: stanza(CONTENT).encode(),
        }


def test_an_older_signed_list_does_not_replace_a_newer_one(builds: Builds) -> None:
    fill(builds)

    def roll_back(container: Container) -> None:
        lists = stanza(b"old")
        container.update(builds.archive.sign(lists, "Sat, 11 Jul 2020 10:16:37 UTC"), lists)
        os.utime(container.lists, (2**33, 2**33))

    builds.run(change=roll_back)
    assert builds.run()[LIST] == stanza(CONTENT).encode()


@pytest.mark.parametrize("name", [HELLO, RELEASE, LIST, "archives.json", "lists.json"])
def test_a_flipped_byte_in_the_store_leads_to_a_new_download(builds: Builds, name: str) -> None:
    fill(builds)
    (file,) = (path for path in builds.store.rglob("*") if path.name == name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = builds.run(keep=False)
    assert {HELLO: CONTENT, LIST: stanza(CONTENT).encode()}.items() >= {
        key: value for key, value in found.items() if key != RELEASE
    }.items()
    fill(builds)
    assert set(builds.run()) == {HELLO, RELEASE, LIST}, "the store heals"
