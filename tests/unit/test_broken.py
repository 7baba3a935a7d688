"""An invalid catalog file disables only its entry and the targets that need the entry."""

import json
from pathlib import Path

import pytest

from builder.cli.main import main
from tests.support.repository import FILES, Repository, flavour

HELLO = FILES["catalog/targets/hello.toml"]
HALF = 'summary = "half'


@pytest.fixture
def two(repository: Repository) -> Repository:
    """Repository with a second target, `other`, that shares only its system with the target `hello`."""
    repository.write(
        "catalog/components/tool.toml", 'summary = "tool"\nlayer = "system"\nafter = ["fabric"]\n'
    )
    repository.write("ansible/roles/tool/tasks/main.yml", "[]\n")
    repository.write("catalog/stacks/other-1.toml", 'summary = "a stack"\n[pins]\n')
    repository.write("catalog/profiles/shared.toml", 'summary = "shared"\nkind = "container"\n')
    text = 'summary = "other"\ninherits = "shared"\ncomponents = ["tool"]\n' + flavour("tiny-1", "other-1")
    repository.write("catalog/targets/other.toml", text)
    repository.relock()
    return repository


def call(capsys: pytest.CaptureFixture[str], repository: Repository, *words: str) -> tuple[int, str, str]:
    code = main([*words, "--root", str(repository.root)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("targets/hello.toml", HALF, "not TOML: "),
        ("targets/hello.toml", HELLO.replace('"container"', '"contaner"'), "kind: no kind 'contaner'"),
        ("components/fabric.toml", HALF, "not TOML: "),
        (
            "components/fabric.toml",
            'summary = "x"\nlayer = "sytem"\npinned = true\n',
            "layer: no layer 'sytem'",
        ),
        ("components/base.toml", 'summary = "x"\nlayer = "system"\nrequires = ["nope"]\n', "requires[0]: no"),
        ("stacks/plain-1.toml", HALF, "not TOML: "),
        ("stacks/plain-1.toml", 'summary = "x"\n[pins]\n', ""),
        ("stacks/plain-1.toml", 'summary = "x"\nbase = "nope"\n', "base: no stack 'nope'"),
        (
            "stacks/plain-1.toml",
            'summary = "x"\n[pins]\nfabric = "1.2"\n[facts]\nnope = 1\n',
            "facts.nope: no fact",
        ),
        ("versions/fabric.toml", HALF, "not TOML: "),
    ],
)
def test_an_invalid_catalog_file_disables_only_targets_that_need_it(
    two: Repository, capsys: pytest.CaptureFixture[str], file: str, text: str, problem: str
) -> None:
    two.write(f"catalog/{file}", text)
    file = file if problem else "targets/hello.toml"  # the target has a component that the stack does not pin
    code, printed, errors = call(capsys, two, "show", "other")
    assert (code, printed.startswith("other: other")) == (0, True)
    lines = errors.splitlines()
    assert lines[0] == "warning: catalog: 1 problem; left out: hello"
    assert [line.startswith(f"  {file}: {problem}") for line in lines[1:]] == [True]
    code, printed, errors = call(capsys, two, "show", "hello")
    assert (code, printed) == (2, "")
    assert errors.startswith("error: catalog: 1 problem\n")
    assert errors.count(f"{file}: {problem}") == 1


def test_list_prints_the_usable_targets_and_each_problem_once(
    two: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    two.write("catalog/components/base.toml", HALF)
    code, printed, errors = call(capsys, two, "list", "--json")
    assert code == 0
    assert [target["name"] for target in json.loads(printed)["result"]] == ["other"]
    assert errors.splitlines()[0] == "warning: catalog: 1 problem; left out: hello"
    assert errors.count("components/base.toml: ") == 1


def test_an_invalid_file_that_no_target_uses_disables_no_target(
    two: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    two.write("catalog/stacks/new-1.toml", HALF)
    code, printed, errors = call(capsys, two, "list", "--names")
    assert (code, printed) == (0, "hello\nother\n")
    assert errors.startswith("warning: catalog: 1 problem; left out: no target\n  stacks/new-1.toml: ")
    code, _, errors = call(capsys, two, "stack", "show", "new-1")
    assert code == 2
    assert "stacks/new-1.toml: not TOML" in errors


def test_a_cycle_of_components_disables_only_targets_with_these_components(
    two: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    two.write("catalog/components/base.toml", 'summary = "x"\nlayer = "system"\nrequires = ["fabric"]\n')
    assert call(capsys, two, "list", "--names")[1] == "other\n"
    assert call(capsys, two, "show", "other")[0] == 0


@pytest.mark.parametrize("file", ["layers.toml", "instances.toml"])
def test_list_fails_if_a_file_that_all_targets_use_is_broken(
    two: Repository, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    two.write(f"catalog/{file}", HALF)
    code, _, errors = call(capsys, two, "list")
    assert code == 2
    assert errors.startswith(f"error: catalog: 1 problem\n  {file}: not TOML: ")


def test_invalid_rule_files_fail_the_command_show_but_not_list(
    two: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    two.write("catalog/rules/fabric.toml", HALF)
    assert call(capsys, two, "list", "--names")[:2] == (0, "hello\nother\n")
    code, _, errors = call(capsys, two, "show", "hello")
    assert code == 2
    assert "rules/fabric.toml: not TOML" in errors


def test_the_lock_keeps_the_entries_of_broken_targets(
    two: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two.root / "catalog/lock.json"
    before = path.read_text()
    two.write("catalog/targets/hello.toml", HALF)
    code, _, errors = call(capsys, two, "lock")
    assert code == 2
    assert "targets/hello.toml: not TOML" in errors
    assert path.read_text() == before


def test_layers_of_broken_targets_are_not_removed(
    two: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    two.write("catalog/targets/hello.toml", HALF)
    code, _, errors = call(capsys, two, "clean", "--yes")
    assert code == 2
    assert "targets/hello.toml: not TOML" in errors
