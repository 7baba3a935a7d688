"""Stacks with a base stack and targets with a profile: inherited values, and errors in invalid files."""

from pathlib import Path

import pytest

from builder import lock
from builder.errors import CatalogError
from builder.members import members_of, policy_of
from tests.support.repository import AMI, Repository, flavour, knowledge_of

BASE = 'summary = "s"\n[pins]\nfabric = "1.2-3"\nextra = "{fabric}"\n'
SPARE = 'summary = "spare"\nlayer = "system"\npinned = true\n'


@pytest.fixture
def stacked(repository: Repository) -> Repository:
    """Add a pinned component `extra` and a stack that pins `fabric` and `extra`."""
    repository.write("catalog/components/extra.toml", SPARE)
    repository.write("ansible/roles/extra/tasks/main.yml", "[]\n")
    repository.write("catalog/stacks/plain-1.toml", BASE)
    return repository


def problems(repository: Repository) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        repository.load()
    return list(caught.value.problems)


def test_stack_inherits_the_pins_of_its_base(stacked: Repository) -> None:
    stacked.write("catalog/stacks/next-1.toml", 'summary = "n"\nbase = "plain-1"\n')
    found = stacked.load().stacks["next-1"]
    assert (found.summary, found.pins) == ("n", {"fabric": "1.2-3", "extra": "1.2-3"})


def test_inherited_reference_to_a_pin_uses_the_overridden_pin(stacked: Repository) -> None:
    stacked.write("catalog/stacks/next-1.toml", 'summary = "n"\nbase = "plain-1"\n[pins]\nfabric = "2.0"\n')
    assert stacked.load().stacks["next-1"].pins == {"fabric": "2.0", "extra": "2.0"}


def test_omitted_pins_and_their_reasons_are_inherited(stacked: Repository) -> None:
    stacked.write(
        "catalog/stacks/less-1.toml", 'summary = "l"\nbase = "plain-1"\n[without]\nextra = "not needed"\n'
    )
    stacked.write("catalog/stacks/least-1.toml", 'summary = "l"\nbase = "less-1"\n')
    again = 'summary = "l"\nbase = "less-1"\n[pins]\nextra = "9"\n'
    stacked.write("catalog/stacks/again-1.toml", again)
    stacks = stacked.load().stacks
    for name in ("less-1", "least-1"):
        assert (stacks[name].pins, stacks[name].without) == ({"fabric": "1.2-3"}, {"extra": "not needed"})
    assert (stacks["again-1"].pins["extra"], stacks["again-1"].without) == ("9", {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('base = "plan-1"', "base: no stack 'plan-1' (did you mean 'plain-1'?)"),
        ('base = ""', "base: no stack '' (available: next-1, plain-1)"),
        ('base = "next-1"', "base: dependency cycle: next-1 → next-1"),
        (
            'base = "plain-1"\n[pins]\nfabric = "1.2-3"',
            "pins.fabric: same value as in 'plain-1': remove it here",
        ),
        (
            'base = "plain-1"\n[pins]\nextra = "{fabric}"',
            "pins.extra: same value as in 'plain-1': remove it here",
        ),
        (
            'base = "plain-1"\n[without]\nfabrik = "why"',
            "without.fabrik: base 'plain-1' has no 'fabrik' (did you mean 'fabric'?)",
        ),
        ('base = "plain-1"\n[without]\nextra = " "', "without.extra: the reason must not be empty"),
        (
            'base = "plain-1"\n[pins]\nextra = "9"\n[without]\nextra = "why"',
            "without.extra: is also set in this file",
        ),
        ('[pins]\n[without]\nextra = "why"', "without: is only allowed together with base"),
        ("", "pins: missing (a table of strings)"),
        (
            '[pins]\nextra = "{fabrik}"\nfabric = "1"',
            "pins.extra: no pin 'fabrik' (did you mean 'fabric'?)",
        ),
        (
            '[pins]\nextra = "{fabric}"\nfabric = "{extra}"',
            "pins.extra: refers to pin 'fabric', which is itself a reference",
        ),
    ],
)
def test_invalid_stack_is_refused(stacked: Repository, text: str, expected: str) -> None:
    stacked.write("catalog/stacks/next-1.toml", f'summary = "n"\n{text}\n')
    assert f"stacks/next-1.toml: {expected}" in problems(stacked)


def test_cycle_of_stacks_is_reported_once(stacked: Repository) -> None:
    stacked.write("catalog/stacks/a-1.toml", 'summary = "a"\nbase = "b-1"\n')
    stacked.write("catalog/stacks/b-1.toml", 'summary = "b"\nbase = "a-1"\n')
    assert [problem for problem in problems(stacked) if "cycle" in problem] == [
        "stacks/a-1.toml: base: dependency cycle: a-1 → b-1 → a-1"
    ]


def test_rules_see_inherited_pins(root: Path) -> None:
    knowledge = knowledge_of(root)
    for name, stack in knowledge.catalog.stacks.items():
        for pin, version in stack.pins.items():
            if knowledge.vocabulary.component(pin):
                assert str(knowledge.stated[name][pin]) == version, f"{name}: {pin}"


PROFILE = """
summary = "p"
kind = "container"
components = ["workload_env"]
workload = "hello"
[variables]
base_user = "p"
"""


def test_target_inherits_from_its_profiles(repository: Repository) -> None:
    repository.write("catalog/profiles/low.toml", PROFILE)
    repository.write(
        "catalog/profiles/high.toml",
        'summary = "h"\ninherits = "low"\ncomponents = ["fabric"]\n' + flavour("tiny-1", "plain-1"),
    )
    own = 'summary = "o"\ninherits = "high"\n[variables]\nfabric_tools = false\n'
    repository.write("catalog/targets/other.toml", own + flavour("tiny-1", "plain-1", "second"))
    found = repository.load().targets["other"]
    assert (found.summary, found.kind, found.workload) == ("o", "container", "hello")
    assert found.components == ("workload_env", "fabric")
    assert found.variables == {"base_user": "p", "fabric_tools": False}
    assert list(found.flavours) == ["plain", "second"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('inherits = ""', "inherits: no profile '' (available: low)"),
        ('inherits = "lo"', "inherits: no profile 'lo' (did you mean 'low'?)"),
        (
            'inherits = "low"\ncomponents = ["fabric", "workload_env"]',
            "components[1]: 'workload_env' is already in 'low': remove it here",
        ),
        ('inherits = "low"\nworkload = "hello"', "workload: same value as in 'low': remove it here"),
        (
            'inherits = "low"\n[variables]\nbase_user = "p"',
            "variables.base_user: same value as in 'low': remove it here",
        ),
        ('inherits = "low"', "flavours: missing (a table)"),
        ('kind = "container"', "components: missing (a list of strings)"),
    ],
)
def test_invalid_target_is_refused(repository: Repository, text: str, expected: str) -> None:
    repository.write("catalog/profiles/low.toml", PROFILE)
    repository.write("catalog/targets/other.toml", f'summary = "o"\n{text}\n')
    assert f"targets/other.toml: {expected}" in problems(repository)


def test_cycle_of_profiles_is_refused(repository: Repository) -> None:
    repository.write("catalog/profiles/a.toml", 'summary = "a"\ninherits = "b"\n')
    repository.write("catalog/profiles/b.toml", 'summary = "b"\ninherits = "a"\n')
    assert "profiles/a.toml: inherits: dependency cycle: a → b → a" in problems(repository)


def test_targets_of_an_invalid_profile_report_no_further_problems(repository: Repository) -> None:
    repository.write("catalog/profiles/low.toml", 'sumary = "p"\n')
    repository.write("catalog/targets/other.toml", 'summary = "o"\ninherits = "low"\n')
    assert {problem.split(":")[0] for problem in problems(repository)} == {"profiles/low.toml"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[flavours.plain]", "[flavours]\nplain = 1\n[variables]", "flavours.plain: must be a table, not 1"),
        ("system =", "sistem =", "flavours.plain.sistem: unknown key (did you mean 'system'?)"),
        (
            'stack = "plain-1"',
            'stack = "plain-1"\nsite = "aws"',
            "flavours.plain.site: must be 'local' where it is set, not 'aws'",
        ),
        (
            'stack = "plain-1"',
            'stack = "plain-1"\nwith = ["fabrik"]',
            "flavours.plain.with[0]: no component 'fabrik' (did you mean 'fabric'?)",
        ),
        (
            'stack = "plain-1"',
            'stack = "plain-1"\npolicy = { fabrik = "x" }',
            "flavours.plain.policy.fabrik: component 'fabrik' is not part of this flavour"
            " (did you mean 'fabric'?)",
        ),
        (
            'stack = "plain-1"',
            'stack = "plain-1"\npolicy = { fabric = "x" }',
            "flavours.plain.policy.fabric: the role of 'fabric' has no variable fabric_policy",
        ),
    ],
)
def test_flavour_error_names_file_and_key(repository: Repository, old: str, new: str, expected: str) -> None:
    repository.replace("catalog/targets/hello.toml", old, new)
    assert f"targets/hello.toml: {expected}" in problems(repository)


def test_target_needs_at_least_one_flavour(repository: Repository) -> None:
    repository.write(
        "catalog/targets/bare.toml", 'summary = "b"\nkind = "container"\ncomponents = []\n[flavours]\n'
    )
    assert "targets/bare.toml: flavours: must have at least one flavour" in problems(repository)


def add_policy(repository: Repository) -> None:
    defaults = repository.root / "ansible/roles/fabric/defaults/main.yml"
    defaults.write_text(defaults.read_text() + "fabric_policy: a\n", encoding="utf-8")


def test_flavour_adds_components_and_sets_component_policies(stacked: Repository) -> None:
    stacked.replace(
        "ansible/roles/fabric/defaults/main.yml", "fabric_tools", "fabric_policy: a\nfabric_tools"
    )
    more = 'with = ["extra"]\npolicy = { fabric = "verify" }\n'
    path = stacked.root / "catalog/targets/hello.toml"
    path.write_text(path.read_text() + flavour("tiny-1", "plain-1", "more") + more)
    loaded = stacked.load()
    target = loaded.targets["hello"]
    members = {name: members_of(loaded, target, found) for name, found in target.flavours.items()}
    assert set(members["more"]) - set(members["plain"]) == {"extra"}
    assert policy_of("fabric", target, target.flavours["more"]) == "verify"
    assert policy_of("fabric", target, target.flavours["plain"]) == ""


@pytest.mark.parametrize(
    ("instance", "expected"),
    [
        ("m7i.larg", "ami.build_on.x86_64: no EC2 type 'm7i.larg' (did you mean 'm7i.large'?)"),
        (
            "m7i.xlarge",
            "ami.build_on.x86_64: EC2 type 'm7i.xlarge' has no dollars_per_hour in instances.toml",
        ),
    ],
)
def test_build_price_comes_from_the_instance_type(
    repository: Repository, instance: str, expected: str
) -> None:
    path = repository.root / "catalog/instances.toml"
    path.write_text(path.read_text() + "sizes.xlarge = { vcpus = 4 }\n", encoding="utf-8")
    text = 'summary = "an AMI"\nkind = "ami"\ncomponents = ["base"]\n' + flavour("tiny-1", "plain-1")
    repository.write("catalog/targets/machine.toml", text + AMI)
    ami = repository.load().targets["machine"].ami
    assert ami is not None
    assert ami.dollars_per_hour == {"x86_64": 0.1}
    repository.replace("catalog/targets/machine.toml", "m7i.large", instance)
    assert f"targets/machine.toml: {expected}" in problems(repository)


def test_bundled_component_gets_its_version_from_the_bundling_release(stacked: Repository) -> None:
    stacked.write("catalog/components/extra.toml", SPARE + 'requires = ["fabric"]\nbrought_by = "fabric"\n')
    stacked.write(
        "catalog/versions/fabric.toml",
        'summary = "f"\nside = "image"\n[[release]]\nversion = "1.2-3"\nbrings = { extra = "7" }\n',
    )
    stacked.write("catalog/stacks/plain-1.toml", 'summary = "s"\n[pins]\nfabric = "1.2-3"\n')
    stacked.write("catalog/stacks/pinned-1.toml", 'summary = "s"\n[pins]\nfabric = "1.2-3"\nextra = "8"\n')
    stacked.write("catalog/stacks/older-1.toml", 'summary = "s"\n[pins]\nfabric = "1.1"\n')
    stacks = stacked.load().stacks
    assert {name: stack.versions.get("extra") for name, stack in stacks.items()} == {
        "plain-1": "7",
        "pinned-1": "8",
        "older-1": None,
    }


def test_key_brought_by_must_name_a_required_component(stacked: Repository) -> None:
    stacked.write("catalog/components/extra.toml", SPARE + 'requires = ["base"]\nbrought_by = "fabric"\n')
    stacked.write("catalog/versions/fabric.toml", 'summary = "f"\nside = "image"\n')
    expected = "components/extra.toml: brought_by: component 'fabric' is not in requires (available: base)"
    assert expected in problems(stacked)


def test_download_for_a_component_policy_is_required_only_with_that_policy(stacked: Repository) -> None:
    stacked.replace(
        "ansible/roles/fabric/defaults/main.yml", "fabric_tools", "fabric_policy: a\nfabric_tools"
    )
    path = stacked.root / "catalog/components/fabric.toml"
    download = '[[downloads]]\nname = "source"\nurl = "https://x/{version}"\npolicies = ["source"]\n'
    path.write_text(path.read_text() + download)
    text = flavour("tiny-1", "plain-1", "built") + 'policy = { fabric = "source" }\n'
    target = stacked.root / "catalog/targets/hello.toml"
    target.write_text(target.read_text() + text)
    loaded = stacked.load()
    hello = loaded.targets["hello"]
    wanted = {
        name: [
            want.subject for want in lock.wants(loaded, hello, found, arch="x86_64") if want.kind == "archive"
        ]
        for name, found in hello.flavours.items()
    }
    assert wanted == {"plain": [], "built": ["https://x/1.2-3"]}
