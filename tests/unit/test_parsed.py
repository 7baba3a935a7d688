"""Cache of parsed files: an entry is used only while the parsed file is unchanged."""

import json
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import catalog, parsed
from builder.app.context import Context
from builder.parsed import ParsedFiles
from builder.stack import loading
from tests.support.repository import Repository


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "x.json"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.toml"
    path.write_text("a = 1\n")
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cache keep files that have just changed, so that tests need not wait."""
    monkeypatch.setattr(parsed, "_SETTLED_NS", -(10**18))


def reading(cache: Path, file: Path) -> tuple[object, bool]:
    """Return the parsed content of a file from a new cache object, and True if the file was read."""
    files, reads = ParsedFiles(cache), []

    def read() -> dict[str, str]:
        reads.append(file)
        return {"text": file.read_text()}

    found = files.table(file, read)
    files.save()
    return found, bool(reads)


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(cache: Path, file: Path) -> None:
    assert reading(cache, file) == ({"text": "a = 1\n"}, True)
    assert reading(cache, file) == ({"text": "a = 1\n"}, False)
    assert cache.stat().st_mode & 0o777 == 0o600


def test_a_file_that_has_just_changed_is_read_again(cache: Path, file: Path) -> None:
    """Two edits in one clock tick can leave size, times and inode unchanged."""
    assert reading(cache, file)[1]
    file.write_text("a = 2\n")
    assert reading(cache, file) == ({"text": "a = 2\n"}, True)
    os.utime(file, (0, 0))  # the time of the last change of the inode is not 0
    assert reading(cache, file)[1]
    assert not cache.exists()


def edit(file: Path) -> None:
    file.write_text("a = 22\n")


def edit_with_old_time(file: Path) -> None:
    before = file.stat()
    time.sleep(0.02)  # the clock of file systems ticks every 4 ms
    file.write_text("a = 2\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    before = file.stat()
    other = file.with_name("other")
    other.write_text("a = 2\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [edit, edit_with_old_time, replace])
def test_a_changed_file_is_read_again(cache: Path, file: Path, change: Callable[[Path], None]) -> None:
    reading(cache, file)
    change(file)
    assert reading(cache, file) == ({"text": file.read_text()}, True)
    assert reading(cache, file) == ({"text": file.read_text()}, False)


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_cached(cache: Path, file: Path) -> None:
    files = ParsedFiles(cache)

    def read() -> dict[str, str]:
        text = file.read_text()
        edit(file)
        return {"text": text}

    assert files.table(file, read) == {"text": "a = 1\n"}
    files.save()
    assert reading(cache, file) == ({"text": "a = 22\n"}, True)


def shorten(cache: Path) -> None:
    cache.write_bytes(cache.read_bytes()[:-9])


def flip_a_bit(cache: Path) -> None:
    data = bytearray(cache.read_bytes())
    data[-5] ^= 1
    cache.write_bytes(data)


def of_other_code(cache: Path) -> None:
    table = json.loads(cache.read_bytes().partition(b"\n")[2])
    text = json.dumps(table | {"code": []})
    cache.write_text(f"{zlib.crc32(text.encode()):08x}\n{text}")


def nested(cache: Path) -> None:
    text = "[" * 200_000
    cache.write_text(f"{zlib.crc32(text.encode()):08x}\n{text}")


def of_other_shape(cache: Path) -> None:
    table = json.loads(cache.read_bytes().partition(b"\n")[2])
    text = json.dumps(table | {"files": dict.fromkeys(table["files"], 5)})
    cache.write_text(f"{zlib.crc32(text.encode()):08x}\n{text}")


def writable_for_others(cache: Path) -> None:
    cache.chmod(0o666)


def link(cache: Path) -> None:
    cache.rename(cache.with_name("y.json"))
    cache.symlink_to("y.json")


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "damage",
    [shorten, flip_a_bit, of_other_code, of_other_shape, nested, writable_for_others, link, Path.unlink],
)
def test_a_damaged_or_foreign_cache_is_replaced(
    cache: Path, file: Path, damage: Callable[[Path], None]
) -> None:
    reading(cache, file)
    damage(cache)
    assert reading(cache, file) == ({"text": "a = 1\n"}, True)
    assert reading(cache, file) == ({"text": "a = 1\n"}, False)
    assert not cache.is_symlink()


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, file: Path) -> None:
    assert reading(tmp_path / "none" / "x.json", file) == ({"text": "a = 1\n"}, True)


@pytest.mark.usefixtures("settled")
def test_old_cache_files_and_entries_of_deleted_files_are_removed(cache: Path, file: Path) -> None:
    others = [cache.with_name(f"{number}.json") for number in range(30)]
    for number, other in enumerate(others):
        other.write_text("")
        os.utime(other, (number, number))
    reading(cache, file)
    assert [other.exists() for other in others] == [False] * 11 + [True] * 19
    second = file.with_name("second.toml")
    second.write_text("")
    file.unlink()
    reading(cache, second)
    assert str(file) not in cache.read_text()


@pytest.mark.usefixtures("settled")
def test_the_catalog_is_the_same_with_and_without_the_cache(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    root, target = repository.root, "catalog/targets/hello.toml"
    good = (root / target).read_text()
    for text in (
        good,
        good,
        good + "nonsense\n",
        good + 'colour = "red"\n',
        good.replace("hello", "hallo"),
        good,
    ):
        repository.write(target, text)
        for _ in range(2):
            context, plain = Context(root), catalog.load_usable(root)
            assert context.catalog == plain
            assert context.knowledge == loading.load_usable(root, plain)
    assert len(list((tmp_path / "home/cache/parsed").iterdir())) == 1
