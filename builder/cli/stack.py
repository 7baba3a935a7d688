"""`builder stack`: lists, shows, checks, solves and compares sets of versions."""

import argparse
import sys
from collections.abc import Mapping, Sequence

from builder.app.actions import Action, lazy_action, run_action
from builder.app.context import add_json, open_context, parser, print_facts, print_json, print_table
from builder.errors import CatalogError, UsageError
from builder.model import Stack
from builder.screen.text import count
from builder.stack.checking import Result
from builder.stack.derive import derive
from builder.stack.differences import differences, markdown
from builder.stack.knowledge import Knowledge
from builder.stack.vocabulary import ABSENT, write_value
from builder.tables import did_you_mean


def run(argv: Sequence[str]) -> int:
    return run_action("stack", "Find versions that work together.", ACTIONS, argv)


def find_stack(knowledge: Knowledge, name: str) -> Stack:
    if problems := knowledge.problems_of(name):
        raise CatalogError(problems, hint="correct the catalog, then run: builder stack list")
    if name not in knowledge.stacks:
        suggestion = did_you_mean(name, knowledge.stacks)
        raise UsageError(f"no stack '{name}'{suggestion}", hint="builder stack list")
    return knowledge.stacks[name]


def describe_unknown(result: Result, limit: int) -> str:
    """List the unknown facts that prevented the evaluation of rules, in the order of the number of rules."""
    named = [f"{name} ({number})" for name, number in result.missing.items()]
    more = f" and {len(named) - limit} more" if len(named) > limit else ""
    return (
        f"{count(len(result.urgent), 'rule')} not evaluated; add --set for {', '.join(named[:limit])}{more}"
    )


def _list_options() -> argparse.ArgumentParser:
    found = parser("stack list", "List the stacks of the catalog: sets of versions that work together.")
    add_json(found)
    return found


def _list(parsed: argparse.Namespace) -> int:
    context = open_context(parsed)
    knowledge = context.knowledge
    context.report_broken(knowledge.broken)
    stacks = knowledge.stacks.values()
    if parsed.json:
        print_json(parsed, [_summary(knowledge, stack) for stack in stacks])
    else:
        rows = [(s.name, tuple(i.partition(".")[0] for i in s.instances), s.summary) for s in stacks]
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


def _show_options() -> argparse.ArgumentParser:
    found = parser(
        "stack show", "Show a stack: its pins, the versions that come with them, and its machine types."
    )
    found.add_argument("stack", metavar="STACK", help="name of a stack (builder stack list)")
    add_json(found)
    return found


def _show(parsed: argparse.Namespace) -> int:
    knowledge = open_context(parsed).knowledge
    stack = find_stack(knowledge, parsed.stack)
    stated = knowledge.stack_facts(stack.name)
    facts = {name: value for name, value in derive(stated, knowledge).items() if value is not ABSENT}
    origins = {name: "stated" if name in knowledge.stated[stack.name] else "follows" for name in facts}
    if parsed.json:
        values = {name: write_value(value) for name, value in facts.items()}
        print_json(parsed, {**_summary(knowledge, stack), "pins": dict(stack.pins), "facts": values})
        return 0
    print(f"{stack.name}: {stack.summary}\n")
    print_facts(
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


def _diff_options() -> argparse.ArgumentParser:
    found = parser(
        "stack diff", "Compare two stacks, riskiest changes first. Exits with 1 if they differ, like diff."
    )
    found.add_argument("before", metavar="STACK")
    found.add_argument("after", metavar="STACK")
    form = found.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print a table for release notes")
    add_json(form)
    return found


def _diff(parsed: argparse.Namespace) -> int:
    knowledge = open_context(parsed).knowledge
    before, after = (find_stack(knowledge, name).name for name in (parsed.before, parsed.after))
    rows = differences(knowledge, before, after)
    if parsed.markdown:
        print(markdown(before, after, rows), end="")
    elif parsed.json:
        keys = ("fact", "what", "before", "after", "change")
        found = [{key: getattr(row, key) for key in keys} for row in rows]
        print_json(parsed, found, exit_code=1 if rows else 0)
    elif rows:
        table = [(row.fact, row.before or "-", row.after or "-", row.change, row.what) for row in rows]
        print_table(("fact", before, after, "change", "summary"), table)
    else:
        print(f"no difference between {before} and {after}", file=sys.stderr)
    return 1 if rows else 0


ACTIONS: Mapping[str, Action] = {
    "list": Action("list the stacks of the catalog", _list_options, _list),
    "show": Action("show a stack: its pins, what comes with them, its machine types", _show_options, _show),
    "check": lazy_action(
        "check versions against the rules: a stack, an image, this machine, or --set FACT=VALUE",
        "builder.cli.stack_check",
    ),
    "solve": lazy_action(
        "find the newest versions that work together on a machine, with reasons", "builder.cli.stack_solve"
    ),
    "diff": Action("compare two stacks, riskiest changes first", _diff_options, _diff),
}
