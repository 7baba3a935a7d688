"""Verbs with actions, such as `builder ami list`: every action has its own options and its own help."""

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from builder.app.examples import EXAMPLES, epilog
from builder.errors import UsageError
from builder.screen.text import wrap
from builder.tables import did_you_mean

_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Action:
    """An action: its summary, the parser of its options, and the function that runs it.

    With `passes_on`, the words after `--` are not parsed; they are the attribute `words` of the options.
    """

    summary: str
    options: Callable[[], argparse.ArgumentParser]
    run: Callable[[argparse.Namespace], int]
    passes_on: bool = False


def lazy_action(summary: str, module: str) -> Action:
    """Return an action whose module, with functions `options` and `run`, is imported only when it is used."""
    return Action(
        summary,
        lambda: import_module(module).options(),
        lambda parsed: int(import_module(module).run(parsed)),
    )


def run_action(verb: str, purpose: str, actions: Mapping[str, Action], argv: Sequence[str]) -> int:
    """Run the action that the first argument names; print the help of the verb for `--help`."""
    if argv and argv[0] in ("-h", "--help"):
        print(_help(verb, purpose, actions))
        return 0
    name = argv[0] if argv else ""
    if name in actions:
        action, words = actions[name], list(argv[1:])
        at = words.index("--") if action.passes_on and "--" in words else len(words)
        parsed = action.options().parse_args(words[:at])
        parsed.words = words[at + 1 :]
        return action.run(parsed)
    if group := members(actions, name):
        return run_action(f"{verb} {name}", purpose, group, argv[1:])
    usage = f"builder {verb}"
    if not argv:
        raise UsageError(
            f"{usage}: no action given (available: {', '.join(actions)})", hint=f"{usage} --help"
        )
    if name.startswith("-"):
        named = next((word for word in argv if word in actions), "")
        rest = [word for word in argv if word != named]
        hint = shlex.join(["builder", verb, named, *rest]) if named else f"{usage} --help"
        raise UsageError(f"{usage}: options follow the action", hint=hint)
    raise UsageError(f"{usage}: no action '{name}'{did_you_mean(name, actions)}", hint=f"{usage} --help")


def members(actions: Mapping[str, Action], group: str) -> dict[str, Action]:
    """Return the actions of a group without the group's name, such as `up` for `cluster up`."""
    start = f"{group} "
    return {name.removeprefix(start): action for name, action in actions.items() if name.startswith(start)}


def _help(verb: str, purpose: str, actions: Mapping[str, Action]) -> str:
    width = max(map(len, actions))
    lines = "\n".join(f"  {name:<{width}}  {action.summary}" for name, action in actions.items())
    return f"""\
usage: builder {verb} ACTION [options]

{chr(10).join(wrap(purpose, _WIDTH))}

{lines}

  builder {verb} ACTION --help   options of one action

{epilog(example for name in actions for example in EXAMPLES.get(f"{verb} {name}", ())[:1])}"""
