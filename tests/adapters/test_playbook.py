"""Plays in build containers: package folders, mirrors for roles, and errors of failed plays."""

import json
from pathlib import Path

import pytest

from builder.adapters.ansible import failures, packages, playbook, runtime
from builder.adapters.host.workspace import Workspace, open_run
from builder.adapters.upstream.mirror import Mirror
from builder.errors import BuildError, FactoryError, IntegrityError
from builder.events import Stream
from builder.site import MirrorSettings
from tests.support.repository import Repository


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(home=tmp_path / "home", out=tmp_path / "out")


def test_empty_folder_of_package_lists_has_mtime_zero(workspace: Workspace) -> None:
    with open_run(workspace, "test") as run:
        binds = packages.mounts(workspace.cache("apt", "tiny"), run.scratch / "layer")
        assert Path(binds[1].source).stat().st_mtime == 0


def test_mirrors_are_role_variables_but_not_part_of_layer_keys(
    tmp_path: Path, repository: Repository
) -> None:
    plan = repository.plan()
    prefixes = {"https://a.example/": "http://b.example/", "https://c.example/": "file:///srv/c/"}
    playbook.write_settings(
        tmp_path, plan.layers[1], plan, Mirror(settings=MirrorSettings(prefixes=prefixes))
    )
    variables = json.loads((tmp_path / "variables.json").read_text())
    assert variables["factory_mirrors"] == {
        "https://a.example/": "http://b.example/",
        "https://c.example/": "file:///dev/factory/host/srv/c/",
    }
    repository.write("site.toml", '[mirror.prefixes]\n"https://a.example/" = "http://b.example/"\n')
    assert repository.plan() == plan


def test_listener_records_the_paths_of_deleted_events() -> None:
    listener = playbook.Listener(Stream(), "hello/fabric")
    listener.line(json.dumps({"event": "deleted", "paths": ["/etc/old"]}))
    assert listener.deleted == ["/etc/old"]


FAILED = {"event": "failed", "role": "efa", "task": "Fetch the installer", "seconds": 1.0, "details": ""}


def failure(repository: Repository, mirror: Mirror | None = None, **fields: str) -> FactoryError:
    listener = playbook.Listener(Stream(), "hello/fabric")
    listener.line(json.dumps({**FAILED, **fields}))
    listener.line(json.dumps({**FAILED, "message": "a later failure"}))
    return failures.failure("layer 'system'", repository.plan(), listener, 2, mirror or Mirror())


def test_checksum_mismatch_is_reported_with_url_and_both_digests(repository: Repository) -> None:
    url = "https://vendor.example/installer.tar.gz"
    error = failure(repository, message="other bytes", url=url, expected="a" * 64, actual="b" * 64)
    assert isinstance(error, IntegrityError)
    assert error.exit_code == 7
    assert f"role 'efa': Fetch the installer: {url} does not match its locked checksum" in error.message
    assert error.details == f"expected  {'a' * 64}\nactual    {'b' * 64}\nurl       {url}"
    assert f"builder lock --update 'archive {url}'" in error.hint
    assert "mirror.prefixes" in error.hint


def test_error_for_a_wrong_commit_names_its_lock_entry(repository: Repository) -> None:
    error = failure(repository, message="moved", url="https://vendor.example/x v1", expected="a" * 40)
    assert isinstance(error, IntegrityError)
    assert "builder lock --update 'git https://vendor.example/x v1'" in error.hint


def test_error_for_a_wrong_wheel_hash_names_the_python_lock(repository: Repository) -> None:
    message = "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"
    error = failure(repository, message=message, role="workload_env")
    assert isinstance(error, IntegrityError)
    assert "builder lock --update 'requirements containers/hello/requirements.lock'" in error.hint
    repository.write("catalog/stacks/plain.requirements.lock", f"base==1.0 --hash=sha256:{'0' * 64}\n")
    repository.replace(
        "catalog/stacks/plain-1.toml", "[pins]", 'requirements = "plain.requirements.lock"\n[pins]'
    )
    repository.write(
        "catalog/components/python_env.toml", 'summary = "p"\nlayer = "system"\nrequirements = "stack"\n'
    )
    repository.write("ansible/roles/python_env/defaults/main.yml", "python_env_requirements: []\n")
    repository.replace("catalog/targets/hello.toml", '["fabric"', '["python_env", "fabric"')
    error = failure(repository, message=message, role="python_env")
    assert isinstance(error, IntegrityError)
    assert "builder lock --update 'requirements catalog/stacks/plain.requirements.lock'" in error.hint


def test_failed_tasks_are_reported_as_errors_of_the_role(repository: Repository) -> None:
    error = failure(repository, message="no such file")
    assert isinstance(error, BuildError)
    assert "correct ansible/roles/efa" in error.hint


@pytest.mark.parametrize(
    "message",
    [
        "no package libfabric1=1.17* is available; versions: 1.20-1",
        "apt-get install: Unable to locate package libfabric9",
        "apt-get install: Package 'libfabric9' has no installation candidate",
        "apt-get update: Failed to fetch http://mirror.example/dists/bookworm/InRelease  404  Not Found",
    ],
)
def test_missing_packages_are_reported_as_errors_of_the_mirror(repository: Repository, message: str) -> None:
    error = failure(repository, message=message)
    assert isinstance(error, BuildError)
    assert "the package mirror lacks a requested package" in error.message
    assert "mirror.apt in site.toml" in error.hint
    assert message in error.details


PYTORCH = "https://wheels.example/cpu"
NO_WHEEL = (
    "Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: 2.13.0)\n"
    "ERROR: No matching distribution found for torch==2.13.0+cpu"
)


@pytest.mark.parametrize(
    ("mirror", "message", "hint"),
    [
        (
            Mirror(pip_index="http://pip.example/simple", wheel_index=PYTORCH),
            f"asked: http://pip.example/simple, {PYTORCH}",
            f'pip_extra_indexes = ["{PYTORCH}"]',
        ),
        (
            Mirror(
                pip_index="http://user:secret@pip.example/simple",
                pip_extra_indexes=("http://extra.example/",),
                wheel_index=PYTORCH,
                settings=MirrorSettings(only=True),
            ),
            f"asked: http://***@pip.example/simple, http://extra.example/; the stack expects it at {PYTORCH}",
            f'pip_extra_indexes = ["http://extra.example/", "{PYTORCH}"]',
        ),
        (
            Mirror(pip_extra_indexes=(PYTORCH,), wheel_index=PYTORCH),
            f"asked: pip's default index, {PYTORCH}",
            "",
        ),
        (Mirror(), "asked: pip's default index", "add an index that has it below [mirror] in site.toml"),
    ],
)
def test_a_missing_wheel_is_named_with_the_indexes(
    repository: Repository, mirror: Mirror, message: str, hint: str
) -> None:
    error = failure(repository, mirror, message=NO_WHEEL)
    assert error.exit_code == 4
    assert error.message.endswith(f"no index of this site has the wheel torch==2.13.0+cpu; {message}")
    assert hint in error.hint
    assert "ansible/roles" not in error.hint


def test_a_missing_wheel_of_the_runtime_is_named(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"no-such-ansible==1.0 --hash=sha256:{'0' * 64}\n")
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/index")
    with open_run(workspace, "test") as run, pytest.raises(BuildError) as caught:
        runtime.folder_of(run, lock, python="3.11", arch="x86_64")
    assert "no index of this host's pip has the wheel no-such-ansible==1.0" in caught.value.message
