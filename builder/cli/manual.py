"""The manual page of `builder`, made from the parsers of all commands: builder help --man | man -l -"""

import argparse
import inspect
from collections.abc import Iterator

from builder import __version__, errors
from builder.app.examples import EXAMPLES
from builder.cli.completion import parsers
from builder.cli.main import VERBS

_COMMON = ("--help", "--root")  # options of every command
_ENVIRONMENT = {
    "BUILDER_HOME": "Folder of caches, the registry and rehearsals (default: ~/.cache/image-factory).",
    "BUILDER_ROOT": "The repository, as --root.",
    "BUILDER_SITE": "The site, as --site.",
    "BUILDER_SITE_FILE": "The site file (default: site.toml in the repository).",
    "DOCKER_HOST": "Address of the container engine.",
    "NO_COLOR": "If set, no colours are printed.",
}


def manual() -> str:
    """Return the page as roff, which `man` shows."""
    lines = [
        f'.TH BUILDER 1 "" "image factory {__version__}" "Image factory"',
        ".SH NAME",
        _text("builder - build machine images and containers for distributed ML training"),
        ".SH SYNOPSIS",
        ".B builder",
        ".I VERB",
        _text("[options]"),
        ".SH COMMANDS",
    ]
    for name, options in parsers():
        lines += _command(name, options)
    lines += [".SH COMMON OPTIONS", *_options(next(parsers())[1], common=True)]
    lines += [".SH EXIT STATUS"]
    for code, meaning in sorted(_exit_codes().items()):
        lines += _entry(str(code), meaning)
    lines += [".SH ENVIRONMENT"]
    for variable, meaning in _ENVIRONMENT.items():
        lines += _entry(variable, meaning)
    return "\n".join(lines)


def _command(name: str, options: argparse.ArgumentParser) -> Iterator[str]:
    arguments = " ".join(
        f"{action.metavar or action.dest}{' ...' if action.nargs == '*' else ''}"
        for action in options._get_positional_actions()
    )
    yield f'.SS "{_text(f"builder {name} {arguments}").rstrip()}"'
    yield _text(options.description or VERBS[name])
    yield from _options(options, common=False)
    yield ".PP"
    yield ".nf"
    yield from map(_text, EXAMPLES.get(name, ()))
    yield ".fi"


def _options(options: argparse.ArgumentParser, *, common: bool) -> Iterator[str]:
    formatter = options._get_formatter()
    for action in options._actions:
        is_common = any(string in _COMMON for string in action.option_strings)
        if is_common == common and action.help and action.help != argparse.SUPPRESS:
            yield from _entry(formatter._format_action_invocation(action), formatter._expand_help(action))


def _entry(term: str, text: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_text(term)}"
    yield _text(text)


def _exit_codes() -> dict[int, str]:
    found = {0: "The command has succeeded.", 1: "A comparison found differences."}
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, errors.FactoryError) and kind.exit_code != 1:
            meaning = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
            found[kind.exit_code] = " ".join(filter(None, (found.get(kind.exit_code), meaning)))
    return found


def _text(text: str) -> str:
    """Escape a line of text for roff."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith(("'", ".")) else escaped
