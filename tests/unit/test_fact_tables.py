"""Stand-ins, roles and checks are compared with the tables of facts about real upstream releases."""

import functools
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder import catalog
from tests.facts import Fact, facts_in, facts_of, table_of, upstreams, words_of
from tests.facts.comparison import (
    ROOT,
    differences,
    invented_names,
    text_of_role,
    unsupported_names,
)
from tests.facts.served import facts_served, records_of
from tests.standins import efa
from tests.standins.overlay import has_standin, standin_pins

# Upstreams that tests/unit/test_facts.py compares with the facts.
ELSEWHERE = {"aws_ofi_nccl"}
# Kinds of facts from which a stand-in is generated.
GENERATED = {"file", "node"}
UPSTREAMS = [name for name in upstreams() if name not in ELSEWHERE]
ROLES = [path.name for path in sorted((ROOT / "ansible/roles").iterdir()) if path.name in upstreams()]
# Upstream → component whose pin is the version of the upstream.
PIN_OF = {"nvidia_fabric_manager": "nvidia_driver", "nvidia_imex": "nvidia_driver"}


@functools.cache
def catalog_pins() -> Mapping[str, str]:
    return catalog.load(ROOT).stacks["cuda-11.8-debian-12"].pins | standin_pins()


def releases() -> list[tuple[str, str]]:
    """Return (upstream, version) for each release in which a fact changed and for each pinned release."""
    found = []
    for name in UPSTREAMS:
        versions = [entry["version"] for entry in table_of(name)["since"]]
        pin = catalog_pins().get(PIN_OF.get(name, name), "")
        known = pin and facts_of(name, pin)
        found += [(name, version) for version in dict.fromkeys([*versions, *([pin] if known else [])])]
    return found


@dataclass(frozen=True)
class Release:
    """Facts about a release, facts that its stand-in serves, and the text of its role."""

    facts: tuple[Fact, ...]
    served: frozenset[Fact]
    text: str


@functools.cache
def release(name: str, version: str) -> Release:
    pins = {**catalog_pins(), PIN_OF.get(name, name): version}
    pins |= efa.bundle(version) if name == "efa" else {}
    facts = facts_in(facts_of(name, version), pins | words_of(version))
    facts = [fact for fact in facts if fact.kind not in GENERATED]
    text = text_of_role(name)
    served: set[Fact] = set()
    if has_standin(name):
        with tempfile.TemporaryDirectory() as folder:
            site = records_of(name, pins, Path(folder))
            served = facts_served(site, [fact.words[0] for fact in facts if fact.kind == "runs"])
            text += "\n".join([*site.sources.values(), *site.texts()])
    return Release(facts=tuple(facts), served=frozenset(served), text=text)


@pytest.mark.parametrize("name", upstreams())
def test_each_fact_has_a_release_and_a_source(name: str) -> None:
    table = table_of(name)
    assert all(entry.get("source") or table.get("source") for entry in table["since"])
    assert all(re.match(r"\d+(\.\d+)+$", entry["version"]) for entry in table["since"])


@pytest.mark.parametrize(("name", "version"), releases())
def test_stand_in_and_role_agree_with_the_facts(name: str, version: str) -> None:
    made = release(name, version)
    assert differences(made.facts, made.served, table_of(name), made.text) == []
    assert invented_names(table_of(name), made.text) == []


@pytest.mark.parametrize(("name", "version"), releases())
def test_each_changed_fact_fails_the_comparison(name: str, version: str) -> None:
    """If a word in a fact is changed, the stand-in must differ from the fact, or the fact be unused."""
    made = release(name, version)
    unnoticed = [
        fact
        for fact in made.facts
        for changed in changes_of(fact)
        if not differences([changed], made.served & {fact}, table_of(name), made.text)
    ]
    assert unnoticed == []


@pytest.mark.parametrize(("name", "version"), releases())
def test_each_change_of_a_stand_in_fails_the_comparison(name: str, version: str) -> None:
    made = release(name, version)
    unnoticed = [
        fact
        for fact in made.served & set(made.facts)
        for changed in changes_of(fact)
        if not differences([fact], {changed}, table_of(name), made.text)
    ]
    assert unnoticed == []


def changes_of(fact: Fact) -> list[Fact]:
    """Return copies of a fact, each with another word changed."""
    return [
        fact._replace(words=(*fact.words[:i], f"{word}-changed", *fact.words[i + 1 :]))
        for i, word in enumerate(fact.words)
    ]


@pytest.mark.parametrize("role", ROLES)
def test_role_checks_contain_only_names_from_the_facts(role: str) -> None:
    assert unsupported_names(role) == []


def test_a_name_in_a_role_that_no_fact_contains_is_found() -> None:
    text = text_of_role("gdrcopy").replace("gdr_copy_to_mapping", "gdr_open_safe")
    assert invented_names(table_of("gdrcopy"), text) == ["gdr_open_safe"]
