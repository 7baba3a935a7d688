"""Relocking: outcome of each lock entry; no entry is lost, and no changed download is accepted silently."""

from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import catalog, lock, plan, sources, tooling
from builder.errors import FactoryError, IntegrityError, MissingError
from builder.lock import Entry, Lock, Want
from builder.stack import locking
from builder.stack.loading import load
from builder.stack.locking import Relocked, relock
from tests.support.repository import AMI, Repository, flavour, knowledge_of
from tests.support.resolvers import World, entry

ARCHIVE = Want("archive", "https://vendor.example/a.tar.gz", "component a")
GIT = Want("git", "https://code.example/b.git v1", "component b")
SUITE = Want("suite", "debian tiny", "system tiny-1")
WANTS = (ARCHIVE, GIT, SUITE)
NOWHERE = MissingError("vendor.example cannot be reached")


def a_lock(entries: Mapping[Want, Entry]) -> Lock:
    return Lock(entries=entries, inputs=lock.inputs_of(entries))


def outcomes_of(relocked: Relocked) -> dict[Want, str]:
    return {outcome.want: outcome.what for outcome in relocked.outcomes}


def test_resolves_only_missing_entries() -> None:
    before = a_lock({GIT: entry(GIT, 1)})
    world = World({want: entry(want, 2) for want in WANTS})
    relocked = relock(before, WANTS, world)
    assert outcomes_of(relocked) == {ARCHIVE: "added", GIT: "unchanged", SUITE: "added"}
    assert relocked.lock.entries == {ARCHIVE: entry(ARCHIVE, 2), GIT: entry(GIT, 1), SUITE: entry(SUITE, 2)}
    assert sorted(world.asked) == [ARCHIVE, SUITE]


def test_resolves_named_entries_again() -> None:
    before = a_lock({want: entry(want, 1) for want in WANTS})
    world = World({GIT: entry(GIT, 2), SUITE: entry(SUITE, 1)})
    relocked = relock(before, WANTS, world, refresh=lambda want: want != ARCHIVE)
    assert outcomes_of(relocked) == {ARCHIVE: "unchanged", GIT: "updated", SUITE: "verified"}
    assert relocked.lock.entries[GIT] == entry(GIT, 2)


def test_drops_entries_that_are_no_longer_wanted() -> None:
    before = a_lock({want: entry(want, 1) for want in WANTS})
    relocked = relock(before, [GIT], World({}))
    assert outcomes_of(relocked) == {ARCHIVE: "dropped", GIT: "unchanged", SUITE: "dropped"}
    assert relocked.lock == a_lock({GIT: entry(GIT, 1)})


@pytest.mark.parametrize(
    ("before", "published", "what", "after"),
    [
        (entry(ARCHIVE, 1), "", "unreached", entry(ARCHIVE, 1)),
        (entry(ARCHIVE, 1, verified=False), "", "unverified", entry(ARCHIVE, 1, verified=False)),
        (None, "", "missing", None),
        (None, f"{7:064x}", "unverified", entry(ARCHIVE, 7, verified=False)),
        (entry(ARCHIVE, 1), f"{7:064x}", "unreached", entry(ARCHIVE, 1)),
    ],
)
def test_an_unreachable_source_keeps_its_entry_and_reports_the_reason(
    before: Entry | None, published: str, what: str, after: Entry | None
) -> None:
    want = Want("archive", ARCHIVE.subject, "component a", published)
    old = a_lock({want: before} if before else {})
    relocked = relock(old, [want], World({want: NOWHERE}), refresh=lambda _: True)
    (outcome,) = relocked.outcomes
    assert (outcome.what, outcome.after, outcome.reason) == (what, after, NOWHERE.message)
    assert relocked.lock.entries == ({want: after} if after else {})


def test_never_accepts_a_changed_download_silently() -> None:
    """Test verified and unverified lock entries, with and without a recheck of verified entries."""
    for verified, recheck in ((False, False), (False, True), (True, True)):
        before = a_lock({ARCHIVE: entry(ARCHIVE, 1, verified=verified)})
        relocked = relock(before, [ARCHIVE], World({ARCHIVE: entry(ARCHIVE, 2)}), recheck=recheck)
        (outcome,) = relocked.outcomes
        assert outcome.what == "differs"
        assert (outcome.before, outcome.found) == (before.entries[ARCHIVE], entry(ARCHIVE, 2))
        assert relocked.lock.entries == before.entries


def test_refuses_bytes_that_differ_from_the_vendors_digest_even_on_update() -> None:
    want = Want("archive", ARCHIVE.subject, "component a", f"{7:064x}")
    for before in ({}, {want: entry(want, 7, verified=False)}):
        relocked = relock(a_lock(before), [want], World({want: entry(want, 2)}), refresh=lambda _: True)
        (outcome,) = relocked.outcomes
        assert outcome.what == "differs"
        assert outcome.before == entry(want, 7, verified=False)
        assert relocked.lock.entries == before


def test_keeps_the_entry_if_the_source_fails_its_integrity_check() -> None:
    before = a_lock({ARCHIVE: entry(ARCHIVE, 1)})
    world = World({ARCHIVE: IntegrityError("the manifest has other bytes")})
    relocked = relock(before, [ARCHIVE], world, refresh=lambda _: True)
    assert [(outcome.what, outcome.reason) for outcome in relocked.outcomes] == [
        ("differs", "the manifest has other bytes")
    ]
    assert relocked.lock == before


def test_verify_completes_lock_entries_but_adds_none() -> None:
    seen = Entry(values={**entry(ARCHIVE, 1).values, "size": 5}, verified=True)
    before = a_lock({ARCHIVE: entry(ARCHIVE, 1, verified=False), GIT: entry(GIT, 1)})
    world = World({ARCHIVE: seen, GIT: NOWHERE})
    relocked = relock(before, WANTS, world, recheck=True)
    assert outcomes_of(relocked) == {ARCHIVE: "verified", GIT: "unreached", SUITE: "missing"}
    assert relocked.lock.entries == {ARCHIVE: seen, GIT: entry(GIT, 1)}
    assert relocked.lock.inputs == before.inputs


def test_a_lock_entry_stays_unverified_if_its_file_is_not_downloaded() -> None:
    world = World({ARCHIVE: entry(ARCHIVE, 1, verified=False)}, note="pip: no such version")
    relocked = relock(Lock(), [ARCHIVE], world)
    assert [(outcome.what, outcome.reason) for outcome in relocked.outcomes] == [
        ("unverified", "pip: no such version")
    ]
    assert relocked.lock.entries == {ARCHIVE: entry(ARCHIVE, 1, verified=False)}


def test_a_suite_with_an_unchanged_digest_keeps_its_locked_snapshot() -> None:
    values = {"sha256": "a" * 64, "date": "2026-01-01T00:00:00Z"}
    before = a_lock({SUITE: Entry(values={**values, "snapshot": "20260101T000000Z"}, verified=True)})
    world = World({SUITE: Entry(values={**values, "snapshot": "20260202T000000Z"}, verified=True)})
    assert relock(before, [SUITE], world, refresh=lambda _: True).lock == before


# Property tests with arbitrary locks, download sources, and entries to update.

_numbers = st.integers(min_value=1, max_value=3)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Lock, list[Want], World, set[Want]]:
    pool = [
        Want(kind, f"subject {i}", "component a") for kind in ("archive", "git", "suite") for i in range(3)
    ]
    before = {
        want: entry(want, draw(_numbers), verified=draw(st.booleans()))
        for want in draw(st.lists(st.sampled_from(pool), unique=True))
    }
    wants = draw(st.lists(st.sampled_from(pool), unique=True))
    errors: list[FactoryError] = [NOWHERE, IntegrityError("the digests differ")]
    holds: dict[Want, Entry | FactoryError] = {
        want: draw(st.sampled_from(errors)) if draw(st.booleans()) else entry(want, draw(_numbers))
        for want in pool
    }
    return a_lock(before), wants, World(holds), set(draw(st.lists(st.sampled_from(pool))))


@given(cases())
def test_relock_keeps_required_entries_and_takes_new_values_only_from_the_resolver(
    case: tuple[Lock, list[Want], World, set[Want]],
) -> None:
    before, wants, world, named = case
    after = relock(before, wants, world, refresh=named.__contains__).lock
    assert after.entries.keys() <= set(wants)
    assert before.entries.keys() & set(wants) <= after.entries.keys()
    for want, now in after.entries.items():
        was, found = before.entries.get(want), world.holds[want]
        if now != was:
            assert now == found or (was and now.values == was.values)
            assert was is None or want in named or now.values == was.values


@given(cases())
def test_relocking_twice_gives_the_same_file(case: tuple[Lock, list[Want], World, set[Want]]) -> None:
    before, wants, world, named = case
    once = relock(before, wants, world, refresh=named.__contains__).lock
    twice = relock(once, wants, world, refresh=named.__contains__).lock
    assert lock.to_text(once) == lock.to_text(twice)
    assert lock.to_text(relock(once, wants, world).lock) == lock.to_text(once)


@given(cases(), st.randoms())
def test_the_order_of_wants_and_answers_does_not_matter(
    case: tuple[Lock, list[Want], World, set[Want]], random: Random
) -> None:
    before, wants, world, named = case
    shuffled = sorted(wants, key=lambda _: random.random())

    def backwards(action: object, items: list[Want]) -> list[object]:
        return [action(item) for item in reversed(items)]

    first = relock(before, wants, world, refresh=named.__contains__)
    second = relock(before, shuffled, world, refresh=named.__contains__, each=backwards)
    assert lock.to_text(first.lock) == lock.to_text(second.lock)
    assert first.outcomes == second.outcomes


@given(cases())
def test_every_wanted_lock_entry_has_a_known_outcome(case: tuple[Lock, list[Want], World, set[Want]]) -> None:
    before, wants, world, named = case
    for recheck in (False, True):
        relocked = relock(before, wants, world, refresh=named.__contains__, recheck=recheck)
        assert {outcome.what for outcome in relocked.outcomes} <= locking.OUTCOMES.keys()
        assert {outcome.want for outcome in relocked.outcomes} >= set(wants)


# Tests of wants (the downloads that the catalog needs) and of the names that `builder lock --update` accepts.

DOWNLOADS = """
[[downloads]]
name = "archive"
url = "https://vendor.example/fabric-{version}-{arch}.tar.gz"
key = "https://vendor.example/key.asc"
[[downloads]]
name = "other"
url = "https://vendor.example/other.tar.gz"
"""
VERSIONS = """
summary = "a fabric"
side = "image"
source = ["notes"]
[[release]]
version = "1.2"
date = "2026-01"
sha256 = "7777777777777777777777777777777777777777777777777777777777777777"
"""
PLUGINS = """
[[plugins]]
name = "amazon"
version = "1.2.3"
source = "github.com/hashicorp/amazon"
url = "https://vendor.example/{name}_{version}_{deb_arch}.zip"
"""


@pytest.fixture
def downloading(repository: Repository) -> Repository:
    path = repository.root / "catalog/components/fabric.toml"
    path.write_text(path.read_text() + DOWNLOADS)
    repository.write("catalog/sources.toml", 'notes = "release notes"\n')
    repository.write("catalog/versions/fabric.toml", VERSIONS)
    repository.write("catalog/packer.toml", PLUGINS)
    return repository


def test_the_published_digest_of_a_release_belongs_to_its_first_archive(downloading: Repository) -> None:
    wants = locking.wanted(knowledge_of(downloading.root), (), lock.Lock())
    published = {want.subject.rpartition("/")[2]: want.published for want in wants if want.published}
    assert published == {"fabric-1.2-3-x86_64.tar.gz": "7" * 64}


def test_published_digests_cover_the_versions_of_all_flavours(root: Path) -> None:
    wants = locking.wanted(knowledge_of(root), (), lock.Lock())
    published = {want.subject.rpartition("/")[2] for want in wants if want.published}
    installers = {f"aws-efa-installer-{version}.tar.gz" for version in ("1.43.2", "1.47.0")}
    commits = {"nccl-tests.git v2.16.9", "nccl-tests.git v2.19.6", "gdrcopy.git v2.5.1", "pyxis.git v0.24.0"}
    assert installers | commits <= published


def test_update_accepts_components_stacks_systems_targets_and_tools(downloading: Repository) -> None:
    loaded, tools = downloading.load(), tooling.read(downloading.root)
    found = {
        name: sorted(str(want).rpartition("/")[2] for want in wants)
        for name, wants in locking.names(loaded, tools).items()
    }
    fabric = ["fabric-1.2-3-x86_64.tar.gz", "key.asc", "other.tar.gz"]
    suites = ["suite debian tiny", "suite debian tiny-security", "suite debian tiny-updates"]
    assert found.keys() == {
        "fabric",
        "hello",
        "plain-1",
        "tiny-1",
        "runner",
        "all",
    }  # without an AMI, no Packer plugin
    assert found["fabric"] == found["plain-1"] == fabric
    assert found["tiny-1"] == suites
    assert found["hello"] == ["requirements.lock"]  # its components, system and tools have names of their own
    assert len(found["all"]) == len(lock.all_wants(loaded, tools))


def test_an_ami_target_wants_the_plugins_of_packer(downloading: Repository) -> None:
    path = downloading.root / "catalog/systems/tiny-1.toml"
    path.write_text(
        path.read_text() + '[ami]\nuser = "a"\nregions = ["us-east-1"]\nparameter = "/images/{arch}"\n'
    )
    downloading.write(
        "catalog/targets/machine.toml",
        'summary = "an AMI"\nkind = "ami"\ncomponents = ["base"]\n' + flavour("tiny-1", "plain-1") + AMI,
    )
    found = locking.names(downloading.load(), tooling.read(downloading.root))
    assert sorted(want.subject for want in found["amazon"]) == [
        f"https://vendor.example/amazon_1.2.3_{arch}.zip" for arch in ("amd64", "arm64")
    ]
    assert "ami us-east-1 x86_64 /images/x86_64" in map(str, found["tiny-1"])


def test_lock_keeps_source_amis_of_other_regions_and_adds_those_of_the_site(downloading: Repository) -> None:
    path = downloading.root / "catalog/systems/tiny-1.toml"
    path.write_text(
        path.read_text() + '[ami]\nuser = "a"\nregions = ["us-east-1"]\nparameter = "/images/{arch}"\n'
    )
    downloading.write(
        "catalog/targets/machine.toml",
        'summary = "an AMI"\nkind = "ami"\ncomponents = ["base"]\n' + flavour("tiny-1", "plain-1") + AMI,
    )
    here = lock.Want("ami", "eu-west-1 x86_64 /images/x86_64")
    gone = lock.Want("ami", "eu-west-1 x86_64 /no/more")
    entry = lock.Entry(values={"id": "ami-0123456789abcdef0"}, verified=True)
    before = lock.Lock(entries={here: entry, gone: entry})
    wants = locking.wanted(knowledge_of(downloading.root), (), before, region="ap-south-1")
    assert sorted(want.subject.split()[0] for want in wants if want.kind == "ami") == [
        "ap-south-1",
        "eu-west-1",
        "us-east-1",
    ]
    assert lock.inputs_of(wants) == lock.inputs_of(lock.all_wants(downloading.load()))


# Tests of this repository's lock file, catalog/lock.json.


def test_the_committed_lock_matches_the_catalog(root: Path) -> None:
    loaded, committed = catalog.load(root), lock.read(root)
    wants = lock.all_wants(loaded, tooling.read(root))
    assert committed.inputs == lock.inputs_of(wants), "run: builder lock"
    assert [want.subject for want in wants if "{" in want.subject] == []
    assert committed.entries.keys() <= {*wants, *lock.in_other_regions(committed, wants)}
    assert (root / lock.LOCK_PATH).read_text() == lock.to_text(committed)


def test_containers_on_debian_are_locked_and_verified(root: Path) -> None:
    loaded, committed = catalog.load(root), lock.read(root)
    for target in loaded.targets.values():
        flavour = target.default
        if flavour.system == "debian-12" and target.kind == "container":
            read = sources.read(root, loaded, target, flavour)
            planned = plan.plan(load(root, loaded), target, flavour, read, committed, arch="x86_64")
            assert (planned.unlocked, planned.unverified) == ((), ())
