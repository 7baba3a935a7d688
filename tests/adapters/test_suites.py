"""Verification of the package lists that apt fetches for a base image against the lock."""

import hashlib
import os
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.container.bootstrap import make_root
from builder.adapters.container.maker import LayerMaker
from builder.adapters.engine.client import LAYERS, Image
from builder.adapters.host.workspace import Workspace, open_run
from builder.adapters.upstream.mirror import Mirror, apt_options, connection, discover
from builder.adapters.upstream.suites import SuiteVerifier
from builder.errors import IntegrityError, UsageError
from builder.events import Stream
from builder.model import Stack, Suite
from builder.site import MirrorSettings
from tests.support.repository import Repository, tiny_system

SYSTEM = tiny_system("tiny")
STACK = Stack(name="plain", summary="", pins={})
OLD, NEW = "Date: Sat, 11 Jul 2026 10:16:37 UTC\n", "Date: Thu, 19 Nov 2026 02:12:54 UTC\n"
SUITES = tuple(
    Suite(
        name=name,
        sha256=hashlib.sha256(OLD.encode()).hexdigest(),
        date="2026-07-11T10:16:37Z",
        snapshot=stamp,
    )
    for name, stamp in (("tiny", "1"), ("tiny-security", "2"), ("tiny-updates", "3"))
)


def bootstrap(root: Path, verifier: SuiteVerifier, **lists: str) -> int:
    """Run the hook as mmdebstrap does after apt has fetched these lists; return its exit code."""
    folder = root / "var/lib/apt/lists"
    folder.mkdir(parents=True)
    for suite, text in lists.items():
        (folder / f"mirror.example_debian_dists_{suite.replace('_', '-')}_InRelease").write_text(text)
    (root / "hook.sh").write_text(verifier.hook)
    done = subprocess.run(
        ["sh", str(root / "hook.sh"), str(root)], capture_output=True, text=True, timeout=30, check=False
    )
    for line in done.stdout.splitlines():
        verifier.line(line)
    return done.returncode


def make_verifier(**settings: str) -> SuiteVerifier:
    sources = tuple(f"deb http://mirror.example/debian {suite.name} main" for suite in SUITES)
    mirror = Mirror(settings=MirrorSettings(**settings), apt_sources=sources)  # type: ignore[arg-type]
    return SuiteVerifier(system=SYSTEM, suites=SUITES, mirror=mirror)


def test_package_lists_that_match_the_lock_give_no_message(tmp_path: Path) -> None:
    verifier = make_verifier()
    assert bootstrap(tmp_path, verifier, tiny=OLD, tiny_updates=OLD, tiny_security=OLD) == 0
    assert verifier.verify() == ""


def test_changed_update_suites_are_reported_in_one_message(tmp_path: Path) -> None:
    verifier = make_verifier()
    assert bootstrap(tmp_path, verifier, tiny=OLD, tiny_updates=NEW) == 0
    assert verifier.verify() == (
        "the package archive has changed since it was locked:"
        " tiny-security (2026-07-11T10:16:37Z → not in the sources),"
        " tiny-updates (2026-07-11T10:16:37Z → 2026-11-19T02:12:54Z);"
        f" to lock its state: builder lock --update {SYSTEM.name}"
    )


@pytest.mark.parametrize("date", ["Date: Wed, 09 Oct 2024 10:00:00 UTC\n", "Date: soon\n", "\n"])
def test_refuses_updates_older_than_the_locked_ones(tmp_path: Path, date: str) -> None:
    verifier = make_verifier()
    bootstrap(tmp_path, verifier, tiny=OLD, tiny_updates=OLD, tiny_security=date)
    with pytest.raises(IntegrityError, match="suite debian tiny-security differs") as caught:
        verifier.verify()
    assert "but the lock has 2026-07-11T10:16:37Z" in caught.value.message


@pytest.mark.parametrize(
    ("settings", "lists", "suite"),
    [
        ({}, {"tiny": NEW, "tiny_updates": OLD}, "tiny"),
        (
            {"snapshot": "http://s/{archive}/{stamp}"},
            {"tiny": OLD, "tiny_security": OLD, "tiny_updates": NEW},
            "tiny-updates",
        ),
    ],
)
def test_changed_suite_fails_the_bootstrap_with_both_digests(
    tmp_path: Path, settings: dict[str, str], lists: dict[str, str], suite: str
) -> None:
    verifier = make_verifier(**settings)
    assert bootstrap(tmp_path, verifier, **lists) == 1
    with pytest.raises(
        IntegrityError, match=f"suite debian {suite} differs from catalog/lock.json"
    ) as caught:
        verifier.verify()
    for part in (
        f"expected  sha256 {SUITES[0].sha256}",
        f"actual    sha256 {hashlib.sha256(NEW.encode()).hexdigest()}",
        f"url       http://mirror.example/debian/dists/{suite}/InRelease",
    ):
        assert part in caught.value.details
    assert f"builder lock --update 'suite debian {suite}'" in caught.value.hint
    assert caught.value.exit_code == 7


# Fake mmdebstrap that fetches one list and then runs the hook, like the real program.
MMDEBSTRAP = """#!/bin/sh
mkdir -p {root}/var/lib/apt/lists
echo '{line}' > {root}/var/lib/apt/lists/mirror_debian_dists_tiny_InRelease
for word; do
    case "$word" in --extract-hook=*) sh -c "${{word#*=}}" hook {root} || exit 25 ;; esac
done
"""


@pytest.mark.parametrize("line", [OLD, NEW], ids=["locked", "changed"])
def test_base_of_a_changed_archive_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    program = tmp_path / "bin/mmdebstrap"
    program.parent.mkdir()
    program.write_text(MMDEBSTRAP.format(root=tmp_path / "root", line=line.strip()))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    refused = pytest.raises(IntegrityError, match="suite debian tiny differs from")
    outcome = refused if line == NEW else nullcontext()
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as run, outcome:
        tar = make_root(run, SYSTEM, Mirror(), say=lambda _: None, suites=SUITES[:1])
        assert tar == run.scratch / "tiny-1.tar"


def test_refuses_a_release_without_an_inrelease_file(tmp_path: Path) -> None:
    verifier = make_verifier()
    assert bootstrap(tmp_path, verifier) == 1
    with pytest.raises(IntegrityError, match="no InRelease file"):
        verifier.verify()


# Package sources.


def test_site_with_snapshots_uses_the_locked_snapshots() -> None:
    settings = MirrorSettings(snapshot="http://s.example/{archive}/{stamp}")
    mirror = discover(settings, SYSTEM, STACK, SUITES)
    assert mirror.apt_sources == (
        "deb [check-valid-until=no] http://s.example/debian/1 tiny main",
        "deb [check-valid-until=no] http://s.example/debian-security/2 tiny-security main",
        "deb [check-valid-until=no] http://s.example/debian/3 tiny-updates main",
    )
    assert not any("Valid-Until" in option for option in apt_options(mirror))  # vendors' lists must expire


def test_mirror_prefixes_apply_to_package_archives() -> None:
    settings = MirrorSettings(
        apt="http://a.example/debian", prefixes={"http://a.example/": "http://b.example/"}
    )
    mirror = discover(settings, SYSTEM, STACK, SUITES)
    assert mirror.apt_sources == (
        "deb http://b.example/debian tiny main",
        "deb http://b.example/debian tiny-updates main",
        "deb http://b.example/debian-security tiny-security main",
    )
    assert not any("Valid-Until" in option for option in apt_options(mirror))


def test_folders_of_file_urls_in_mirror_prefixes_are_mounted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    prefixes = {
        "https://a/": f"file://{tmp_path}/a/",
        "https://b/": f"file://{tmp_path}/x-",
        "https://c/": "http://c/",
    }
    found = connection(MirrorSettings(prefixes=prefixes))
    assert found.folders == (tmp_path, tmp_path / "a")
    with pytest.raises(UsageError, match=f"no folder {tmp_path}/none"):
        connection(MirrorSettings(prefixes={"https://a/": f"file://{tmp_path}/none/"}))


class Recorder:
    """Fake engine that records pulls and tags, and lists every tagged image as a layer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def layers(self) -> dict[str, Image]:
        keys = [words[3] for words in self.asked if words[0] == "tag"]
        return {key: Image(id=f"image of {key}", tags=(), labels={}, size_bytes=0, created=0) for key in keys}

    def inspect_image(self, image: str) -> None:
        """Return None: the fake engine has no image before the pull."""

    def pull(self, reference: str, **_: object) -> None:
        self.asked.append(("pull", reference))

    def tag(self, image: str, repository: str, tag: str) -> None:
        self.asked.append(("tag", image, repository, tag))


def test_pulls_a_base_by_digest_through_the_mirror(repository: Repository, tmp_path: Path) -> None:
    repository.replace("catalog/systems/tiny-1.toml", 'suite = "tiny"\npackages = ["python3"]', "")
    repository.replace("catalog/systems/tiny-1.toml", "[bootstrap]", 'image = "host:5000/tiny:1.0"')
    repository.relock()
    plan, engine = repository.plan(), Recorder()
    settings = MirrorSettings(prefixes={"host:5000/": "mirror.example/host/"})
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as run:
        maker = LayerMaker(
            engine=engine,  # type: ignore[arg-type]
            run=run,
            root=repository.root,
            events=Stream(),
            jobs=1,
            mirror=lambda _: Mirror(settings=settings),
            cache=None,
            last_layers=lambda _: {},
        )
        assert maker.ensure_base(plan) == f"image of {plan.layers[0].key}"
    image = f"mirror.example/host/tiny@sha256:{'c' * 64}"
    assert engine.asked == [("pull", image), ("tag", image, LAYERS, plan.layers[0].key)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, []),
        ({"apt_sources": ("deb [arch=amd64] https://deb.debian.org/debian bookworm main",)}, []),
        ({"apt_sources": ("deb [arch=amd64] http://127.0.0.2/debian bookworm main",)}, [("127.0.0.2", 80)]),
        ({"pip_index": "https://localhost/x", "pip_find_links": ("/opt/wheels",)}, [("localhost", 443)]),
        ({"pip_extra_indexes": ("http://[::1]:3141/x", "file:///x")}, [("::1", 3141)]),
        (
            {"settings": MirrorSettings(prefixes={"https://x/": "http://user:word@127.0.0.1:1/"})},
            [("127.0.0.1", 1)],
        ),
        ({"proxies": {"HTTP_PROXY": "localhost:3128"}}, [("localhost", 3128)]),
        ({"proxies": {"HTTP_PROXY": "proxy.example.com:3128", "NO_PROXY": "localhost"}}, []),
    ],
)
def test_servers_on_loopback_are_forwarded_to_build_containers(
    fields: dict[str, Any], expected: list[tuple[str, int]]
) -> None:
    assert list(Mirror(**fields).loopback_servers) == expected


def test_an_invalid_port_of_a_mirror_is_refused() -> None:
    with pytest.raises(UsageError, match="Port could not be cast"):
        Mirror(pip_index="http://127.0.0.1:x/").loopback_servers  # noqa: B018 (computes the servers)
