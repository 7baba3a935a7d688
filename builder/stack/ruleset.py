"""Read `catalog/rules/`: one file per subject; every rule has an explanation, sources and examples."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.stack.rules import SEVERITIES, SIDES, Clause, Rule, Setting, parse_clause
from builder.stack.vocabulary import Facts, Value, Vocabulary, read_value
from builder.tables import FLAG, LIST, STRINGS, TABLES, TEXT, Problems, Shape, Table, fits, read_tables

_SUBJECT: Shape = {"subject": (TEXT, True), "date": (TEXT, True), "rule": (TABLES, True)}
_RULE: Shape = {
    "id": (TEXT, True),
    "severity": (TEXT, True),
    "side": (TEXT, True),
    "when": (LIST, True),
    "require": (LIST, False),
    "why": (TEXT, True),
    "fix": (TEXT, False),
    "source": (LIST, True),
    "basis": (TEXT, False),
    "date": (TEXT, False),
    "environment": (STRINGS, False),
    "image": (STRINGS, False),
    "unset": (LIST, False),
    "sysctl": (STRINGS, False),
    "modprobe": (STRINGS, False),
    "container": (LIST, False),
    "optional": (FLAG, False),
    "fires": (TABLES, True),
    "holds": (TABLES, True),
}
_BASES = ("read", "measured", "inferred", "guess")
_ID = re.compile(r"[A-Z0-9]+(-[A-Za-z0-9]+)+")
# A GitHub thread (owner/repo#123) is a source by itself; all other sources are listed in sources.toml.
_THREAD = re.compile(r"[\w.-]+/[\w.-]+#\d+")
_DATE = re.compile(r"\d{4}-\d{2}(-\d{2})?")


def read_rules(
    folder: Path, vocabulary: Vocabulary, sources: Mapping[str, Any], problems: Problems
) -> tuple[Rule, ...]:
    """Read all rules, in the order of the files and of the entries in them."""
    rules: list[Rule] = []
    seen: dict[str, str] = {}
    for name, table in read_tables(folder, "rules", _SUBJECT, problems).items():
        file = f"rules/{name}.toml"
        for i, entry in enumerate(table.get("rule", ())):
            prefix = f"{entry.get('id', f'rule[{i}]')}."
            if fits(entry, _RULE, file, prefix, problems):
                reader = _Reader(file, prefix, vocabulary, problems)
                rules.append(reader.rule(entry, table["subject"], table["date"], sources))
                if entry["id"] in seen:
                    problems.add(file, f"{prefix}id", f"already the id of a rule in {seen[entry['id']]}")
                seen[entry["id"]] = file
    return tuple(rules)


def read_clauses(
    texts: Sequence[str], file: str, key: str, vocabulary: Vocabulary, problems: Problems
) -> tuple[Clause, ...]:
    clauses = []
    for i, text in enumerate(texts):
        try:
            clauses.append(parse_clause(text, vocabulary))
        except ValueError as error:
            problems.add(file, f"{key}[{i}]", str(error))
    return tuple(clauses)


class _Reader:
    """Reader of one rule, which reports a problem for every wrong key."""

    def __init__(self, file: str, prefix: str, vocabulary: Vocabulary, problems: Problems) -> None:
        self._file, self._prefix = file, prefix
        self._vocabulary, self._problems = vocabulary, problems

    def _refuse(self, key: str, message: str) -> None:
        self._problems.add(self._file, self._prefix + key, message)

    def rule(self, entry: Table, subject: str, date: str, sources: Mapping[str, Any]) -> Rule:
        rule = Rule(
            subject=subject,
            sources=tuple(entry["source"]),
            date=entry.get("date", date),
            when=self._clauses("when", entry["when"]),
            require=self._clauses("require", entry.get("require", ())),
            settings=_settings(entry),
            fires_for=self._examples("fires", entry["fires"]),
            holds_for=self._examples("holds", entry["holds"]),
            **{key: entry[key] for key in ("id", "severity", "side", "why")},
            **{key: entry[key] for key in ("fix", "basis") if key in entry},
        )
        self._check(rule, sources)
        self._check_side(rule)
        return rule

    def _clauses(self, key: str, texts: Sequence[str]) -> tuple[Clause, ...]:
        return read_clauses(texts, self._file, self._prefix + key, self._vocabulary, self._problems)

    def _examples(self, key: str, tables: Sequence[Table]) -> tuple[Facts, ...]:
        examples = []
        for i, table in enumerate(tables):
            facts: dict[str, Value] = {}
            for name, raw in table.items():
                try:
                    facts[name] = read_value(self._vocabulary.fact(name), raw)
                except ValueError as error:
                    self._refuse(f"{key}[{i}].{name}", str(error))
            examples.append(facts)
        return tuple(examples)

    def _check(self, rule: Rule, sources: Mapping[str, Any]) -> None:
        for key, value, known in (
            ("severity", rule.severity, SEVERITIES),
            ("side", rule.side, tuple(SIDES)),
            ("basis", rule.basis, _BASES),
        ):
            if value not in known:
                self._problems.unknown(self._file, self._prefix + key, key, value, known)
        if not _ID.fullmatch(rule.id):
            self._refuse("id", f"'{rule.id}' is not an id; write SUBJECT-TOPIC, such as NCCL-01")
        if not _DATE.fullmatch(rule.date):
            self._refuse("date", f"'{rule.date}' is not a date; write 2026-11-21 or 2026-11")
        for i, source in enumerate(rule.sources):
            if source not in sources and not _THREAD.fullmatch(source):
                self._problems.unknown(self._file, f"{self._prefix}source[{i}]", "source", source, sources)
        if rule.severity in ("error", "warning") and not rule.fix:
            self._refuse("fix", "missing: errors and warnings need a remedy for the user")
        if (rule.severity == "setting") != any(s.kind != "unset" for s in rule.settings):
            self._refuse("severity", "a rule has settings if and only if its severity is 'setting'")

    def _check_side(self, rule: Rule) -> None:
        """Add a problem for facts of other sides, such as a build host's fact in a rule about the image."""
        allowed = SIDES.get(rule.side, frozenset()) | {"machine"}
        for name in rule.facts:
            side = self._vocabulary.facts[name].side
            if side not in allowed:
                self._refuse("side", f"'{name}' belongs to the {side}, but the rule is about the {rule.side}")


def _settings(entry: Table) -> tuple[Setting, ...]:
    optional = entry.get("optional", False)
    pairs = [
        Setting(kind=kind, name=name, value=value, optional=optional)
        for kind in ("environment", "image", "sysctl", "modprobe")
        for name, value in entry.get(kind, {}).items()
    ]
    names = [
        Setting(kind=kind, name=name, optional=optional)
        for kind in ("unset", "container")
        for name in entry.get(kind, ())
    ]
    return (*pairs, *names)
