"""Resolving lock entries against real git, pip and a registry on this machine, and moto for AWS."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builder import lock
from builder.adapters.aws.account import Account
from builder.adapters.aws.images import PublishedImages
from builder.adapters.registry.blobs import sha256
from builder.adapters.registry.client import CONFIG, MANIFEST, Blob, Registry
from builder.adapters.upstream.mirror import Mirror
from builder.adapters.upstream.resolver import Pool, SourceResolver, Wheels
from builder.errors import IntegrityError, MissingError
from builder.lock import Answer, Entry, Want
from builder.model import Bootstrap, System
from builder.rehearsal.registry.server import LocalRegistry
from builder.site import MirrorSettings
from tests.adapters.test_fetch import BYTES, MEASURED, Web, serving
from tests.support.repository import Repository
from tests.support.wheels import make_wheel

SYSTEM = System(
    name="debian-12",
    summary="",
    distribution="debian",
    family="debian",
    release="12",
    arches=("x86_64",),
    python="3.11",
    bootstrap=Bootstrap(suite="tiny", packages=()),
)
SUITES = {f"debian {suite}": SYSTEM for suite in ("tiny", "tiny-updates", "tiny-security")}


def resolver(
    root: Path, settings: MirrorSettings | None = None, wheels: Sequence[Wheels] = (), **mirror: object
) -> SourceResolver:
    connection = Mirror(settings=settings or MirrorSettings(), **mirror)  # type: ignore[arg-type]
    return SourceResolver(
        root=root,
        mirror=connection,
        systems=SUITES,
        wheels=lambda _: wheels,
        images=PublishedImages(Account(os.environ, region="us-east-1", network=connection.network)),
        cancelled=threading.Event(),
    )


@pytest.fixture
def web() -> Iterator[Web]:
    with serving(Web()) as served:
        yield served


def verified(answer: Answer) -> Mapping[str, str | int]:
    assert answer.entry.verified
    return answer.entry.values


def locked(**values: str | int) -> Entry:
    return Entry(values=values, verified=True)


# Archives


def test_measures_an_archive_through_the_mirror(web: Web, tmp_path: Path) -> None:
    web.files["/v/a.tar.gz"] = BYTES
    settings = MirrorSettings(prefixes={"https://vendor.example/": f"{web.url}/v/"})
    answer = resolver(tmp_path, settings).resolve(Want("archive", "https://vendor.example/a.tar.gz"))
    assert verified(answer) == {"sha256": MEASURED.sha256, "size": MEASURED.size}


# git

_GIT = {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *words],
        env=os.environ | _GIT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def source(tmp_path: Path, web: Web) -> tuple[str, dict[str, str]]:
    """Serve a git repository from a plain web server; return its URL and its commits by tag or branch."""
    folder = tmp_path / "source"
    folder.mkdir()
    git(folder, "init", "--quiet")
    commits = {}
    for name in ("v1.0", "v1.1", "main"):
        git(folder, "commit", "--quiet", "--allow-empty", "-m", name)
        commits[name] = git(folder, "rev-parse", "HEAD")
        if name == "v1.0":
            git(folder, "tag", "-a", "-m", "annotated", name)
        elif name == "v1.1":
            git(folder, "tag", name)
    git(folder, "branch", "v1.1", commits["v1.0"])  # the tag wins over a branch of the same name
    git(folder, "update-server-info")
    for path in (folder / ".git").rglob("*"):
        if path.is_file():
            web.files[f"/source.git/{path.relative_to(folder / '.git')}"] = path.read_bytes()
    return f"{web.url}/source.git", commits


@pytest.mark.parametrize("ref", ["v1.0", "v1.1", "main"])
def test_resolves_a_tag_or_branch_to_its_commit(
    source: tuple[str, dict[str, str]], tmp_path: Path, ref: str
) -> None:
    url, commits = source
    settings = MirrorSettings(prefixes={"https://code.example/": f"{url.rpartition('/')[0]}/"})
    want = Want("git", f"https://code.example/source.git {ref}")
    asking = resolver(tmp_path, settings)
    assert verified(asking.resolve(want)) == {"commit": commits[ref]}
    assert verified(asking.confirm(want, locked(commit="0" * 40))) == {"commit": commits[ref]}


def test_verifies_a_commit_only_if_a_branch_or_tag_points_at_it(
    source: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    url, commits = source
    assert (
        verified(resolver(tmp_path).resolve(Want("git", f"{url} {commits['main']}")))["commit"]
        == commits["main"]
    )
    unknown = resolver(tmp_path).resolve(Want("git", f"{url} {'1' * 40}"))
    assert unknown.entry == Entry(values={"commit": "1" * 40}, verified=False)
    assert unknown.note == "no branch or tag points at this commit"


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("{url} v9", "has no tag or branch 'v9'"),
        ("https://code.invalid/a.git v1", "code.invalid cannot be reached: Name or service not known"),
        ("{url}x v1", "not found"),
    ],
)
def test_reports_why_git_failed(
    source: tuple[str, dict[str, str]], tmp_path: Path, subject: str, words: str
) -> None:
    with pytest.raises(MissingError, match=words):
        resolver(tmp_path).resolve(Want("git", subject.format(url=source[0])))


@pytest.mark.parametrize(
    "prefix", ["--upload-pack=touch {}; false ", "ext::touch {} ", "-c=core.sshCommand=touch {} "]
)
@pytest.mark.parametrize("by_mirror", [False, True])
def test_git_url_that_names_a_command_runs_no_command(tmp_path: Path, prefix: str, by_mirror: bool) -> None:
    ran = tmp_path / "ran"
    url = prefix.format(ran).strip()
    settings = MirrorSettings(prefixes={"https://code.example/": url} if by_mirror else {})
    want = Want("git", f"{'https://code.example/' if by_mirror else url} v1")
    with pytest.raises(MissingError, match="git: "):
        resolver(tmp_path, settings).resolve(want)
    assert not ran.exists()


# Container images


def put_image(registry: Registry, arch: str) -> tuple[bytes, str]:
    config = json.dumps({"os": "linux", "architecture": arch}).encode()
    registry.push_blob("base/tiny", Blob.of(config))
    content = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": sha256(config), "size": len(config)},
            "layers": [],
        }
    ).encode()
    return content, registry.put_manifest("base/tiny", f"only-{arch}", content)


@pytest.fixture
def images(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve an image for two architectures; yield the registry's host and the digests by architecture."""
    with LocalRegistry(tmp_path / "registry") as local, Registry(local.host) as registry:
        parts = {arch: put_image(registry, arch) for arch in ("amd64", "arm64")}
        entries = [
            {"mediaType": MANIFEST, "digest": digest, "size": len(content), "platform": platform}
            for arch, (content, digest) in reversed(parts.items())
            for platform in (
                {"os": "unknown", "architecture": "unknown"},
                {"os": "linux", "architecture": arch},
            )
        ]
        kind = "application/vnd.oci.image.index.v1+json"
        index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
        registry.put_manifest("base/tiny", "1.0", index, kind)
        yield local.host, {arch: digest for arch, (_, digest) in parts.items()}


def test_resolves_a_tag_to_the_digest_for_an_architecture(
    images: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    host, digests = images
    settings = MirrorSettings(prefixes={"registry.example/": f"{host}/"})
    asking = resolver(tmp_path, settings)
    for arch, name in (("x86_64", "amd64"), ("arm64", "arm64")):
        answer = asking.resolve(Want("image", f"registry.example/base/tiny:1.0 {arch}"))
        assert verified(answer) == {"digest": digests[name]}
    only = asking.resolve(Want("image", f"{host}/base/tiny:only-arm64 arm64"))
    assert verified(only) == {"digest": digests["arm64"]}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("base/tiny:2.0", "has no 2.0"),
        ("base/tiny:only-arm64", "is for arm64, not for amd64"),
        ("base/none:1.0", "has no 1.0"),
    ],
)
def test_names_a_missing_image_or_architecture(
    images: tuple[str, dict[str, str]], tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(MissingError, match=words):
        resolver(tmp_path).resolve(Want("image", f"{images[0]}/{name} x86_64"))


def test_confirms_a_locked_digest_even_if_its_tag_has_moved(
    images: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    host, digests = images
    want = Want("image", f"{host}/base/tiny:moved-on x86_64")
    asking = resolver(tmp_path)
    assert verified(asking.confirm(want, locked(digest=digests["amd64"]))) == {"digest": digests["amd64"]}
    with pytest.raises(IntegrityError, match="no longer has"):
        asking.confirm(want, locked(digest=f"sha256:{'0' * 64}"))


def test_reports_an_unreachable_registry(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"registry\.invalid cannot be reached"):
        resolver(tmp_path).resolve(Want("image", "registry.invalid/base/tiny:1.0 x86_64"))


# Package archives

LIST = "Origin: Tiny\nSuite: {suite}\nDate: {date}\n"
DATES = {"tiny": "Sat, 11 Jul 2026 10:16:37 UTC", "tiny-updates": "Thu, 19 Nov 2026 02:12:54 UTC"}


def publish(web: Web, path: str, suite: str, date: str) -> str:
    content = LIST.format(suite=suite, date=date).encode()
    web.files[f"{path}/dists/{suite}/InRelease"] = content
    return hashlib.sha256(content).hexdigest()


def test_resolves_a_suite_to_its_inrelease_file(web: Web, tmp_path: Path) -> None:
    asking = resolver(tmp_path, MirrorSettings(apt=f"{web.url}/debian/"))
    digest = publish(web, "/debian", "tiny", DATES["tiny"])
    values = verified(asking.resolve(Want("suite", "debian tiny")))
    assert (values["sha256"], values["date"]) == (digest, "2026-07-11T10:16:37Z")
    assert len(str(values["snapshot"])) == len("20260711T101637Z")
    digest = publish(web, "/debian-security", "tiny-security", DATES["tiny"])
    assert verified(asking.resolve(Want("suite", "debian tiny-security")))["sha256"] == digest


def test_confirm_keeps_the_entry_of_a_changed_update_suite_but_not_of_a_release_suite(
    web: Web, tmp_path: Path
) -> None:
    asking = resolver(tmp_path, MirrorSettings(apt=f"{web.url}/debian"))
    for suite in ("tiny", "tiny-updates"):
        want = Want("suite", f"debian {suite}")
        publish(web, "/debian", suite, DATES["tiny"])
        entry = asking.resolve(want).entry
        assert asking.confirm(want, entry) == Answer(entry=entry)
        publish(web, "/debian", suite, DATES["tiny-updates"])
        later = asking.confirm(want, entry)
        if suite == "tiny":
            assert later.entry.values["date"] == "2026-11-19T02:12:54Z"
            assert later.entry.values["sha256"] != entry.values["sha256"]
        else:
            assert (later.entry, later.note) == (
                entry,
                "newer upstream (2026-11-19T02:12:54Z); builds report the difference",
            )


def test_confirm_reads_the_locked_snapshot_of_each_suite(web: Web, tmp_path: Path) -> None:
    settings = MirrorSettings(apt=f"{web.url}/debian", snapshot=f"{web.url}/{{archive}}/{{stamp}}")
    publish(web, "/debian", "tiny-updates", DATES["tiny-updates"])
    digest = publish(web, "/debian/20260711T110000Z", "tiny-updates", DATES["tiny"])
    other = publish(web, "/debian-security/20260711T110000Z", "tiny-security", DATES["tiny"])
    asking = resolver(tmp_path, settings)
    entry = locked(sha256=digest, date="2026-07-11T10:16:37Z", snapshot="20260711T110000Z")
    assert verified(asking.confirm(Want("suite", "debian tiny-updates"), entry)) == entry.values
    changed = asking.confirm(Want("suite", "debian tiny-security"), entry)
    assert changed.entry.values["sha256"] == other
    with pytest.raises(IntegrityError, match="has no snapshot"):
        asking.confirm(Want("suite", "debian tiny-updates"), locked(sha256=digest))
    with pytest.raises(MissingError, match="404"):  # this archive has no snapshot of the current time
        asking.resolve(Want("suite", "debian tiny-updates"))


def test_refuses_an_invalid_archive(web: Web, tmp_path: Path) -> None:
    web.files["/debian/dists/tiny/InRelease"] = b"<html>"
    with pytest.raises(MissingError, match="is not an InRelease file"):
        resolver(tmp_path, MirrorSettings(apt=f"{web.url}/debian")).resolve(Want("suite", "debian tiny"))


# AMIs


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Create AMIs in one region of a moto account; yield their ids by name."""
    from moto import mock_aws
    from moto.ec2 import ec2_backends

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        backend = ec2_backends["123456789012"]["eu-west-1"]
        found = {}
        for name, arch, created in (
            ("tiny-2026.1", "x86_64", datetime(2026, 1, 1, tzinfo=UTC)),
            ("tiny-2026.3", "arm64", datetime(2026, 3, 1, tzinfo=UTC)),
            ("tiny-2026.2", "x86_64", datetime(2026, 2, 1, tzinfo=UTC)),
            ("other-2026.4", "x86_64", datetime(2026, 4, 1, tzinfo=UTC)),
        ):
            image = backend.register_image(name, "")
            image.architecture, image.creation_date = arch, created
            found[name] = image.id
        yield found


def test_resolves_the_newest_ami_of_an_owner_and_architecture(cloud: dict[str, str], tmp_path: Path) -> None:
    want = Want("ami", "eu-west-1 x86_64 123456789012/tiny-*")
    asking = resolver(tmp_path)
    answer = asking.resolve(want)
    assert verified(answer) == {
        "id": cloud["tiny-2026.2"],
        "name": "tiny-2026.2",
        "owner": "123456789012",
        "created": "2026-02-01T00:00:00.000Z",
        "device": "/dev/sda1",
        "size_gib": 15,
    }
    assert asking.confirm(want, answer.entry) == answer
    arm = asking.resolve(Want("ami", "eu-west-1 arm64 123456789012/tiny-*"))
    assert verified(arm)["name"] == "tiny-2026.3"


def test_resolves_the_ami_of_an_ssm_parameter(cloud: dict[str, str], tmp_path: Path) -> None:
    import boto3

    parameter = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    public = verified(resolver(tmp_path).resolve(Want("ami", f"us-east-1 x86_64 {parameter}")))
    assert str(public["name"]).startswith("al2023-ami-2023")
    ssm = boto3.client("ssm", region_name="eu-west-1")
    ssm.put_parameter(Name="/images/tiny", Value=cloud["tiny-2026.1"], Type="String")
    found = resolver(tmp_path).resolve(Want("ami", "eu-west-1 x86_64 /images/tiny"))
    assert verified(found)["id"] == cloud["tiny-2026.1"]
    ssm.put_parameter(Name="/images/gone", Value="ami-00000000", Type="String")
    with pytest.raises(MissingError, match="/images/gone points to ami-00000000, which does not exist"):
        resolver(tmp_path).resolve(Want("ami", "eu-west-1 x86_64 /images/gone"))


def test_refuses_a_locked_ami_that_is_gone_or_renamed(cloud: dict[str, str], tmp_path: Path) -> None:
    want = Want("ami", "eu-west-1 x86_64 123456789012/tiny-*")
    asking = resolver(tmp_path)
    with pytest.raises(IntegrityError, match="ami-00000000 no longer exists"):
        asking.confirm(want, locked(id="ami-00000000"))
    with pytest.raises(IntegrityError, match=r"has name tiny-2026\.1, but the lock has tiny-2026\.2"):
        asking.confirm(want, locked(id=cloud["tiny-2026.1"], name="tiny-2026.2", owner="123456789012"))


def test_verifying_an_ami_reports_a_newer_ami_of_its_source(cloud: dict[str, str], tmp_path: Path) -> None:
    want = Want("ami", "eu-west-1 x86_64 123456789012/tiny-*")
    old = locked(id=cloud["tiny-2026.1"], name="tiny-2026.1", owner="123456789012")
    answer = resolver(tmp_path).confirm(want, old)
    assert verified(answer)["id"] == cloud["tiny-2026.1"]
    assert answer.note == (
        f"{cloud['tiny-2026.2']} (tiny-2026.2) of 2026-02-01 is newer:"
        " builder lock --update 'ami eu-west-1 x86_64 123456789012/tiny-*'"
    )


def test_verifying_an_ami_reports_that_its_source_names_no_ami(cloud: dict[str, str], tmp_path: Path) -> None:
    old = locked(id=cloud["tiny-2026.1"])
    answer = resolver(tmp_path).confirm(Want("ami", "eu-west-1 x86_64 /images/retired"), old)
    assert verified(answer)["id"] == cloud["tiny-2026.1"]
    assert answer.note.startswith("no current AMI is published there: AWS eu-west-1: ParameterNotFound")


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (None, ""),
        (-3, "deprecated since {day}"),
        (30, "will be deprecated on {day}"),
        (400, ""),
    ],
)
def test_verifying_an_ami_reports_its_deprecation(
    cloud: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int | None, words: str
) -> None:
    """moto has no deprecation of AMIs; test_ami_publisher reads it from a rehearsal."""
    until = f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT00:00:00.000Z}" if days else ""
    monkeypatch.setattr(PublishedImages, "deprecation", lambda _, **words: until)
    want = Want("ami", "eu-west-1 x86_64 123456789012/tiny-*")
    newest = locked(id=cloud["tiny-2026.2"])
    assert resolver(tmp_path).confirm(want, newest).note == words.format(day=until[:10])


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("eu-west-1 x86_64 123456789012/none-*", "eu-west-1: no image none-* of 123456789012 for x86_64"),
        ("eu-west-1 x86_64 /none", "AWS eu-west-1: ParameterNotFound"),
    ],
)
def test_reports_a_missing_ami_or_parameter(
    cloud: dict[str, str], tmp_path: Path, subject: str, words: str
) -> None:
    with pytest.raises(MissingError) as caught:
        resolver(tmp_path).resolve(Want("ami", subject))
    assert caught.value.message.startswith(words)


def test_fails_without_aws_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(MissingError, match="no AWS credentials found") as caught:
        resolver(tmp_path).resolve(Want("ami", "eu-west-1 x86_64 /images/tiny"))
    assert "aws configure" in caught.value.hint


# Python requirements


@pytest.mark.parametrize(
    ("digest", "version", "outcome"),
    [
        ("right", "1.0", "verified"),
        ("0" * 64, "1.0", "refused"),
        ("right", "2.0", "unverified"),
        ("", "", "empty"),
    ],
)
def test_verifies_requirements_with_a_dry_run_of_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str, version: str, outcome: str
) -> None:
    found = make_wheel(tmp_path / "wheels")
    (tmp_path / "index").mkdir()
    digest = found if digest == "right" else digest
    text = f"greet=={version} ; python_version >= '3.11' \\\n    --hash=sha256:{digest}\n" if version else ""
    (tmp_path / "requirements.lock").write_text(text)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # pip must use only the resolver's settings
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    mirror = Mirror(pip_index=f"file://{tmp_path}/index", pip_find_links=(str(tmp_path / "wheels"),))
    asking = resolver(tmp_path, wheels=[Wheels(python="3.11", arch="x86_64", mirror=mirror)])
    want = Want("requirements", "requirements.lock")
    if outcome == "refused":
        with pytest.raises(IntegrityError, match=f"expected sha256 {digest}, got {found}"):
            asking.resolve(want)
        return
    answer = asking.resolve(want)
    values = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "packages": 1 if version else 0}
    assert answer.entry == Entry(values=values, verified=outcome != "unverified")
    missing = f"no index of this site has the wheel greet==2.0; asked: file://{tmp_path}/index"
    assert answer.note.startswith(missing if outcome == "unverified" else "")
    assert bool(answer.note) == (outcome == "unverified")


@pytest.mark.parametrize("only", [False, True])
def test_asks_the_index_of_the_stack_for_wheels_that_the_site_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: bool
) -> None:
    digest = make_wheel(tmp_path / "greet")
    (tmp_path / "index").mkdir()
    (tmp_path / "requirements.lock").write_text(f"greet==1.0 --hash=sha256:{digest}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    (tmp_path / "greet/index.html").write_text('<a href="greet-1.0-py3-none-any.whl">greet</a>')
    mirror = Mirror(
        settings=MirrorSettings(only=only),
        pip_index=f"file://{tmp_path}/index",
        wheel_index=f"file://{tmp_path}",
    )
    asking = resolver(tmp_path, wheels=[Wheels(python="3.11", arch="x86_64", mirror=mirror)])
    answer = asking.resolve(Want("requirements", "requirements.lock"))
    assert answer.entry.verified != only
    assert (f"the stack expects it at file://{tmp_path}" in answer.note) == only


def test_refuses_requirements_without_a_file_or_hashes(tmp_path: Path) -> None:
    want = Want("requirements", "requirements.lock")
    with pytest.raises(MissingError, match=r"no file requirements\.lock"):
        resolver(tmp_path).resolve(want)
    (tmp_path / "requirements.lock").write_text("greet==1.0\n")
    with pytest.raises(IntegrityError, match="needs an exact version and a sha256 hash"):
        resolver(tmp_path).resolve(want)


# Thread pool


def test_pool_runs_jobs_in_parallel() -> None:
    barrier = threading.Barrier(3, timeout=30)  # passes only if three threads wait at once

    def meet(number: int) -> int:
        barrier.wait()
        return number

    pool = Pool(jobs=3, cancelled=threading.Event())
    assert sorted(pool(meet, [1, 2, 3])) == [1, 2, 3]
    assert list(pool(meet, [])) == []


def test_first_error_ends_the_pool() -> None:
    cancelled = threading.Event()
    done: list[int] = []

    def work(number: int) -> int:
        if number == 2:
            raise IntegrityError("job 2 failed")
        done.append(number)
        return number

    with pytest.raises(IntegrityError, match="job 2 failed"):
        list(Pool(jobs=1, cancelled=cancelled)(work, list(range(9))))
    assert cancelled.is_set()
    assert done == [0, 1]


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interruption_ends_a_request_to_a_silent_server(repository: Repository, sign: signal.Signals) -> None:
    path = repository.root / "catalog/components/fabric.toml"
    path.write_text(path.read_text() + '[[downloads]]\nname = "a"\nurl = "https://vendor.example/a.tar.gz"\n')
    repository.relock()
    before = (repository.root / lock.LOCK_PATH).read_text()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        repository.write("site.toml", f'[mirror.prefixes]\n"https://vendor.example/" = "{url}"\n')
        argv = [sys.executable, "-m", "builder.cli.main", "lock", "--update", "fabric", "--root"]
        with subprocess.Popen([*argv, str(repository.root)], stderr=subprocess.PIPE, text=True) as child:
            connection, _ = silent.accept()
            child.send_signal(sign)
            _, stderr = child.communicate(timeout=30)
            connection.close()
    assert (child.returncode, (repository.root / lock.LOCK_PATH).read_text()) == (130, before)
    assert f"interrupted by {sign.name}" in stderr
    assert "Traceback" not in stderr
