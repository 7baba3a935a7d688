"""Refuse catalog and site texts that another program would take as code, an option or a path.

Ansible evaluates templates in variables, programs read options in arguments, and files are opened by name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from builder.reading import shortened

# Jinja delimiters, and the `#jinja2:` header with which a text redefines them for Ansible.
_TEMPLATE = re.compile(r"\{\{|\{%|\{#|#jinja2:")
# Keys such as __ansible_vault: Ansible converts a JSON table with such a key to another type.
_TYPED = re.compile(r"__ansible")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST = 4000  # characters of a text; tables print summaries, command lines have limits
# Tables of facts about other programs; options in them are compared and never passed to a program.
_FACTS = ("facts", "rule")
# Arguments of a training program in its container, which may be options.
_ARGUMENTS = re.compile(r"launch\.(command\[[1-9]\d*\]|first_run\[\d+\])")

WORD = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PATH = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
_URL = re.compile(r"https://[^\s\"'\\\[\]]+")
PIN = re.compile(r"[A-Za-z0-9][\w.+:~-]*|\{\w+\}")

# Catalog group or table → key → pattern that its text, or every text in its list or table, must match.
PATTERNS: Mapping[str, Mapping[str, re.Pattern[str]]] = {
    "components": {"brought_by": re.compile(r"[a-z][a-z0-9_]*")},
    "stacks": {
        "pins": PIN,
        "requirements": re.compile(r"[a-z0-9][a-z0-9._-]*\.lock"),
        "wheel_index": _URL,
    },
    "systems": {
        "distribution": WORD,
        "family": WORD,
        "release": WORD,
        "codename": WORD,
        "python": re.compile(r"\d+\.\d+"),
        "image": re.compile(r"[a-z0-9][\w./:@-]*"),
        "contains": re.compile(r"[a-z][a-z0-9_]*"),
        "distributions": re.compile(r"\d[\w.+!-]*"),
    },
    "targets": {"workload": WORD},
    "profiles": {"workload": WORD},
    "launch": {"mounts": _PATH, "folder": _PATH},
    "bootstrap": {
        "suite": re.compile(r"[a-z][a-z0-9-]*"),
        "packages": re.compile(r"[a-z0-9][a-z0-9+.:-]*"),
        "areas": WORD,
        "dpkg_options": re.compile(r"path-(in|ex)clude=/\S*"),
    },
    "ami": {
        "user": re.compile(r"[a-z_][a-z0-9_-]*"),
        "regions": WORD,
        "tags": WORD,
    },
    "downloads": {
        "url": _URL,
        "signature": _URL,
        "key": _URL,
        "ref": re.compile(r"[\w{][\w./+:{}-]*"),
    },
}

_KEBAB = r"[a-z0-9]+(?:{}+[a-z0-9]+)*"
GROUPS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "components": (re.compile(r"[a-z][a-z0-9_]*"), "snake_case"),
    "stacks": (re.compile(_KEBAB.format("[.-]")), "kebab-case"),
    "systems": (re.compile(_KEBAB.format("[.-]")), "kebab-case"),
    "targets": (re.compile(_KEBAB.format("-")), "kebab-case"),
    "profiles": (re.compile(_KEBAB.format("-")), "kebab-case"),
}
_LONGEST_NAME = 60  # names are parts of the names of images, tags and files
# Reserved names: `all` (builder lock --update all), and the targets of the Makefile (make NAME).
_RESERVED = {"all"}
RESERVED_TARGETS = _RESERVED | {
    *("ami", "bench", "boundaries", "check", "clean", "demo", "engine", "fmt", "fuzz", "help", "images"),
    *("lint", "lint-dockerfiles", "lint-imports", "lint-packer", "lint-python"),
    *("lint-roles", "lint-scripts", "lint-yaml"),
    *("launch", "lock", "molecule", "setup", "test", "tools", "type", "unit", "upstream"),
}


def name_problem(group: str, name: str) -> str:
    """Return why a file of the catalog may not have this name; "" if it may."""
    pattern, style = GROUPS[group]
    if not pattern.fullmatch(name):
        return f"file names in {group}/ must be {style}"
    if len(name) > _LONGEST_NAME:
        return f"the name is longer than {_LONGEST_NAME} characters"
    is_reserved = name in (RESERVED_TARGETS if group == "targets" else _RESERVED)
    return f"'{name}' is reserved for `builder lock` and `make`" if is_reserved else ""


def unsafe_texts(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) of each text in a parsed file, keys included, that is not plain data."""
    for key, text, is_key in _texts(table, ""):
        if found := _TEMPLATE.search(text):
            yield key, f"{shortened(text)} contains {found[0]!r}; texts must not contain templates"
        elif _CONTROL.search(text):
            yield key, f"{shortened(text)} contains a control character"
        elif is_key and _TYPED.match(text):
            yield key, f"{shortened(text)} is a key with a meaning for Ansible"
        elif text.startswith("-") and not (key.startswith(_FACTS) or _ARGUMENTS.fullmatch(key)):
            yield key, f"{shortened(text)} begins with '-' and could be taken as an option"
        elif len(text) > _LONGEST:
            yield key, f"{shortened(text)} has {len(text)} characters; the limit is {_LONGEST}"


def has_template(value: object) -> bool:
    """Return True if Ansible would evaluate a text or a key in `value` as a template or as a typed value."""
    return any(
        _TEMPLATE.search(text) or (is_key and _TYPED.match(text)) for _, text, is_key in _texts(value, "")
    )


def _texts(value: object, key: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (dotted key, text, is_key) for every key and every text value in nested tables and lists."""
    if isinstance(value, str):
        yield key, value, False
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            inner = f"{key}.{name}" if key else str(name)
            yield inner, str(name), True
            yield from _texts(entry, inner)
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _texts(entry, f"{key}[{i}]")


def misfits(group: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, reason) of each text that does not match the pattern of its key."""
    for key, pattern in PATTERNS[group].items():
        for place, text in _values(key, table.get(key)):
            if not pattern.fullmatch(text):
                yield place, f"{shortened(text)} must match {pattern.pattern}"


def _values(key: str, value: object) -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        yield from ((f"{key}.{name}", str(text)) for name, text in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{key}[{i}]", str(text)) for i, text in enumerate(value))
