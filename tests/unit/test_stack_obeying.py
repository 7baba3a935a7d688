"""Builds obey the rules: an error refuses, a setting reaches the job, a warning is said."""

from collections.abc import Callable
from pathlib import Path

import pytest

from builder import catalog, lock, plan, sources
from builder.errors import CatalogError
from builder.stack.loading import load
from builder.stack.obeying import Verdict, judge
from tests.support.repository import Repository

Judge = Callable[[], Verdict]
RULES = """
subject = "Fabrics"
date = "2026-11-21"

[[rule]]
id = "FAB-01"
severity = "{severity}"
side = "image"
when = ["fabric >= 1.0", "{clause}"]
why = "It does not hold."
{more}
source = ["book"]
fires = [{{ fabric = "1.0", {fires} }}]
holds = [{{ fabric = "0.9", {fires} }}]
"""


@pytest.fixture
def ruled(repository: Repository) -> Repository:
    repository.write("catalog/sources.toml", 'book = "A book"\n')
    repository.write("catalog/versions/fabric.toml", 'summary = "The fabric"\nside = "image"\n')
    facts = {
        "kind": "image",
        "arch": "machine",
        "os": "image",
        "instance": "machine",
        "accel": "machine",
        "gdr": "machine",
    }
    repository.write(
        "catalog/facts.toml",
        "".join(
            f'[{name}]\nwhat = "{name}"\nkind = "{"flag" if name == "gdr" else "word"}"\nside = "{side}"\n'
            for name, side in facts.items()
        ),
    )
    return repository


def rule(
    repository: Repository,
    clause: str,
    fires: str,
    *,
    severity: str = "error",
    more: str = 'fix = "Take another."',
) -> None:
    text = RULES.format(severity=severity, clause=clause, fires=fires, more=more)
    repository.write("catalog/rules/fabric.toml", text)


def verdict(repository: Repository) -> Verdict:
    return judge(load(repository.root), repository.plan())


@pytest.mark.parametrize(
    ("clause", "fires"),
    [
        ("kind == container", 'kind = "container"'),
        ("os == debian1", 'os = "debian1"'),
        ("arch == x86_64", 'arch = "x86_64"'),
    ],
)
def test_an_error_refuses_the_build_and_says_why(ruled: Repository, clause: str, fires: str) -> None:
    rule(ruled, clause, fires)
    with pytest.raises(CatalogError) as caught:
        verdict(ruled)
    assert "target 'hello': stack 'plain-1' on *: FAB-01: It does not hold. (fabric 1.2-3" in str(
        caught.value.details
    )
    assert caught.value.exit_code == 2


def test_a_rule_about_something_else_does_not_refuse(ruled: Repository) -> None:
    rule(ruled, "kind == ami", 'kind = "ami"')
    assert verdict(ruled) == Verdict()


def test_a_setting_reaches_the_job(ruled: Repository) -> None:
    carried = 'environment = { FABRIC_MODE = "soft" }'
    rule(ruled, "kind == container", 'kind = "container"', severity="setting", more=carried)
    assert verdict(ruled).settings == {"*": ("FABRIC_MODE=soft",)}


def test_a_warning_is_handed_on(ruled: Repository) -> None:
    rule(ruled, "kind == container", 'kind = "container"', severity="warning")
    assert verdict(ruled).warnings == ("FAB-01",)


def test_every_target_obeys_the_rules_wherever_it_exists(root: Path) -> None:
    loaded, knowledge, locked = catalog.load(root), load(root), lock.read(root)
    for target, flavour, arch, site in lock.variants(loaded):
        read = sources.read(root, loaded, target, flavour)
        judge(knowledge, plan.plan(loaded, target, flavour, read, locked, arch=arch, site=site))
