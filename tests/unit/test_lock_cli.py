"""`builder lock` from the command line: the lock file, output and exit code, with fake sources."""

import errno
import os

import pytest

from builder import lock
from builder.adapters.upstream.mirror import Mirror
from builder.app import locking
from builder.cli.main import main
from builder.errors import Interrupted, MissingError
from builder.lock import Entry, Want
from tests.support.output import result_of
from tests.support.repository import Repository
from tests.support.resolvers import World, entry

ARCHIVE = Want("archive", "https://vendor.example/fabric-1.2-3.tar.gz", "component fabric")
SUITE = Want("suite", "debian tiny", "system tiny-1")
NOWHERE = MissingError("vendor.example cannot be reached: Name or service not known")
DOWNLOAD = '[[downloads]]\nname = "a"\nurl = "https://vendor.example/fabric-{version}.tar.gz"\n'


@pytest.fixture
def locked(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Repository with an archive and a complete lock file; an empty mirror keeps tests from running pip."""
    path = repository.root / "catalog/components/fabric.toml"
    path.write_text(path.read_text() + DOWNLOAD)
    repository.relock()
    monkeypatch.setattr(locking.mirror, "connection", lambda _: Mirror())
    return repository


@pytest.fixture
def world(locked: Repository, monkeypatch: pytest.MonkeyPatch) -> World:
    """Fake download sources whose contents match the lock file."""
    sources = World(dict(lock.read(locked.root).entries))
    monkeypatch.setattr(locking, "SourceResolver", lambda **_: sources)
    return sources


def set_source(world: World, want: Want, found: Entry | MissingError | Interrupted) -> None:
    world.holds = {**world.holds, want: found}


def unlock(repository: Repository, want: Want) -> None:
    found = lock.read(repository.root)
    entries = {other: entry for other, entry in found.entries.items() if other != want}
    text = lock.to_text(lock.Lock(entries=entries, inputs=found.inputs))
    repository.write(lock.LOCK_PATH, text)


def run(capsys: pytest.CaptureFixture[str], repository: Repository, *words: str) -> tuple[int, str, str]:
    code = main(["lock", *words, "--root", str(repository.root)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def text(repository: Repository) -> str:
    return (repository.root / lock.LOCK_PATH).read_text()


Capture = pytest.CaptureFixture[str]


def test_a_complete_lock_is_not_changed(locked: Repository, world: World, capsys: Capture) -> None:
    before = text(locked)
    code, out, _ = run(capsys, locked)
    assert (code, world.asked) == (0, [])
    assert "catalog/lock.json: 6 downloads, unchanged" in out
    assert text(locked) == before


def test_adds_a_missing_entry(locked: Repository, world: World, capsys: Capture) -> None:
    before = text(locked)
    unlock(locked, ARCHIVE)
    code, out, _ = run(capsys, locked)
    assert (code, world.asked) == (0, [ARCHIVE])
    assert text(locked) == before
    assert "1 added" in out
    assert "5 unchanged" in out
    assert "aaaaaaaaaaaa" in out


def test_updates_the_entry_of_a_changed_requirements_file(
    locked: Repository, world: World, capsys: Capture
) -> None:
    locked.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    want = Want("requirements", "containers/hello/requirements.lock")
    set_source(world, want, entry(want, 9))
    assert run(capsys, locked)[0] == 0
    assert lock.read(locked.root).entries[want] == entry(want, 9)


def test_reports_unreachable_sources_grouped_by_reason(
    locked: Repository, world: World, capsys: Capture
) -> None:
    before = lock.read(locked.root).entries[ARCHIVE]
    set_source(world, ARCHIVE, NOWHERE)
    code, out, _ = run(capsys, locked, "--update", "fabric")
    assert (code, lock.read(locked.root).entries[ARCHIVE]) == (0, before)
    assert f"unreached: {NOWHERE.message}: {ARCHIVE} (component fabric)\n" in out
    unlock(locked, ARCHIVE)
    code, out, err = run(capsys, locked)
    assert code == 3
    assert f"missing: {NOWHERE.message}" in out
    assert f"1 download missing: {ARCHIVE}" in err
    assert "mirror.prefixes" in err


def test_update_changes_only_the_named_entries(locked: Repository, world: World, capsys: Capture) -> None:
    unlock(locked, ARCHIVE)
    set_source(world, SUITE, entry(SUITE, 9))
    code, out, _ = run(capsys, locked, "--update", str(SUITE))
    assert (code, world.asked) == (0, [SUITE])
    found = lock.read(locked.root).entries
    assert (found[SUITE], ARCHIVE in found) == (entry(SUITE, 9), False)
    assert "1 updated" in out


def test_adds_a_digest_that_only_the_vendor_publishes_as_unverified(
    locked: Repository, world: World, capsys: Capture
) -> None:
    locked.write("catalog/sources.toml", 'notes = "release notes"\n')
    locked.write(
        "catalog/versions/fabric.toml",
        f"""
        summary = "a fabric"
        side = "image"
        source = ["notes"]
        [[release]]
        version = "1.2"
        date = "2026-01"
        sha256 = "{"7" * 64}"
        """,
    )
    unlock(locked, ARCHIVE)
    set_source(world, ARCHIVE, NOWHERE)
    code, out, _ = run(capsys, locked)
    found = lock.read(locked.root).entries[ARCHIVE]
    assert (code, found) == (0, Entry(values={"sha256": "7" * 64}, verified=False))
    assert f"unverified: {NOWHERE.message}" in out


@pytest.mark.parametrize("words", [["--verify"], ["--diff"], []])
def test_a_changed_source_is_refused_with_both_digests(
    locked: Repository, world: World, capsys: Capture, words: list[str]
) -> None:
    if "--verify" not in words:  # verified entries are compared with --verify only
        found = lock.read(locked.root)
        entries = {**found.entries, ARCHIVE: Entry(values={"sha256": "a" * 64}, verified=False)}
        locked.write(lock.LOCK_PATH, lock.to_text(lock.Lock(entries=entries, inputs=found.inputs)))
    before = text(locked)
    set_source(world, ARCHIVE, entry(ARCHIVE, 9))
    locked.write("site.toml", '[mirror.prefixes]\n"https://vendor.example/" = "http://here.example/v/"\n')
    code, _, err = run(capsys, locked, *words)
    assert code == 7
    for part in (
        "a" * 64,
        f"{9:064x}",
        "url       http://here.example/v/fabric-1.2-3.tar.gz",
        f"builder lock --update '{ARCHIVE}'",
    ):
        assert part in err
    assert text(locked) == before


def test_verify_marks_compared_entries_and_reports_unreachable_sources(
    locked: Repository, world: World, capsys: Capture
) -> None:
    found = lock.read(locked.root)
    entries = {want: Entry(values=entry.values, verified=False) for want, entry in found.entries.items()}
    locked.write(lock.LOCK_PATH, lock.to_text(lock.Lock(entries=entries, inputs=found.inputs)))
    set_source(world, ARCHIVE, NOWHERE)
    code, out, _ = run(capsys, locked, "--verify")
    assert code == 0
    assert "5 verified" in out
    assert f"unverified: {NOWHERE.message}" in out
    assert [want for want, entry in lock.read(locked.root).entries.items() if not entry.verified] == [ARCHIVE]


def test_verify_refuses_a_lock_with_a_missing_entry(
    locked: Repository, world: World, capsys: Capture
) -> None:
    unlock(locked, ARCHIVE)
    before = text(locked)
    code, _, err = run(capsys, locked, "--verify")
    assert (code, text(locked)) == (7, before)
    assert f"1 download missing: {ARCHIVE}" in err
    assert "hint: builder lock" in err


def test_diff_shows_the_change_and_writes_nothing(locked: Repository, world: World, capsys: Capture) -> None:
    before = text(locked)
    assert run(capsys, locked, "--diff", "--update", "all")[0] == 0
    values = {"sha256": "e" * 64, "date": "2026-02-02T00:00:00Z"}
    set_source(world, SUITE, Entry(values=values, verified=True))
    code, out, _ = run(capsys, locked, "--diff", "--update", "tiny-1")
    assert (code, text(locked)) == (1, before)
    row = next(line for line in out.splitlines() if line.startswith("suite"))
    assert row.split() == [
        "suite",
        "debian",
        "tiny",
        "dddddddddddd",
        "2026-01-01",
        "eeeeeeeeeeee",
        values["date"],
    ]
    assert run(capsys, locked, "--update", "tiny-1")[0] == 0
    assert lock.read(locked.root).entries[SUITE].values == values


def test_json_has_every_field_of_an_outcome(locked: Repository, world: World, capsys: Capture) -> None:
    set_source(world, ARCHIVE, entry(ARCHIVE, 9))
    code, out, _ = run(capsys, locked, "--json", "--update", "fabric")
    printed = result_of(out)
    assert (code, printed["changed"], printed["written"]) == (0, True, True)
    (archive,) = (outcome for outcome in printed["outcomes"] if outcome["kind"] == "archive")
    assert archive == {
        "kind": "archive",
        "subject": ARCHIVE.subject,
        "owner": "component fabric",
        "outcome": "updated",
        "reason": "",
        "before": {"sha256": "a" * 64, "size": 1, "verified": True},
        "after": {"sha256": f"{9:064x}", "verified": True},
        "found": None,
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--update", "fabrik"], "--update fabrik: no such name (did you mean 'fabric'?)"),
        (["--update", "efa_installer"], "--update efa_installer: no such name"),
        (["--update", "base"], "--update base: has no lock entries of its own"),
        (["--update", "all", "--verify"], "--verify and --update exclude each other"),
    ],
)
def test_refuses_wrong_arguments(locked: Repository, capsys: Capture, words: list[str], message: str) -> None:
    code, out, err = run(capsys, locked, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "hint: " in err


def test_lists_the_names_that_update_accepts(locked: Repository, capsys: Capture) -> None:
    assert run(capsys, locked, "--names")[1].split() == [
        "all",
        "fabric",
        "hello",
        "plain-1",
        "runner",
        "tiny-1",
    ]


def test_an_interruption_does_not_change_the_file(locked: Repository, world: World, capsys: Capture) -> None:
    before = text(locked)
    set_source(world, SUITE, entry(SUITE, 9))
    set_source(world, ARCHIVE, Interrupted("interrupted by SIGINT"))
    code, _, err = run(capsys, locked, "--update", "all")
    assert (code, text(locked)) == (130, before)
    assert "interrupted by SIGINT" in err


def test_a_full_disk_does_not_change_the_file(
    locked: Repository, world: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = text(locked)
    set_source(world, ARCHIVE, entry(ARCHIVE, 9))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = run(capsys, locked, "--update", "fabric")
    assert (code, text(locked)) == (3, before)
    assert "catalog/lock.json cannot be written: No space left on device; it is unchanged" in err
    assert [path.name for path in (locked.root / "catalog").glob(".*")] == []


def test_does_not_overwrite_a_concurrent_change(locked: Repository, world: World, capsys: Capture) -> None:
    unlock(locked, ARCHIVE)
    theirs = text(locked).replace("2026-01-01", "2026-02-02")
    resolve = world.resolve

    def slowly(want: Want) -> lock.Answer:
        locked.write(lock.LOCK_PATH, theirs)
        return resolve(want)

    world.resolve = slowly  # type: ignore[method-assign]
    code, _, err = run(capsys, locked)
    assert (code, text(locked)) == (7, theirs)
    assert "changed by another process" in err


def test_does_not_overwrite_a_file_that_is_not_a_lock(
    locked: Repository, world: World, capsys: Capture
) -> None:
    locked.write(lock.LOCK_PATH, "<<<<<<< ours\n")
    code, _, err = run(capsys, locked)
    assert (code, text(locked)) == (7, "<<<<<<< ours\n")
    assert "git checkout catalog/lock.json" in err
