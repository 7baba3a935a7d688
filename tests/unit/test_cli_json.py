"""`--json`: the same JSON envelope for results and errors of all commands; it matches a committed schema."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from builder.adapters.container.finder import EngineFinder
from builder.cli.completion import parsers
from builder.cli.main import main
from tests.support.output import SCHEMA, envelope_of, result_of
from tests.support.repository import Repository


def schema_commands() -> set[str]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return {entry["if"]["properties"]["command"]["const"] for entry in schema["allOf"]}


def test_schema_is_valid_and_describes_the_result_of_every_command() -> None:
    Draft202012Validator.check_schema(json.loads(SCHEMA.read_text(encoding="utf-8")))
    without = {name for name, options in parsers() if "--json" not in options._option_string_actions}
    expected = {"completion", "run", "rehearse cluster exec"}
    assert without == expected, "they print a script and the output of a program"
    assert schema_commands() == {name for name, _ in parsers()} - without


def test_every_command_prints_its_result_in_the_envelope(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(EngineFinder, "images", {})
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path))
    for words, code in {
        "list": 0,
        "show cpu-ddp": 0,
        "plan cpu-ddp ami-cpu": 0,
        "iam ami-cpu": 0,
        "stack list": 0,
        "stack show cuda-13.0": 0,
        "stack check cuda-13.0": 0,
        "stack diff cuda-12.8 cuda-13.0": 1,
        "registry status": 3,
        "registry down": 0,
        "rehearse status": 3,
        "rehearse down": 0,
        "rehearse cluster down": 0,
    }.items():
        capsys.readouterr()
        assert main([*words.split(), "--json", "--root", str(root)]) == code, words
        envelope = envelope_of(capsys.readouterr().out)
        assert (envelope["exit_code"], envelope["error"]) == (code, None)
        assert words.startswith(envelope["command"])
        assert envelope["result"] is not None


@pytest.mark.parametrize(
    ("words", "command", "code", "message"),
    [
        (["show", "helo", "--json"], "show", 2, "no target 'helo' (did you mean 'hello'?)"),
        (["list", "--json", "--nmes"], "list", 2, "builder list: unrecognized arguments: --nmes"),
        (["stack", "show", "--json", "x"], "stack show", 2, "no stack 'x' (available: plain-1)"),
        (["ami", "lst", "--json"], "ami", 2, "builder ami: no action 'lst' (did you mean 'list'?)"),
        (["lst", "--json"], "", 2, "no command 'lst' (did you mean 'list'?)"),
        (["build", "hello", "--json"], "build", 7, "catalog/lock.json: 1 download of this build missing"),
    ],
)
def test_errors_are_printed_in_the_json_envelope_and_on_stderr(
    repository: Repository,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    command: str,
    code: int,
    message: str,
) -> None:
    repository.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    assert main([*words, "--root", str(repository.root)]) == code
    printed = capsys.readouterr()
    envelope = envelope_of(printed.out)
    assert (envelope["command"], envelope["exit_code"], envelope["result"]) == (command, code, None)
    assert envelope["error"]["message"].startswith(message)
    assert envelope["error"]["hint"]
    assert printed.err.startswith(f"error: {message}")
    assert (len(printed.out.splitlines()) == 1) == (command == "build")


def test_json_of_a_refused_plan_has_the_plan_and_the_error(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EngineFinder, "images", {})
    repository.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    assert main(["plan", "hello", "--json", "--root", str(repository.root)]) == 7
    text = capsys.readouterr().out
    error = envelope_of(text)["error"]
    assert "requirements containers/hello/requirements.lock" in error["message"]
    assert error["details"] == [], "a single missing download is named once"
    assert [plan["target"] for plan in result_of(text)] == ["hello"]
