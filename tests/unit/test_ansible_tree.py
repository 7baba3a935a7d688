"""Tests of the Ansible modules `tree`, which writes files, and `sweep`, which removes files."""

import base64
import importlib.util
import os
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MODULES = Path(__file__).resolve().parents[2] / "ansible" / "plugins" / "modules"


def load_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"factory_{name}", MODULES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tree = load_module("tree")
sweep = load_module("sweep")


def make_entry(dest: str, content: bytes | None = None, **fields: str) -> dict[str, Any]:
    entry = {"dest": dest, "state": "file", "owner": str(os.getuid()), "group": str(os.getgid())}
    if content is not None:
        entry["content_base64"] = base64.b64encode(content).decode()
    return entry | fields


def apply_entry(root: Path, entry: dict[str, Any], *, check: bool = False) -> dict[str, str] | None:
    difference: dict[str, str] | None = tree.apply_entry(root, entry, check=check)
    return difference


def test_writes_a_file_with_its_mode_and_parents(tmp_path: Path) -> None:
    assert apply_entry(tmp_path, make_entry("/etc/app/app.conf", b"a = 1\n", mode="0640"))
    written = tmp_path / "etc/app/app.conf"
    assert written.read_bytes() == b"a = 1\n"
    assert stat.S_IMODE(written.stat().st_mode) == 0o640
    assert stat.S_IMODE(written.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    "entry",
    [
        make_entry("/file", b"\x00\xff"),
        make_entry("/folder", state="directory", mode="1777"),
        make_entry("/link", state="link", target="nowhere/./at//all"),
        make_entry("/nothing", state="absent"),
    ],
    ids=lambda entry: entry["state"],
)
def test_second_run_changes_nothing(tmp_path: Path, entry: dict[str, Any]) -> None:
    apply_entry(tmp_path, entry)
    before = sorted((path, path.lstat()) for path in tmp_path.iterdir())
    assert apply_entry(tmp_path, entry) is None
    assert sorted((path, path.lstat()) for path in tmp_path.iterdir()) == before


def test_default_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        apply_entry(tmp_path, make_entry("/a/file", b""))
        apply_entry(tmp_path, make_entry("/b/folder", state="directory"))
    finally:
        os.umask(previous)
    modes = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")
    }
    assert modes == {"a": 0o755, "a/file": 0o644, "b": 0o755, "b/folder": 0o755}


@pytest.mark.parametrize(
    ("content", "mode"), [(b"other", "0644"), (b"same", "0600")], ids=["other bytes", "other mode"]
)
def test_different_content_or_mode_counts_as_change(tmp_path: Path, content: bytes, mode: str) -> None:
    apply_entry(tmp_path, make_entry("/file", b"same", mode="0644"))
    assert apply_entry(tmp_path, make_entry("/file", content, mode=mode))
    assert (tmp_path / "file").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == int(mode, 8)


def test_replaces_a_file_atomically(tmp_path: Path) -> None:
    apply_entry(tmp_path, make_entry("/file", b"old"))
    with (tmp_path / "file").open("rb") as reader:
        apply_entry(tmp_path, make_entry("/file", b"new"))
        assert reader.read() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply_entry(tmp_path, make_entry("/file", b"old"))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tree.os, "fchmod", fail)
    with pytest.raises(tree.EntryError, match="/file: No space left on device"):
        apply_entry(tmp_path, make_entry("/file", b"new"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_replaces_a_link_at_the_destination(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious", encoding="utf-8")
    (tmp_path / "file").symlink_to(victim)
    apply_entry(tmp_path, make_entry("/file", b"new"))
    assert victim.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "file").is_symlink()


def test_link_replaces_a_file_or_another_link(tmp_path: Path) -> None:
    apply_entry(tmp_path, make_entry("/link", b"a file"))
    for target in ("one", "two"):
        assert apply_entry(tmp_path, make_entry("/link", state="link", target=target))
        assert (tmp_path / "link").readlink() == Path(target)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_state_absent_removes_a_folder_but_not_the_targets_of_links_in_it(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(kept)
    assert apply_entry(tmp_path, make_entry("/folder", state="absent"))
    assert not folder.exists()
    assert (kept / "file").exists()


def read_state(folder: Path) -> dict[str, tuple[float, ...]]:
    """Return inode, mode, size and mtime of each file, but no access time, which reading may change."""
    states = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns) for name, s in states.items()}


@pytest.mark.parametrize(
    "entry",
    [
        make_entry("/file", b"new", mode="0600"),
        make_entry("/folder", state="directory"),
        make_entry("/link", state="link", target="x"),
        make_entry("/old", state="absent"),
    ],
    ids=lambda entry: entry["state"],
)
def test_check_mode_reports_a_change_but_does_nothing(tmp_path: Path, entry: dict[str, Any]) -> None:
    (tmp_path / "old").touch()
    (tmp_path / "file").write_bytes(b"old")
    before = read_state(tmp_path)
    assert apply_entry(tmp_path, entry, check=True)
    assert read_state(tmp_path) == before


def test_diff_shows_text_but_not_binary_content(tmp_path: Path) -> None:
    apply_entry(tmp_path, make_entry("/file", b"old\n"))
    shown = apply_entry(tmp_path, make_entry("/file", b"new\n"))
    assert shown
    assert (shown["before"], shown["after"]) == ("old\n", "new\n")
    binary = apply_entry(tmp_path, make_entry("/file", b"\xff\xfe"))
    assert binary
    assert "2 bytes" in binary["after"]


@pytest.mark.parametrize(
    ("dest", "reason"),
    [
        ("etc/file", "absolute"),
        ("", "absolute"),
        ("/etc/../../file", "absolute"),
        ("/", "root of the file system"),
        ("/./", "root of the file system"),
        ("/escape/file", "leads out"),
        ("/escape/deeper/file", "leads out"),
    ],
)
def test_refuses_a_destination_outside_the_root(tmp_path: Path, dest: str, reason: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "escape").symlink_to(tmp_path)
    with pytest.raises(tree.EntryError, match=reason):
        apply_entry(root, make_entry(dest, b""))
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_follows_a_link_to_a_folder_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "bin").symlink_to("usr")
    apply_entry(tmp_path, make_entry("/bin/tool", b"", mode="0755"))
    assert (tmp_path / "usr/tool").is_file()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (make_entry("/folder", b""), "is a directory"),
        (make_entry("/folder", state="link", target="x"), "is a directory"),
        (make_entry("/file", state="directory"), "not a directory"),
        (make_entry("/file/below", b""), "exists|Not a directory"),
        (make_entry("/x", b"", mode="rw-r--r--"), "octal"),
        (make_entry("/x", b"", mode="420420"), "octal"),
        (make_entry("/x", b"", owner="no-such-user"), "no-such-user"),
        (make_entry("/x", b"", group="no-such-group"), "no-such-group"),
        (make_entry("/x"), "needs content"),
        (make_entry("/x", state="link"), "needs target"),
    ],
)
def test_refuses_an_invalid_entry(tmp_path: Path, entry: dict[str, Any], reason: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(tree.EntryError, match=reason):
        apply_entry(tmp_path, entry)


def test_sweep_finds_hidden_files_and_skips_mounts(tmp_path: Path) -> None:
    for name in ("cache/a", "cache/.b", "mounted/c", "holder/mount/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    spared = frozenset({tmp_path / "mounted", tmp_path / "holder/mount"})
    patterns = [f"{tmp_path}/cache/*", f"{tmp_path}/mounted/*", f"{tmp_path}/mounted", f"{tmp_path}/holder"]
    found = sweep.find(patterns, spared)
    assert found == [tmp_path / "cache/.b", tmp_path / "cache/a"]


def test_sweep_skips_a_mount_behind_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "mounted").mkdir()
    (tmp_path / "mounted/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "mounted")
    assert sweep.find([f"{tmp_path}/link/*"], frozenset({tmp_path / "mounted"})) == []


@pytest.mark.parametrize("pattern", ["relative/*", "/", "/*", "/**", "/etc/../*", ""])
def test_sweep_refuses_a_pattern_that_could_match_everything(pattern: str) -> None:
    with pytest.raises(ValueError, match="not an absolute pattern"):
        sweep.find([pattern], frozenset())


def test_sweep_removes_a_link_but_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    sweep.remove(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_sweep_empties_only_nonempty_files(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("x", encoding="utf-8")
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "folder").mkdir()
    assert sweep.find_nonempty([f"{tmp_path}/*"], frozenset()) == [tmp_path / "full"]


def test_sweep_lists_all_mounts_except_the_root_file_system() -> None:
    assert Path("/proc") in sweep.list_mounts()
    assert Path("/") not in sweep.list_mounts()
