"""Compiling requirements.in with the real pip, from wheels in a folder."""

import json
import os
import threading
from pathlib import Path

import pytest

from builder import lock
from builder.adapters.host import process
from builder.adapters.upstream.compiling import Installation, Source, compile_lock
from builder.adapters.upstream.mirror import Mirror
from builder.adapters.upstream.pip import pip_install
from builder.adapters.upstream.resolver import Wheels
from builder.cli.main import main
from builder.errors import CatalogError, MissingError
from builder.lock import Want
from builder.requirements import is_outdated, parse_requirements, versions_of
from tests.support.repository import Repository
from tests.support.wheels import add_wheel

REQUIREMENTS = Want("requirements", "containers/hello/requirements.lock")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of wheels; it is the only source of packages."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "BUILDER_SITE_FILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/index")
    return tmp_path / "wheels"


def installation(wheels: Path, python: str = "3.11", arch: str = "x86_64", **provided: str) -> Installation:
    mirror = Mirror(pip_index=f"file://{wheels.parent}/index", pip_find_links=(str(wheels),))
    return Installation(
        wheels=Wheels(python=python, arch=arch, mirror=mirror), stack=f"plain-{python}", provided=provided
    )


def compiled(source: Path, *installations: Installation, **keep: str) -> tuple[str, ...]:
    text = compile_lock(
        Source(source, "requirements.in"), installations, keep=keep, cancelled=threading.Event()
    )
    return parse_requirements(text)


def test_markers_fit_the_image_and_packages_of_the_stack_are_left_out(wheels: Path, tmp_path: Path) -> None:
    needs = ["base", "old ; python_version < '3.12'", "arm ; platform_machine == 'aarch64'"]
    hashes = {name: add_wheel(wheels, name, "1.0") for name in ("old", "arm", "base")}
    hashes["greet"] = add_wheel(wheels, "greet", "1.0", needs)
    source = tmp_path / "requirements.in"
    source.write_text("Greet>=1  # a comment\n")
    lines = compiled(
        source, installation(wheels, base="1.0"), installation(wheels, "3.12", "arm64", base="1.0")
    )
    both = {
        "old": " ; python_version == '3.11' and platform_machine == 'x86_64'",
        "arm": " ; python_version == '3.12' and platform_machine == 'aarch64'",
        "greet": "",
    }
    assert set(lines) == {
        f"{name}==1.0{marker} --hash=sha256:{hashes[name]}" for name, marker in both.items()
    }


def test_packages_that_support_only_the_python_of_the_image_are_found(wheels: Path, tmp_path: Path) -> None:
    """pip runs with a newer Python than that of the image."""
    add_wheel(wheels, "old", "1.0", python="<3.11")
    sha256 = add_wheel(wheels, "greet", "1.0", ["old"], python="<3.11")
    source = tmp_path / "requirements.in"
    source.write_text("greet\n")
    lines = compiled(source, installation(wheels, "3.10"))
    assert f"greet==1.0 --hash=sha256:{sha256}" in lines
    with pytest.raises(MissingError, match=r"3\.12\.0 not in"):
        compiled(source, installation(wheels, "3.12"))


@pytest.mark.parametrize(("python", "code"), [("3.11", 1), ("3.12", 0)])
def test_a_lock_is_verified_with_the_markers_of_the_image(
    wheels: Path, tmp_path: Path, python: str, code: int
) -> None:
    add_wheel(wheels, "old", "1.0")
    lock = tmp_path / "requirements.lock"
    lock.write_text(f"old==1.0 ; python_version == '3.11' --hash=sha256:{'0' * 64}\n")
    argv = pip_install(lock, tmp_path / "venv", python=python, arch="x86_64")
    words = ("--dry-run", "--no-index", "--find-links", str(wheels))
    assert process.run([*argv, *words], timeout_s=60).code == code


def test_locked_versions_change_only_if_they_must(wheels: Path, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        add_wheel(wheels, "greet", version)
    source = tmp_path / "requirements.in"
    source.write_text("greet\n")
    assert versions_of(compiled(source, installation(wheels), greet="1.0")) == {"greet": "1.0"}
    assert versions_of(compiled(source, installation(wheels))) == {"greet": "2.0"}
    assert versions_of(compiled(source, installation(wheels), greet="0.9")) == {"greet": "2.0"}
    source.write_text("greet>=2\n")
    assert versions_of(compiled(source, installation(wheels), greet="1.0")) == {"greet": "2.0"}


def test_a_requirement_that_contradicts_the_stack_is_refused(wheels: Path, tmp_path: Path) -> None:
    add_wheel(wheels, "base", "1.0")
    add_wheel(wheels, "base", "2.0")
    add_wheel(wheels, "greet", "1.0", ["base>=2"])
    source = tmp_path / "requirements.in"
    source.write_text("greet\n")
    with pytest.raises(CatalogError) as caught:
        compiled(source, installation(wheels, base="1.0"))
    assert "greet 1.0 depends on base>=2" in caught.value.details
    assert "stack 'plain-3.11' pins base==1.0" in caught.value.details


def test_stacks_that_need_different_versions_are_refused(wheels: Path, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        add_wheel(wheels, "greet", version, [f"base=={version}"])
        add_wheel(wheels, "base", version)
    source = tmp_path / "requirements.in"
    source.write_text("greet\n")
    with pytest.raises(CatalogError) as caught:
        compiled(source, installation(wheels, base="1.0"), installation(wheels, "3.12", base="2.0"))
    assert "greet resolves to 1.0 with stack 'plain-3.11', and to 2.0 with stack" in caught.value.details


def test_error_for_a_package_that_no_index_has_names_the_indexes(wheels: Path, tmp_path: Path) -> None:
    add_wheel(wheels, "greet", "1.0")
    source = tmp_path / "requirements.in"
    source.write_text("greeet\n")
    with pytest.raises(
        MissingError, match=r"requirements\.in: no index of this site has the wheel greeet"
    ) as caught:
        compiled(source, installation(wheels))
    assert str(wheels) in caught.value.message


# The command


@pytest.fixture
def asking(repository: Repository, wheels: Path) -> Repository:
    """Repository with a target whose requirements.in is not compiled, and another target without a lock."""
    add_wheel(wheels, "greet", "1.0")
    repository.write(
        "catalog/components/other.toml",
        'summary = "o"\nlayer = "system"\n[[downloads]]\nname = "a"\nurl = "https://vendor.example/a"\n',
    )
    repository.write("ansible/roles/other/tasks/main.yml", "[]\n")
    target = (repository.root / "catalog/targets/hello.toml").read_text()
    repository.write(
        "catalog/targets/other.toml",
        target.replace('["fabric"', '["other"').replace('workload = "hello"', 'workload = "other"'),
    )
    for name in ("Dockerfile", "requirements.lock", "src/hello.py"):
        text = (repository.root / "containers/hello" / name).read_text()
        repository.write(f"containers/other/{name}", text.replace("hello/src", "other/src"))
    (repository.root / "containers/hello/requirements.lock").unlink()
    repository.write("containers/hello/requirements.in", "greet\n")
    (repository.root / "tests/golden").mkdir(parents=True)
    repository.write("site.toml", f'[mirror]\npip_find_links = ["{wheels}"]\n')
    return repository


def builder(repository: Repository, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main([*words, "--root", str(repository.root)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_locking_a_target_compiles_its_requirements_and_touches_nothing_else(
    asking: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = lock.read(asking.root)
    assert builder(asking, capsys, "list", "--names")[1].split() == ["hello", "other"]
    code, out, err = builder(asking, capsys, "lock", "hello")
    assert (code, err) == (0, "")
    assert (
        "containers/hello/requirements.lock: compiled from requirements.in, 1 package\n    greet - → 1.0"
        in out
    )
    assert "wrote tests/golden/hello.json" in out
    after = lock.read(asking.root)
    assert after.entries.keys() == before.entries.keys() | {REQUIREMENTS}
    assert all(after.entries[want] == entry for want, entry in before.entries.items() if want != REQUIREMENTS)
    assert after.entries[REQUIREMENTS].verified
    assert json.loads((asking.root / "tests/golden/hello.json").read_text())["unlocked"] == []
    code, out, _ = builder(asking, capsys, "lock", "hello")
    assert (code, "unchanged" in out, "wrote" in out) == (0, True, False)


def test_a_changed_requirements_in_must_be_locked_before_a_build(
    asking: Repository, capsys: pytest.CaptureFixture[str], wheels: Path
) -> None:
    builder(asking, capsys, "lock", "hello")
    add_wheel(wheels, "more", "1.0")
    asking.write("containers/hello/requirements.in", "greet\nmore\n")
    code, _, err = builder(asking, capsys, "build", "hello")
    assert code == 7
    assert f"missing or outdated: {REQUIREMENTS}" in err
    assert "hint: builder lock hello" in err
    path = asking.root / REQUIREMENTS.subject
    before = path.read_bytes()
    code, out, _ = builder(asking, capsys, "lock", "hello", "--diff")
    assert (code, path.read_bytes()) == (1, before)
    assert "    more - → 1.0" in out
    assert builder(asking, capsys, "lock", "hello")[0] == 0
    assert not is_outdated(path)


def test_updating_requirements_selects_newer_versions(
    asking: Repository, capsys: pytest.CaptureFixture[str], wheels: Path
) -> None:
    builder(asking, capsys, "lock", "hello")
    add_wheel(wheels, "greet", "2.0")
    assert "compiled" not in builder(asking, capsys, "lock", "hello")[1]
    out = builder(asking, capsys, "lock", "--update", str(REQUIREMENTS))[1]
    assert "    greet 1.0 → 2.0" in out


@pytest.mark.parametrize(
    "line", ["git+https://a.example/x", "-r other.txt", "x @ https://a.example/x.whl", "./x"]
)
def test_a_requirement_that_is_not_a_package_name_is_refused(
    asking: Repository, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    asking.write("containers/hello/requirements.in", f"{line}\n")
    code, _, err = builder(asking, capsys, "lock", "hello")
    assert code == 2
    assert "containers/hello/requirements.in: " in err
    assert "is not a package name with optional versions, extras and marker" in err


@pytest.mark.parametrize("content", [b"einops==0.8.2\n", b"\xff\xfe\n", b"git+https://a.example/x\n"])
def test_an_invalid_lock_is_refused_with_the_command_that_writes_it(
    repository: Repository, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (repository.root / "containers/hello/requirements.lock").write_bytes(content)
    code, _, err = builder(repository, capsys, "plan", "hello")
    assert code == 2
    assert "containers/hello/requirements.lock: " in err
    assert "list packages in containers/hello/requirements.in, then: builder lock hello" in err
