"""`builder stack`: lists, shows, checks, solves and compares sets of versions."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from builder.app.context import open_context, parser, print_table
from builder.errors import UsageError
from builder.model import Stack
from builder.screen.text import count
from builder.stack.checking import Result
from builder.stack.derive import derive
from builder.stack.differences import differences, markdown
from builder.stack.knowledge import Knowledge
from builder.stack.vocabulary import ABSENT, write_value
from builder.tables import did_you_mean


def run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] not in COMMANDS:
        raise UsageError(
            f"builder stack: no command '{argv[0]}'{did_you_mean(argv[0], COMMANDS)}",
            hint="builder stack --help",
        )
    _, command = COMMANDS[argv[0]]
    return command(argv[1:])


def find_stack(knowledge: Knowledge, name: str) -> Stack:
    if name not in knowledge.stacks:
        suggestion = did_you_mean(name, knowledge.stacks)
        raise UsageError(f"no stack '{name}'{suggestion}", hint="builder stack list")
    return knowledge.stacks[name]


def describe_unknown(result: Result, limit: int) -> str:
    """List the unknown facts that undecided rules need, starting with the facts that most rules need."""
    named = [f"{name} ({number})" for name, number in result.missing.items()]
    more = f" and {len(named) - limit} more" if len(named) > limit else ""
    return (
        f"{count(len(result.urgent), 'rule')} not evaluated; add --set for {', '.join(named[:limit])}{more}"
    )


def _list(argv: Sequence[str]) -> int:
    options = parser("stack list", "List the stacks of the catalog: sets of versions that work together.")
    options.add_argument("--json", action="store_true", help="print JSON")
    parsed = options.parse_args(argv)
    knowledge = open_context(parsed).knowledge
    stacks = knowledge.stacks.values()
    if parsed.json:
        print(json.dumps([_summary(knowledge, stack) for stack in stacks], indent=2))
    else:
        rows = [(s.name, ", ".join(i.partition(".")[0] for i in s.instances), s.summary) for s in stacks]
        print_table(("stack", "for", "summary"), rows)
    return 0


def _summary(knowledge: Knowledge, stack: Stack) -> dict[str, object]:
    return {
        "name": stack.name,
        "summary": stack.summary,
        "origin": stack.origin,
        "instances": list(stack.instances),
        "digest": knowledge.digest(stack.name),
    }


def _show(argv: Sequence[str]) -> int:
    options = parser(
        "stack show", "Show a stack: its pins, the versions that come with them, and its machine types."
    )
    options.add_argument("stack", help="name of a stack (builder stack list)")
    options.add_argument("--json", action="store_true", help="print JSON")
    parsed = options.parse_args(argv)
    knowledge = open_context(parsed).knowledge
    stack = find_stack(knowledge, parsed.stack)
    stated = knowledge.stack_facts(stack.name)
    facts = {name: value for name, value in derive(stated, knowledge).items() if value is not ABSENT}
    origins = {name: "stated" if name in knowledge.stated[stack.name] else "follows" for name in facts}
    if parsed.json:
        values = {name: write_value(value) for name, value in facts.items()}
        print(json.dumps({**_summary(knowledge, stack), "pins": dict(stack.pins), "facts": values}, indent=2))
        return 0
    print(f"{stack.name}: {stack.summary}\n")
    print_table(
        ("", ""),
        [
            ("for", ", ".join(stack.instances) or "any machine"),
            ("origin", stack.origin or "this repository"),
            ("digest", knowledge.digest(stack.name)[:16]),
        ],
    )
    print()
    vocabulary = knowledge.vocabulary.facts
    rows = [
        (vocabulary[name].side, name, write_value(facts[name]), origins[name], vocabulary[name].what)
        for name in sorted(facts, key=lambda name: (vocabulary[name].side, name))
    ]
    print_table(("side", "fact", "value", "", "summary"), rows)
    return 0


def _diff(argv: Sequence[str]) -> int:
    options = parser("stack diff", "Compare two stacks, riskiest changes first.")
    options.add_argument("before")
    options.add_argument("after")
    form = options.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print a table for release notes")
    form.add_argument("--json", action="store_true", help="print JSON")
    parsed = options.parse_args(argv)
    knowledge = open_context(parsed).knowledge
    before, after = (find_stack(knowledge, name).name for name in (parsed.before, parsed.after))
    rows = differences(knowledge, before, after)
    if parsed.markdown:
        print(markdown(before, after, rows), end="")
    elif parsed.json:
        keys = ("fact", "what", "before", "after", "change")
        print(json.dumps([{key: getattr(row, key) for key in keys} for row in rows], indent=2))
    else:
        table = [(row.fact, row.before or "-", row.after or "-", row.change, row.what) for row in rows]
        print_table(("fact", before, after, "change", "summary"), table)
    return 0


def _lazy(module: str) -> Callable[[Sequence[str]], int]:
    """Return a command that imports its module when it is called."""

    def command(argv: Sequence[str]) -> int:
        return int(import_module(module).run(argv))

    return command


COMMANDS: Mapping[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "list": ("list the stacks of the catalog", _list),
    "show": ("show a stack: its pins, what comes with them, its machine types", _show),
    "check": (
        "check versions against the rules: a stack, an image, this machine, or --set FACT=VALUE",
        _lazy("builder.cli.stack_check"),
    ),
    "solve": (
        "find the newest versions that work together on a machine, with reasons",
        _lazy("builder.cli.stack_solve"),
    ),
    "diff": ("compare two stacks, riskiest changes first", _diff),
}


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {summary}" for name, (summary, _) in COMMANDS.items())
    return f"""\
usage: builder stack COMMAND [options]

Find versions that work together.

{lines}

  builder stack COMMAND --help   options of one command
  docs/reference/rules.md        every rule, with its reason and its source"""
