"""`builder completion SHELL`: prints a completion script, which asks `builder completion words` on TAB.

The words come from the argument parsers of all verbs, the values of arguments from `builder.app.candidates`.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from builder.app.actions import Action, members
from builder.app.candidates import Candidate, Typed, candidates
from builder.app.context import find_context, parser
from builder.cli.main import VERBS

# Bash splits words at the characters in COMP_WORDBREAKS and expects only the part after the last one.
_BASH = """\
_builder() {
    local IFS=$'\\n' line=${COMP_LINE:0:COMP_POINT}
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" completion words --bash "$line" 2>/dev/null)
    if [ "${#COMPREPLY[@]}" -eq 1 ]; then
        case ${COMPREPLY[0]} in
            *[=/]) compopt -o nospace ;;
            *) COMPREPLY[0]=$(printf %q "${COMPREPLY[0]}") ;;
        esac
    fi
}
complete -F _builder builder
"""
_ZSH = """\
#compdef builder
_builder() {
    local line
    local -a values shown open openshown
    for line in ${(f)"$("$words[1]" completion words -- "${(@)words[2,CURRENT]}" 2>/dev/null)"}; do
        if [[ ${line%%$'\\t'*} == *[=/] ]]; then
            open+=("${line%%$'\\t'*}")
            openshown+=("${line/$'\\t'/  -- }")
        else
            values+=("${line%%$'\\t'*}")
            shown+=("${line/$'\\t'/  -- }")
        fi
    done
    compadd -l -d shown -a values
    compadd -l -S '' -d openshown -a open
}
compdef _builder builder
"""
_FISH = """\
function __builder_words
    set -l words (commandline -opc) (commandline -ct)
    $words[1] completion words -- $words[2..-1] 2>/dev/null
end
complete -c builder -f -a '(__builder_words)'
"""
_SCRIPTS: Mapping[str, str] = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def options() -> argparse.ArgumentParser:
    found = parser("completion", "Print a completion script. For bash: source <(builder completion bash)")
    found.add_argument("shell", choices=tuple(_SCRIPTS))
    return found


def run(argv: Sequence[str]) -> int:
    if argv[:1] == ["words"]:
        return _print_words(argv[1:])
    print(_SCRIPTS[options().parse_args(argv).shell], end="")
    return 0


def _print_words(argv: Sequence[str]) -> int:
    """Print completions: with `-- WORD…` values and descriptions, with `--bash LINE` values only."""
    if argv[:1] != ["--bash"]:
        for value, text in complete(argv[1:]):
            print(f"{value}\t{text}" if text else value)
        return 0
    words = _split(argv[1])
    breaks = max(words[-1].rfind(character) for character in "=:") + 1
    for value, _ in complete(words[1:]):
        print(value[breaks:])
    return 0


def _split(line: str) -> list[str]:
    """Split an incomplete command line into words and remove the quotes."""
    words, quote, escaped, begun = [""], "", False, False
    for character in line:
        if escaped or (character != quote and quote) or (not quote and character not in "\\\"' \t"):
            words[-1] += character
            escaped, begun = False, True
        elif character == "\\":
            escaped = True
        elif character in "\"'":
            quote, begun = "" if quote else character, True
        elif begun:
            words.append("")
            begun = False
    return words


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every command, such as `ami list`, with its parser."""
    for verb in VERBS:
        module = import_module(f"builder.cli.{verb}")
        for action, found in getattr(module, "ACTIONS", {}).items():
            yield f"{verb} {action}", found.options()
        if not hasattr(module, "ACTIONS"):
            yield verb, module.options()


def complete(words: Sequence[str]) -> list[Candidate]:
    """Return the completions of the last word; `words` are the words after `builder`."""
    verb, word = words[0] if words else "", words[-1] if words else ""
    if len(words) <= 1:
        general = [("--help", "print the commands"), ("--version", "print the version")]
        return _beginning(word, general if word.startswith("-") else [*VERBS.items(), ("help", "print help")])
    if verb == "help":
        topics = [*VERBS.items(), ("--man", "print the manual page, for man -l -")]
        return _beginning(word, topics if len(words) == 2 else [])
    if verb not in VERBS:
        return []
    module = import_module(f"builder.cli.{verb}")
    actions = getattr(module, "ACTIONS", None)
    if actions is None:
        return _arguments(module.options(), words[1:])
    return _actions(actions, words[1:])


def _actions(actions: Mapping[str, Action], words: Sequence[str]) -> list[Candidate]:
    """Return the completions of the last word: names of actions, or arguments of the named action."""
    first, *rest = words
    if not rest:
        groups = {name.partition(" ")[0]: "" for name in actions if " " in name}
        found = {name: action.summary for name, action in actions.items() if " " not in name}
        texts = {name: ", ".join(members(actions, name)) for name in groups}
        return _beginning(first, [*found.items(), *texts.items()])
    if first in actions:
        return _arguments(actions[first].options(), rest)
    group = members(actions, first)
    return _actions(group, rest) if group else []


def _beginning(word: str, among: Sequence[Candidate]) -> list[Candidate]:
    return [(value, text) for value, text in among if value.startswith(word)]


@dataclass(frozen=True, slots=True)
class _Read:
    """The parsed arguments before the word to complete."""

    values: tuple[str, ...] = ()  # of positional arguments
    options: frozenset[argparse.Action] = frozenset()
    waiting: argparse.Action | None = None  # option whose value is the next word
    only_values: bool = False  # after `--`
    root: Path | None = None


def _read(options: argparse.ArgumentParser, words: Sequence[str]) -> _Read:
    values: list[str] = []
    used: set[argparse.Action] = set()
    waiting, only_values, root = None, False, None
    for word in words:
        name, equals, value = word.partition("=")
        action = None if only_values else options._option_string_actions.get(name)
        if waiting is not None:
            root = Path(word) if waiting.dest == "root" else root
            waiting = None
        elif word == "--":
            only_values = True
        elif action is not None:
            used.add(action)
            waiting = action if not equals and action.nargs != 0 else None
            root = Path(value) if equals and action.dest == "root" else root
        elif only_values or not word.startswith("-"):
            values.append(word)
    return _Read(tuple(values), frozenset(used), waiting, only_values, root)


def _arguments(options: argparse.ArgumentParser, words: Sequence[str]) -> list[Candidate]:
    *before, word = words
    read = _read(options, before)
    name, equals, value = word.partition("=")
    if read.waiting is not None:
        return _values(read.waiting, word, read)
    if not read.only_values and word.startswith("-"):
        if equals and (action := options._option_string_actions.get(name)):
            return [(f"{name}={found}", text) for found, text in _values(action, value, read)]
        return _beginning(word, _free_options(options, read))
    positional = _positional(options, len(read.values))
    if positional is None:
        return _beginning(word, _free_options(options, read))
    return [(found, text) for found, text in _values(positional, word, read) if found not in read.values]


def _positional(options: argparse.ArgumentParser, index: int) -> argparse.Action | None:
    """Return the positional argument that takes the positional value with this index."""
    for action in options._get_positional_actions():
        if index == 0 or action.nargs == "*":
            return action
        index -= 1
    return None


def _free_options(options: argparse.ArgumentParser, read: _Read) -> list[Candidate]:
    """Return the options that are not on the command line and that no option on it excludes."""
    groups = (set(group._group_actions) for group in options._mutually_exclusive_groups)
    excluded = {action for group in groups if group & read.options for action in group}
    repeatable = {action for action in options._actions if isinstance(action, argparse._AppendAction)}
    return [
        (
            action.option_strings[-1],
            str(action.help or "").partition(";")[0].replace("%(default)s", str(action.default)),
        )
        for action in options._get_optional_actions()
        if action.help != argparse.SUPPRESS and action not in (excluded | read.options) - repeatable
    ]


def _values(action: argparse.Action, word: str, read: _Read) -> list[Candidate]:
    if action.choices:
        return _beginning(word, [(str(choice), "") for choice in action.choices])
    context = find_context(read.root)
    return candidates(str(action.metavar), Typed(context, word, read.values)) if context else []
