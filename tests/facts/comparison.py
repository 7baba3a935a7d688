"""Compares the facts about an upstream with its stand-in, its role and the role's checks."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.facts import Fact, facts_in, table_of, upstreams

ROOT = Path(__file__).resolve().parents[2]
# Path prefixes of files and folders that no upstream owns.
SYSTEM_PATHS = (
    *("/boot", "/dev", "/etc/apt", "/etc/cdi", "/etc/docker", "/etc/fstab", "/etc/ld.so", "/etc/os-release"),
    *("/etc/modules-load.d", "/etc/pip", "/etc/profile", "/etc/udev/rules.d", "/etc/yum.repos.d", "/proc"),
    "/etc/skel",
    *("/lib/modules", "/usr/bin/python3", "/usr/include", "/usr/lib/dkms", "/usr/lib/modules", "/usr/local"),
    *("/usr/sbin", "/usr/src", "/usr/systemd", "/var/lib/dkms", "/var/lib/shim-signed", "/var/run/cdi"),
)
_PATH = re.compile(r"(?<![\w.%/}*])/(?:boot|dev|etc|lib|opt|usr|var)(?:/[\w.+@-]+)+")
_LIBRARY = re.compile(r"\blib[\w+-]+\.so(?:\.\d+)*\b")


def differences(
    facts: Sequence[Fact], served: Iterable[Fact], table: Mapping[str, Any], text: str
) -> list[str]:
    """Return messages about served facts that the table lacks, and about facts that nothing uses.

    `text` is the text of the role and of the source files in its stand-in.
    """
    wanted, here = set(facts), set(served)
    known = re.compile("|".join([*table.get("imitated", ()), table.get("elsewhere", "(?!)")]))
    found = [f"no fact supports {fact}" for fact in here - wanted if not known.search(str(fact))]
    found += [
        f"nothing uses {fact}" for fact in wanted - here if not all(word in text for word in fact.words)
    ]
    return sorted(found)


def invented_names(table: Mapping[str, Any], text: str) -> list[str]:
    """Return the names in a text that are in the upstream's namespace but in no fact of any release."""
    words = [word for entry in table["since"] for fact in facts_in(entry) for word in fact.words]
    named = set(re.findall(table.get("namespace", "(?!)"), text))
    return [name for name in sorted(named) if not any(name in word for word in words)]


def text_of_role(name: str) -> str:
    """Return the text of a role and of its component, without escapes of regular expressions."""
    files = [path for path in sorted((ROOT / "ansible/roles" / name).rglob("*")) if path.is_file()]
    files.append(ROOT / "catalog/components" / f"{name}.toml")
    text = "\n".join(path.read_text(encoding="utf-8") for path in files if path.suffix != ".pyc")
    return _unescaped(text)


def unsupported_names(role: str) -> list[str]:
    """Return the paths and libraries in the checks of a role that are in no fact and set by no role."""
    supported = "\n".join(word for fact in _all_facts() for word in fact.words)
    written = set(re.findall(r"(?:dest|_prefix): \"?(/[\w./+@-]+)", _text_of_roles()))
    return [
        name
        for name in sorted(set(_names_in_checks(role)))
        if not name.startswith(SYSTEM_PATHS)
        and not any(f"{path}/".startswith(f"{name}/") or name.startswith(f"{path}/") for path in written)
        and not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", supported)
    ]


def _names_in_checks(role: str) -> Iterator[str]:
    for path in sorted((ROOT / "ansible/roles" / role / "tests").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " * 4 not in node.value:
                text = _unescaped(node.value)
                yield from _PATH.findall(text)
                yield from _LIBRARY.findall(text)


def _all_facts() -> Iterator[Fact]:
    for name in upstreams():
        for entry in table_of(name)["since"]:
            yield from facts_in(entry)


def _text_of_roles() -> str:
    return "\n".join(text_of_role(path.name) for path in sorted((ROOT / "ansible/roles").iterdir()))


def _unescaped(text: str) -> str:
    return text.replace("[.]", ".").replace("\\.", ".").replace("[+]", "+")
