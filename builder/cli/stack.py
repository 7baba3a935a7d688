"""`builder stack`: which versions fit together, for those who build here and for those who only ask."""

import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from builder.app.context import open_context, parser, print_table
from builder.errors import UsageError
from builder.model import Stack
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
        near = did_you_mean(name, knowledge.stacks)
        raise UsageError(f"no stack '{name}'{near}", hint="builder stack list")
    return knowledge.stacks[name]


def describe_unknown(result: Result, limit: int) -> str:
    """Name the unknown facts that most undecided rules need."""
    named = [f"{name} ({number})" for name, number in result.missing.items()]
    more = f" and {len(named) - limit} more" if len(named) > limit else ""
    return f"{len(result.urgent)} rules need {', '.join(named[:limit])}{more}"


def _list(argv: Sequence[str]) -> int:
    options = parser("stack list", "The stacks of the catalog: versions that go together.")
    options.add_argument("--json", action="store_true", help="as JSON")
    parsed = options.parse_args(argv)
    knowledge = open_context(parsed).knowledge
    stacks = knowledge.stacks.values()
    if parsed.json:
        print(json.dumps([_summary(knowledge, stack) for stack in stacks], indent=2))
    else:
        rows = [(s.name, ", ".join(i.partition(".")[0] for i in s.instances), s.summary) for s in stacks]
        print_table(("stack", "for", "what it is"), rows)
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
    options = parser("stack show", "One stack: what it pins, what that brings, and what it is for.")
    options.add_argument("stack")
    options.add_argument("--json", action="store_true", help="as JSON")
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
            ("origin", stack.origin or "made here"),
            ("digest", knowledge.digest(stack.name)[:16]),
        ],
    )
    print()
    vocabulary = knowledge.vocabulary.facts
    rows = [
        (vocabulary[name].side, name, write_value(facts[name]), origins[name], vocabulary[name].what)
        for name in sorted(facts, key=lambda name: (vocabulary[name].side, name))
    ]
    print_table(("side", "fact", "value", "", "what it is"), rows)
    return 0


def _diff(argv: Sequence[str]) -> int:
    options = parser("stack diff", "What changed between two stacks, riskiest first.")
    options.add_argument("before")
    options.add_argument("after")
    form = options.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="a table for release notes")
    form.add_argument("--json", action="store_true", help="as JSON")
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
        print_table(("fact", before, after, "change", "what it is"), table)
    return 0


def _elsewhere(module: str) -> Callable[[Sequence[str]], int]:
    """A command in a module of its own, loaded when it is called."""

    def command(argv: Sequence[str]) -> int:
        return int(import_module(module).run(argv))

    return command


COMMANDS: Mapping[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "list": ("the stacks of the catalog", _list),
    "show": ("one stack: what it pins, brings and is for", _show),
    "check": (
        "check versions against the rules: a stack, an image, this machine, or --set FACT=VALUE",
        _elsewhere("builder.cli.stack_check"),
    ),
    "solve": (
        "find the newest versions that work together on a machine, with reasons",
        _elsewhere("builder.cli.stack_solve"),
    ),
    "diff": ("what changed between two stacks, riskiest first", _diff),
}


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {summary}" for name, (summary, _) in COMMANDS.items())
    return f"""\
usage: builder stack COMMAND [options]

Which versions fit together.

{lines}

  builder stack COMMAND --help   options of one command
  docs/reference/rules.md        every rule, with its reason and its source"""
