"""Aliases of targets: every command that takes a target accepts its aliases; wrong aliases are refused."""

import pytest

from builder.app.candidates import Typed, candidates
from builder.app.context import Context
from builder.cli.lock import _find
from builder.cli.main import main
from builder.errors import CatalogError
from builder.lock import Want
from tests.support.output import result_of
from tests.support.repository import Repository

ALIASES = '[aliases]\n"10.Hello" = "hello"\nHi = "hello"\n"pytorch/Hello" = "hello"\n'


@pytest.fixture
def named(repository: Repository) -> Repository:
    repository.write("catalog/aliases.toml", ALIASES)
    return repository


@pytest.mark.parametrize("alias", ["10.Hello", "Hi", "pytorch/Hello"])
def test_show_of_an_alias_prints_the_target_and_all_its_aliases(
    named: Repository, capsys: pytest.CaptureFixture[str], alias: str
) -> None:
    assert main(["show", alias, "--root", str(named.root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "hello: says hello"
    assert "also named\t10.Hello, Hi, pytorch/Hello" in lines


def test_json_results_name_the_target_instead_of_its_alias(
    named: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "--target", "Hi", "--json", "--root", str(named.root)]) == 0
    assert result_of(capsys.readouterr().out)["target"]["name"] == "hello"
    assert main(["plan", "Hi", "hello", "10.Hello", "--json", "--root", str(named.root)]) == 0
    assert [plan["target"] for plan in result_of(capsys.readouterr().out)] == ["hello"]


def test_lock_update_accepts_an_alias(named: Repository) -> None:
    own = {Want("requirements", "containers/hello/requirements.lock")}
    assert _find("Hi", {"hello": own, "all": own}, Context(named.root)) == own


def test_a_misspelt_alias_is_suggested(named: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "10.Helo", "--root", str(named.root)]) == 2
    assert "no target '10.Helo' (did you mean '10.Hello'?)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('hello = "hello"', "aliases.toml: aliases.hello: 'hello' is the name of a target"),
        ('Bye = "helo"', "aliases.toml: aliases.Bye: no target 'helo' (did you mean 'hello'?)"),
        ('"a b" = "hello"', "aliases.toml: aliases.a b: must match [A-Za-z0-9][A-Za-z0-9._/-]*"),
        ("Bye = 1", "aliases.toml: aliases: must be a table of strings, not {'Bye': 1}"),
    ],
)
def test_a_wrong_alias_is_refused(repository: Repository, line: str, problem: str) -> None:
    repository.write("catalog/aliases.toml", f"[aliases]\n{line}\n")
    with pytest.raises(CatalogError) as caught:
        repository.load()
    assert caught.value.problems == (problem,)


def test_a_broken_target_with_an_alias_is_reported_once(repository: Repository) -> None:
    repository.write("catalog/aliases.toml", ALIASES)
    repository.replace("catalog/targets/hello.toml", "components =", "component =")
    with pytest.raises(CatalogError) as caught:
        repository.load()
    assert not [problem for problem in caught.value.problems if "aliases" in problem]


def test_completion_offers_aliases_after_the_first_character(named: Repository) -> None:
    context = Context(named.root)
    assert candidates("TARGET", Typed(context, "")) == [("hello", "says hello")]
    assert candidates("TARGET", Typed(context, "10")) == [("10.Hello", "alias of hello")]
    assert [name for name, _ in candidates("FLAVOUR", Typed(context, "", before=("Hi",)))] == ["plain"]


def test_a_new_target_cannot_take_the_name_of_an_alias(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.write("catalog/aliases.toml", '[aliases]\nhi = "hello"\n')
    assert main(["init", "target", "hi", "--root", str(repository.root)]) == 2
    assert "target 'hi' exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("alias", "name"),
    [("FSDP", "pytorch-fsdp"), ("10.FSDP", "pytorch-fsdp"), ("16.pytorch-cpu-ddp", "cpu-ddp")],
)
def test_test_cases_of_the_reference_repository_are_aliases(
    root: object, capsys: pytest.CaptureFixture[str], alias: str, name: str
) -> None:
    assert main(["show", alias, "--root", str(root)]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")
