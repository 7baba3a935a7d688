"""Commands in messages, help texts and the manual: each is parsed by the real parser of its command."""

import argparse
import contextlib
import io
import itertools
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from builder.app.candidates import SOURCES, Typed
from builder.app.context import Context
from builder.app.examples import EXAMPLES
from builder.cli.completion import parsers
from builder.cli.main import VERBS, main
from builder.errors import UsageError
from tests.support.printed import FILLED, MENTION, commands_in, commands_in_source

# Command names that begin a message and have no arguments there, so that they cannot be parsed.
_NAMES = {"builder ami copy", "builder ami share", "builder launch"}
# Commands in the code with a computed option or action, in which FILLED is invalid.
_COMPUTED = {"builder lock TARGET --1 1", "builder deploy 1 1 --yes"}
# Values in examples that do not exist until the user has created them.
_CREATED_BY_THE_USER = {"my-target"}


@cache
def _parsers() -> dict[str, argparse.ArgumentParser]:
    return dict(parsers())


def _parse(command: str) -> argparse.Namespace | None:
    """Parse a command; return None for a help text. Raises UsageError."""
    words = shlex.split(command, comments=True)[1:]
    name, rest = words[0], words[1:]
    if name not in VERBS:
        raise UsageError(f"no command '{name}'")
    while rest and any(f"{known} ".startswith(f"{name} {rest[0]} ") for known in _parsers()):
        name, rest = f"{name} {rest[0]}", rest[1:]
    if name not in _parsers():  # the actions of a verb
        if rest in ([], ["--help"]):
            return None
        raise UsageError(f"no action '{rest[0]}'")
    options = _parsers()[name]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return options.parse_args(list(_with_choices(options, rest)))
    except SystemExit:
        return None


def _with_choices(options: argparse.ArgumentParser, words: list[str]) -> Iterator[str]:
    """Yield the words before `--`; replace a computed value (FILLED) with a valid choice of its option."""
    before: argparse.Action | None = None
    for word in itertools.takewhile(lambda word: word != "--", words):
        choices = before.choices if before else None
        yield str(next(iter(choices))) if choices and word == FILLED else word
        before = options._option_string_actions.get(word)


def test_every_command_in_a_message_is_accepted_by_its_parser(root: Path) -> None:
    found = list(commands_in_source(root))
    refused = []
    for place, command in found:
        if command in _NAMES | _COMPUTED:
            continue
        try:
            _parse(command)
        except (UsageError, ValueError) as error:
            is_incomplete = re.search(r"are required|expected one argument", str(error))
            if is_incomplete and command.endswith(MENTION):
                continue
            refused.append(f"{place}: {command}: {error}")
    assert len(found) > 100
    assert {command for _, command in found} >= _NAMES | _COMPUTED
    assert refused == []


@pytest.mark.parametrize(
    "text", ["run: builder bild x", "builder ami lst", "builder show a; builder iam --x"]
)
def test_a_message_with_a_nonexistent_command_is_found(text: str) -> None:
    last = list(commands_in(f"hint {text}"))[-1]
    with pytest.raises(UsageError):
        _parse(last)


def test_every_command_has_examples_that_its_parser_accepts(root: Path) -> None:
    assert EXAMPLES.keys() == _parsers().keys()
    context = Context(root)
    for name, examples in EXAMPLES.items():
        for example in examples:
            (command,) = commands_in(example.partition("  # ")[0])
            assert command.startswith(f"builder {name}")
            parsed = _parse(command)
            assert parsed is not None
            _require_known_values(_parsers()[name], parsed, context)


def _require_known_values(
    options: argparse.ArgumentParser, parsed: argparse.Namespace, context: Context
) -> None:
    """Assert that the names in an example exist in the catalog."""
    for action in options._actions:
        if action.metavar not in ("TARGET", "FLAVOUR", "STACK", "COMPONENT", "TYPE", "LAYER", "SYSTEM"):
            continue
        given = getattr(parsed, action.dest)
        known = {value for value, _ in SOURCES[str(action.metavar)](Typed(context, ""))}
        values = given if isinstance(given, list) else [given] if given else []
        names = {value for value in values if "*" not in value}
        assert names - _CREATED_BY_THE_USER <= known


@pytest.mark.parametrize(
    "name", [*_parsers(), *sorted({name.split()[0] for name in _parsers() if " " in name})]
)
def test_every_help_ends_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^examples?:\n  ", out, re.MULTILINE)
    assert all(example.partition("  # ")[0] in out for example in EXAMPLES.get(name, ()))
    lines = [line for line in out.splitlines() if "builder " not in line]
    assert max(map(len, lines)) <= 120


def test_manual_has_every_command_option_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "--man"]) == 0
    page = capsys.readouterr().out
    assert page.startswith('.TH BUILDER 1 ""')
    plain = page.replace(r"\-", "-").replace(r"\e", "\\")
    for name, options in _parsers().items():
        assert re.search(rf'^\.SS "builder {name}\b', plain, re.MULTILINE)
        for action in options._actions:
            if action.help != argparse.SUPPRESS:
                assert all(string in plain for string in action.option_strings)
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 70, 130):
        assert f".B {code}\n" in page
    macros = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert macros == {".TH", ".SH", ".SS", ".TP", ".B", ".I", ".PP", ".nf", ".fi"}
    assert not re.search(r"(?<!\\)-", page.partition("\n")[2])
