"""`builder init`, and the commands of the guides that use it, in a copy of this repository."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import lock
from builder.cli.main import main
from tests.support.output import result_of
from tests.support.repository import Repository
from tests.support.wheels import add_wheel

Capture = pytest.CaptureFixture[str]
GUIDES = ("target", "role")
# Commands of the guides that need an engine, another program or the vendor's servers; other tests run them.
NEEDS_MORE = re.compile(
    r"builder (build|check|logs|role)\b|make\b|git\b|molecule\b|python -m tests|cd\b|docker\b"
)
# Unit tests that read the catalog, the roles, the workloads or the lock of the repository.
CHECKS = ("catalog", "plan", "unused", "ansible_roles", "ansible_defects", "stack_catalog", "locking", "docs")


def copied(root: Path, folder: Path) -> Path:
    """Copy the tracked files of the repository; return the path of the copy."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    )
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, folder / name)
    return folder


def commands(guide: Path) -> Iterator[str]:
    """Yield the commands in the console blocks of a guide that need nothing but this machine."""
    for block in re.findall(r"^```console\n(.*?)^```", guide.read_text(encoding="utf-8"), re.M | re.S):
        yield from (line for line in block.splitlines() if line.strip() and not NEEDS_MORE.match(line))


@pytest.fixture(scope="module")
def followed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the commands of the guides were executed, in their order."""
    folder = tmp_path_factory.mktemp("guides")
    copy = copied(root, folder / "repository")
    add_wheel(folder / "wheels", "einops", "0.8.1")
    (folder / "index").mkdir()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("BUILDER_", "PIP_"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "BUILDER_HOME": str(folder / "home"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"file://{folder}/index",
        "PIP_FIND_LINKS": str(folder / "wheels"),
    }
    lines = [line for guide in GUIDES for line in commands(copy / f"docs/guides/{guide}.md")]
    assert any(line.startswith("builder init") for line in lines)
    for line in lines:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return copy


def test_followed_guides_pass_the_unit_tests(followed: Path) -> None:
    """Tests of texts in tracked files need a git repository, so the copy becomes one."""
    for words in ("init --quiet", "add --all"):
        subprocess.run(["git", *words.split()], cwd=followed, check=True, timeout=120)
    modules = [f"tests/unit/test_{name}.py" for name in (*CHECKS, "plain_english", "repository_tree")]
    # The commands of the guides change the plan of no other target.
    selected = ["-k", "not matches_its_golden_file or my-target"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selected, *modules],
        cwd=followed,
        env=os.environ | {"PYTHONPATH": str(followed)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]


def test_followed_guides_pass_the_linters(followed: Path) -> None:
    for words in ("ruff check .", "ruff format --check .", "yamllint --strict ansible"):
        program, *arguments = words.split()
        argv = [str(Path(sys.executable).with_name(program)), *arguments]
        done = subprocess.run(argv, cwd=followed, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout


def test_followed_guides_lock_the_package_of_the_target(followed: Path) -> None:
    text = (followed / "containers/my-target/requirements.lock").read_text(encoding="utf-8")
    assert "einops==0.8.1 \\\n    --hash=sha256:" in text


# Tests of `builder init` in a small repository.


def run(repository: Repository, capsys: Capture, *words: str) -> tuple[int, str, str]:
    code = main(["init", *words, "--root", str(repository.root)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [["target", "new"], ["component", "new"], ["stack", "cuda-1.0-new", "--from", "plain-1"]],
    ids=lambda words: words[0],
)
def test_prints_the_new_files_and_refuses_to_write_them_again(
    repository: Repository, capsys: Capture, words: list[str]
) -> None:
    before = files_of(repository.root)
    code, out, err = run(repository, capsys, *words)
    assert (code, err.startswith("next: builder ")) == (0, True)
    after = files_of(repository.root)
    assert set(out.split()) == after.keys() - before.keys()
    repository.load()
    code, _, err = run(repository, capsys, *words)
    assert (code, files_of(repository.root)) == (2, after)
    assert "exists already; nothing was written" in err


def test_locking_a_new_target_changes_no_other_lock_entry(repository: Repository, capsys: Capture) -> None:
    before = lock.read(repository.root)
    code = main(["init", "target", "new", "--json", "--root", str(repository.root)])
    assert code == 0
    assert result_of(capsys.readouterr().out)["next"] == "builder build new"
    after = lock.read(repository.root)
    new = {str(want) for want in after.entries.keys() - before.entries.keys()}
    assert new == {"requirements containers/new/requirements.lock"}
    assert all(after.entries[want] == entry for want, entry in before.entries.items())
    assert repository.plan("new").unlocked == ()


def test_a_new_target_starts_its_program_with_builder_run(repository: Repository, capsys: Capture) -> None:
    assert main(["init", "target", "new", "--root", str(repository.root)]) == 0
    launch = repository.load().targets["new"].launch
    assert launch is not None
    assert (launch.runner, launch.command) == ("none", ("python", "/opt/workload/main.py"))
    program = (repository.root / "containers/new/Dockerfile").read_text(encoding="utf-8")
    assert "COPY new/src/ /opt/workload/" in program
    assert (repository.root / "containers/new/src/main.py").is_file()


def test_overwrites_no_existing_file(repository: Repository, capsys: Capture) -> None:
    repository.write("containers/new/src/main.py", "print('mine')\n")
    before = files_of(repository.root)
    code, _, err = run(repository, capsys, "target", "new")
    assert code == 2
    assert "containers/new/src/main.py exists already; nothing was written" in err
    assert files_of(repository.root) == before


def test_undoes_everything_if_the_catalog_would_be_invalid(repository: Repository, capsys: Capture) -> None:
    repository.write("catalog/unused.toml", "[components]\n\n[stacks]\n")
    before = files_of(repository.root)
    solved = "what\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(solved))
        code, _, err = run(repository, capsys, "stack", "cuda-1.0", "--from", "-")
    assert code == 2
    assert "stacks/cuda-1.0.toml: not TOML" in err
    assert files_of(repository.root) == before
    assert not (repository.root / "containers/new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target", "New"], "target 'New': file names in targets/ must be kebab-case"),
        (["target", "../x"], "target '../x': file names in targets/ must be kebab-case"),
        (["target", "all"], "target 'all': 'all' is reserved"),
        (["component", "my-tool"], "component 'my-tool': file names in components/ must be snake_case"),
        (["stack", "cuda-1.0", "--from", "plan-1"], "no stack 'plan-1' (did you mean 'plain-1'?)"),
        (["target", "new", "--kind", "ami"], "no target of kind 'ami' on system 'tiny-1' to start from"),
    ],
)
def test_refuses_bad_names(repository: Repository, capsys: Capture, words: list[str], message: str) -> None:
    before = files_of(repository.root)
    code, _, err = run(repository, capsys, *words)
    assert (code, files_of(repository.root)) == (2, before)
    assert message in err


def test_a_stack_with_another_cuda_version_than_its_name_is_refused(
    repository: Repository, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('summary = "s"\n[pins]\ncuda = "12.9.1"\n'))
    code, _, err = run(repository, capsys, "stack", "cuda-13.0-new", "--from", "-")
    assert (code, "the set has cuda 12.9" in err) == (2, True)
    assert "hint: builder init stack cuda-12.9-new --from -" in err


@pytest.mark.parametrize("name", ["clean", "unit", "lint"])
def test_refuses_a_target_with_the_name_of_a_make_target(root: Path, capsys: Capture, name: str) -> None:
    assert main(["init", "target", name, "--root", str(root)]) == 2
    assert f"'{name}' is reserved for" in capsys.readouterr().err


def test_suggests_a_valid_name_for_a_stack(
    root: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = copied(root, tmp_path / "own")
    assert main(["init", "stack", "mine", "--from", "cpu-debian-12", "--root", str(own)]) == 2
    hint = capsys.readouterr().err.rpartition("hint: ")[2].strip()
    assert hint == "builder init stack cpu-debian-12-mine --from cpu-debian-12"
    assert main([*hint.split()[1:], "--root", str(own)]) == 0
    next_command = capsys.readouterr().err.rpartition("next: ")[2].strip()
    assert next_command == "builder stack check cpu-debian-12-mine"
    assert main([*next_command.split()[1:], "--root", str(own)]) == 0
    solved = (own / "catalog/stacks/cuda-13.0.toml").read_text(encoding="utf-8")
    for name, code in (("cuda-12.9-new", 2), ("cuda-13.0-new", 0)):
        monkeypatch.setattr("sys.stdin", io.StringIO(solved))
        assert main(["init", "stack", name, "--from", "-", "--root", str(own)]) == code
    assert "hint: builder init stack cuda-13.0-new --from -" in capsys.readouterr().err
