"""Lock file: entries that a target requires, parsing and formatting, and the effect of entries on plans."""

import json

import pytest

from builder import lock
from builder.app.context import Context
from builder.errors import IntegrityError
from builder.lock import Entry, Lock, Want
from builder.pipeline import require_locked
from tests.support.repository import AMI, Repository, flavour

SHA = "a" * 64
ARCHIVE = "https://vendor.example/fabric-1.2-3-x86_64.tar.gz"
KEY = "https://vendor.example/key.asc"
SOURCE = "https://code.example/fabric.git v1.2-3"
DOWNLOADS = """
[[downloads]]
name = "archive"
url = "https://vendor.example/fabric-{version}-{arch}.tar.gz"
signature = "https://vendor.example/fabric-{version}-{arch}.tar.gz.sig"
key = "https://vendor.example/key.asc"
[[downloads]]
name = "source"
kind = "git"
url = "https://code.example/fabric.git"
ref = "v{version}"
[[downloads]]
name = "packages"
kind = "repository"
url = "https://vendor.example/repo/{codename}/"
suite = "./"
key = "https://vendor.example/key.asc"
"""


@pytest.fixture
def downloading(repository: Repository) -> Repository:
    path = repository.root / "catalog/components/fabric.toml"
    path.write_text(path.read_text() + DOWNLOADS)
    repository.relock()
    return repository


def edit(repository: Repository, kind: str, subject: str, **values: object) -> None:
    """Update an entry of the lock file, or remove the entry if no values are given."""
    path = repository.root / lock.LOCK_PATH
    table = json.loads(path.read_text())
    if values:
        table["entries"][kind][subject].update(values)
    else:
        del table["entries"][kind][subject]
    path.write_text(json.dumps(table))


def test_required_entries_include_every_download_of_a_target(downloading: Repository) -> None:
    loaded = downloading.load()
    found = lock.wants(loaded, loaded.targets["hello"], loaded.targets["hello"].default, arch="x86_64")
    assert [str(want) for want in found] == [
        f"archive {ARCHIVE}",
        f"archive {ARCHIVE}.sig",
        f"archive {KEY}",
        f"git {SOURCE}",
        "requirements ansible/requirements.lock",
        "requirements containers/hello/requirements.lock",
        "suite debian tiny",
        "suite debian tiny-security",
        "suite debian tiny-updates",
    ]
    assert {want.owner for want in found if want.kind in ("archive", "git")} == {"component fabric"}


def test_role_variables_contain_urls_digests_and_sizes(downloading: Repository) -> None:
    (system,) = (layer for layer in downloading.plan().layers if "fabric" in layer.components)
    assert system.variables["fabric_downloads"] == {
        "archive": {
            "url": ARCHIVE,
            "sha256": SHA,
            "size": 1,
            "signature": {"url": f"{ARCHIVE}.sig", "sha256": SHA, "size": 1},
            "key": {"url": KEY, "sha256": SHA, "size": 1},
        },
        "source": {"url": "https://code.example/fabric.git", "ref": "v1.2-3", "commit": "b" * 40},
        "packages": {
            "url": "https://vendor.example/repo/tiny/",
            "suite": "./",
            "signed_lists": False,
            "components": [],
            "key": {"url": KEY, "sha256": SHA, "size": 1},
        },
    }


@pytest.mark.parametrize(
    ("kind", "subject", "name", "value", "changed"),
    [
        ("archive", ARCHIVE, "sha256", "e" * 64, {"system", "final", "workload"}),
        ("git", SOURCE, "commit", "e" * 40, {"system", "final", "workload"}),
        ("suite", "debian tiny", "sha256", "e" * 64, {"base", "system", "final", "workload"}),
        ("archive", ARCHIVE, "size", 7, {"system", "final", "workload"}),  # bounds the download
        ("archive", ARCHIVE, "verified", False, set()),
    ],
)
def test_layer_keys_change_only_with_lock_values_that_roles_read(
    downloading: Repository, kind: str, subject: str, name: str, value: object, changed: set[str]
) -> None:
    before = downloading.keys()
    edit(downloading, kind, subject, **{name: value})
    after = downloading.keys()
    assert {layer for layer in before if before[layer] != after[layer]} == changed


@pytest.mark.parametrize(
    ("kind", "subject", "owner"),
    [
        ("archive", ARCHIVE, "component fabric"),
        ("git", SOURCE, "component fabric"),
        ("suite", "debian tiny-updates", "system tiny-1"),
        ("requirements", "containers/hello/requirements.lock", "target hello"),
    ],
)
def test_build_with_a_missing_lock_entry_is_refused(
    downloading: Repository, kind: str, subject: str, owner: str
) -> None:
    edit(downloading, kind, subject)
    with pytest.raises(IntegrityError, match="1 download of this build") as caught:
        require_locked([downloading.plan()])
    assert f"{kind} {subject} ({owner})" in caught.value.message
    assert caught.value.exit_code == 7


def test_build_with_changed_python_requirements_is_refused(repository: Repository) -> None:
    require_locked([repository.plan()])
    repository.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    with pytest.raises(IntegrityError, match="containers/hello/requirements"):
        require_locked([repository.plan()])


def test_unverified_download_is_listed_and_allowed(downloading: Repository) -> None:
    assert downloading.plan().unverified == ()
    edit(downloading, "archive", KEY, verified=False)
    assert downloading.plan().unverified == (f"archive {KEY}",)
    require_locked([downloading.plan()])


def test_pulled_base_image_uses_the_locked_digest(repository: Repository) -> None:
    repository.replace("catalog/systems/tiny-1.toml", 'suite = "tiny"\npackages = ["python3"]', "")
    repository.replace("catalog/systems/tiny-1.toml", "[bootstrap]", 'image = "host:5000/tiny:1.0"')
    assert repository.plan().unlocked == ("image host:5000/tiny:1.0 x86_64 (system tiny-1)",)
    repository.relock()
    plan = repository.plan()
    assert plan.base_image == f"host:5000/tiny@sha256:{'c' * 64}"
    assert plan.unlocked == ()


def test_required_entries_include_the_source_ami_of_every_region(repository: Repository) -> None:
    path = repository.root / "catalog/systems/tiny-1.toml"
    source = 'user = "admin"\nregions = ["us-east-1", "eu-west-1"]\nowner = "1"\nname = "tiny-{deb_arch}-*"'
    path.write_text(path.read_text() + f"[ami]\n{source}\n")
    repository.write(
        "catalog/targets/ami-hello.toml",
        'summary = "an AMI"\nkind = "ami"\ncomponents = ["base"]\n' + flavour("tiny-1", "plain-1") + AMI,
    )
    loaded = repository.load()
    target = loaded.targets["ami-hello"]
    local = lock.wants(loaded, target, target.default, arch="x86_64")
    assert {want.kind for want in local} == {"requirements", "suite"}
    found = lock.wants(loaded, target, target.default, arch="x86_64", site=lock.ACCOUNT)
    assert {want.kind for want in found} == {"requirements", "ami"}
    assert [want.subject for want in found if want.kind == "ami"] == [
        "eu-west-1 x86_64 1/tiny-amd64-*",
        "us-east-1 x86_64 1/tiny-amd64-*",
    ]


def test_an_account_build_needs_the_source_ami_of_its_own_region_only(repository: Repository) -> None:
    path = repository.root / "catalog/systems/tiny-1.toml"
    source = 'user = "admin"\nregions = ["us-east-1", "eu-west-1"]\nowner = "1"\nname = "tiny-{deb_arch}-*"'
    path.write_text(path.read_text() + f"[ami]\n{source}\n")
    repository.write(
        "catalog/targets/ami-hello.toml",
        'summary = "an AMI"\nkind = "ami"\ncomponents = ["base"]\n' + flavour("tiny-1", "plain-1") + AMI,
    )
    repository.write("site.toml", '[aws]\nregion = "ap-south-1"\n')
    planned = Context(repository.root, site_name="aws", arch="x86_64").plan("ami-hello")
    (missing,) = [text for text in planned.unlocked if text.startswith("ami ")]
    assert missing.startswith("ami ap-south-1 x86_64 1/tiny-amd64-*"), (
        "a region that the catalog does not name"
    )
    lines = (repository.root / lock.LOCK_PATH).read_text()
    table = json.loads(lines)
    table["entries"].setdefault("ami", {})["ap-south-1 x86_64 1/tiny-amd64-*"] = {
        "id": "ami-0123456789abcdef0",
        "name": "x",
        "owner": "1",
        "created": "x",
        "device": "/dev/xvda",
        "size_gib": 8,
        "verified": True,
    }
    (repository.root / lock.LOCK_PATH).write_text(json.dumps(table))
    planned = Context(repository.root, site_name="aws", arch="x86_64").plan("ami-hello")
    assert [text for text in planned.unlocked if text.startswith("ami ")] == []


def test_lock_file_round_trip_is_identical(downloading: Repository) -> None:
    text = (downloading.root / lock.LOCK_PATH).read_text()
    assert lock.to_text(lock.read(downloading.root)) == text


def test_lock_text_is_independent_of_the_order_of_entries() -> None:
    wants = [Want("git", "b v1"), Want("archive", "c"), Want("archive", "a")]
    entry = Entry(values={"sha256": SHA}, verified=True)
    texts = {
        lock.to_text(Lock(entries=dict.fromkeys(order, entry), inputs=lock.inputs_of(order)))
        for order in (wants, wants[::-1])
    }
    assert len(texts) == 1


def test_digest_of_lock_inputs_changes_with_the_required_entries() -> None:
    wants = [Want("git", "b v1")]
    assert lock.inputs_of(wants) == lock.inputs_of([*wants, *wants])
    assert lock.inputs_of(wants) != lock.inputs_of([*wants, Want("archive", "c")])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not a valid lock file: is empty"),
        ("null", "not a valid lock file: the document must be an object, not null"),
        ("{", "not a valid lock file"),
        ("[]", "not a valid lock file"),
        ('{"format": 9, "entries": {}}', "format 9, not 1"),
        ('{"format": 1, "entries": {"egg": {"a": {"verified": true}}}}', "unknown kind of entry 'egg'"),
        ('{"format": 1, "entries": {"git": {"a v1": {"commit": "main", "verified": true}}}}', "'main'"),
        ('{"format": 1, "entries": {"archive": {"a": {"sha256": "12", "verified": true}}}}', "'12'"),
        (
            '{"format": 1, "entries": {"archive": {"a": {"size": 12, "verified": true}}}}',
            "fields must be sha256",
        ),
        ('{"format": 1, "entries": {"archive": {"a": {"sha256": "12"}}}}', "verified must be"),
        (
            f'{{"format": 1, "entries": {{"archive": {{"a": {{"sha256": "{SHA}", "size": "x",'
            ' "verified": true}}}}',
            "invalid size 'x'",
        ),
    ],
)
def test_invalid_lock_file_is_refused(repository: Repository, text: str, problem: str) -> None:
    (repository.root / lock.LOCK_PATH).write_text(text)
    with pytest.raises(IntegrityError) as caught:
        lock.read(repository.root)
    assert problem in caught.value.message
    assert caught.value.exit_code == 7


def test_missing_lock_file_is_an_empty_lock(repository: Repository) -> None:
    (repository.root / lock.LOCK_PATH).unlink()
    assert lock.read(repository.root) == Lock()
    assert len(repository.plan().unlocked) == 5
