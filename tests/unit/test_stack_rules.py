"""Compatibility rules: three-valued logic, separate host and image facts, examples, errors in rule files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import CatalogError
from builder.stack.derive import derive
from builder.stack.knowledge import Knowledge
from builder.stack.rules import Clause, all_of, parse_clause
from builder.stack.versions import parse
from builder.stack.vocabulary import ABSENT, Facts, Value, read_value
from tests.support.repository import Repository, knowledge_of

RULE = """
    subject = "Fabrics"
    date = "2026-11-21"

    [[rule]]
    id = "FAB-01"
    severity = "error"
    side = "image"
    when = ["fabric >= 2.0", "shape == round"]
    require = ["glue >= 1.5"]
    why = "Round fabrics come off older glue."
    fix = "Take glue 1.5."
    source = ["book"]
    fires = [{ fabric = "2.0", shape = "round", glue = "1.4" }]
    holds = [{ fabric = "2.0", shape = "round", glue = "1.5" }]
"""
FILES = {
    "catalog/sources.toml": 'book = "A book about fabrics"\n',
    "catalog/versions/fabric.toml": """
        summary = "The fabric"
        side = "image"

        [[release]]
        version = "2.0"
        brings = { glue = "1.4" }

        [[release]]
        version = "1.2-3"
    """,
    "catalog/versions/glue.toml": 'summary = "The glue"\nside = "image"\n',
    "catalog/versions/floor.toml": 'summary = "The floor"\nside = "host"\n',
    "catalog/facts.toml": """
        [shape]
        what = "Its shape"
        kind = "word"
        side = "image"
        one_of = ["round", "square"]

        [colours]
        what = "Its colours"
        kind = "words"
        side = "image"

        [heavy]
        what = "It is heavy"
        kind = "flag"
        side = "image"

        [size]
        what = "Its size"
        kind = "number"
        side = "image"

        [kind]
        what = "Kind of artifact"
        kind = "word"
        side = "image"
    """,
    "catalog/instances.toml": "",
    "catalog/rules/fabrics.toml": RULE,
}


@pytest.fixture
def small(repository: Repository) -> Repository:
    for name, text in FILES.items():
        repository.write(name, text)
    return repository


@pytest.fixture(scope="module")
def knowledge(root: Path) -> Knowledge:
    return knowledge_of(root)


def clause(knowledge: Knowledge, text: str) -> Clause:
    return parse_clause(text, knowledge.vocabulary)


def facts_of(knowledge: Knowledge, **raw: object) -> dict[str, Value]:
    return {name: read_value(knowledge.vocabulary.fact(name), value) for name, value in raw.items()}


# Tests of the rules in the catalog


def test_every_rule_fires_and_holds_for_the_examples_that_say_so(knowledge: Knowledge) -> None:
    for rule in knowledge.rules:
        assert rule.fires_for, f"{rule.id} has no example that fires"
        assert rule.holds_for, f"{rule.id} has no example that holds"
        for example in rule.fires_for:
            assert rule.fires(derive(example, knowledge)) is True, f"{rule.id} does not fire on {example}"
        for example in rule.holds_for:
            assert rule.fires(derive(example, knowledge)) is False, f"{rule.id} fires on {example}"


def test_every_requirement_is_violated_in_an_example(knowledge: Knowledge) -> None:
    """A requirement that no example violates might have no effect."""
    for rule in knowledge.rules:
        missed = {
            clause.text
            for example in rule.fires_for
            for clause in rule.require
            if clause.holds(derive(example, knowledge), if_absent=True) is False
        }
        assert missed == {clause.text for clause in rule.require}, rule.id


def test_no_rule_fires_without_facts(knowledge: Knowledge) -> None:
    assert [rule.id for rule in knowledge.rules if rule.fires({})] == []


def test_removing_a_fact_never_inverts_a_verdict(knowledge: Knowledge) -> None:
    """A verdict on partial facts must not change from "fires" to "holds" when more facts become known."""
    for rule in knowledge.rules:
        for verdict, examples in ((True, rule.fires_for), (False, rule.holds_for)):
            for example in examples:
                facts = derive(example, knowledge)
                for name in rule.facts:
                    less = {other: value for other, value in facts.items() if other != name}
                    assert rule.fires(less) in (verdict, None), f"{rule.id} without {name}"


# Tests of clauses, which are true, false or unknown


@pytest.mark.parametrize(
    ("text", "raw", "expected"),
    [
        ("nccl >= 2.19.0", {}, None),
        ("nccl >= 2.19.0", {"nccl": "2.19.3"}, True),
        ("nccl >= 2.19.0", {"nccl": "2.18.6"}, False),
        ("nccl in [2.19.3, 2.19.4]", {"nccl": "2.19.4-1"}, True),
        ("nccl not_in [2.19.3, 2.19.4]", {"nccl": "2.19.4-1"}, False),
        ("nvidia_fabric_manager == nvidia_driver", {"nvidia_driver": "580.95.05"}, None),
        (
            "nvidia_fabric_manager == nvidia_driver",
            {"nvidia_driver": "580.95.05", "nvidia_fabric_manager": "580.82.07"},
            False,
        ),
        ("nvidia_imex exists", {}, None),
        ("nvidia_imex exists", {"nvidia_imex": "absent"}, False),
        ("nvidia_imex exists", {"nvidia_imex": "580.95.05"}, True),
        ("efa >= 1.0", {"efa": "latest"}, None),
        ("efa == latest", {"efa": "latest"}, True),
        ("efa == latest", {"efa": "1.51.0"}, False),
        ("gpu_sm >= 100", {"gpu_sm": "103"}, True),
        ("gdr == true", {"gdr": "false"}, False),
        ("gdr != true", {"gdr": "false"}, True),
        ("env contains NCCL_PROTO", {"env": "NCCL_PROTO,NCCL_ALGO"}, True),
        ("env contains_any [NCCL_PROTO, NCCL_ALGO]", {"env": ""}, False),
        ("efa_count_requested > instance_efa_max", {"efa_count_requested": 2, "instance_efa_max": 1}, True),
    ],
)
def test_a_clause_is_true_false_or_unknown(
    knowledge: Knowledge, text: str, raw: dict[str, object], expected: bool | None
) -> None:
    assert clause(knowledge, text).holds(facts_of(knowledge, **raw), if_absent=False) is expected


def test_an_absent_component_neither_triggers_nor_breaks_a_rule(knowledge: Knowledge) -> None:
    absent: Facts = {"nccl": ABSENT}
    assert clause(knowledge, "nccl >= 2.19.0").holds(absent, if_absent=False) is False
    assert clause(knowledge, "nccl >= 2.19.0").holds(absent, if_absent=True) is True


@given(st.lists(st.sampled_from([True, False, None])))
def test_all_of_is_the_and_of_three_valued_logic(truths: list[bool | None]) -> None:
    expected = False if False in truths else None if None in truths else True
    assert all_of(truths) is expected


def test_facts_are_selected_by_side_image_or_host(knowledge: Knowledge) -> None:
    read = facts_of(
        knowledge, nccl="2.29.7", nvidia_driver="580.95.05", instance="p5.48xlarge", efa_kmod="3.0.0"
    )
    assert set(knowledge.vocabulary.on(read, ("image",))) == {"nccl"}
    assert set(knowledge.vocabulary.on(read, ("host",))) == {"nvidia_driver", "efa_kmod"}


def test_the_efa_release_determines_the_efa_kernel_module_only_in_an_ami(knowledge: Knowledge) -> None:
    stated = facts_of(knowledge, efa="1.47.0")
    assert "efa_kmod" not in derive(stated, knowledge)
    assert "efa_kmod" not in derive({**stated, "kind": "container"}, knowledge)
    assert derive({**stated, "kind": "ami"}, knowledge)["efa_kmod"] == parse("3.0.0")
    assert derive(stated, knowledge)["libfabric"] == parse("2.4.0amzn1.0")


def test_a_stated_fact_is_never_overridden(knowledge: Knowledge) -> None:
    stated = facts_of(knowledge, efa="1.47.0", libfabric="1.17.0-3", instance="p5.48xlarge", gdr=False)
    derived = derive(stated, knowledge)
    assert {name: derived[name] for name in stated} == stated


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [("6.8", True), ("5.15.130", False), ("5.15.131", True), ("5.14.0", None), ("4.18", None)],
)
def test_gpl_symbols_are_unknown_for_kernels_outside_the_catalog(
    knowledge: Knowledge, kernel: str, expected: bool | None
) -> None:
    assert derive(facts_of(knowledge, kernel=kernel), knowledge).get("kernel_gpl_symbols") is expected


# Tests of mistakes in catalog files


def test_a_catalog_without_mistakes_loads(small: Repository) -> None:
    assert [rule.id for rule in knowledge_of(small.root).rules] == ["FAB-01"]


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("rules", "fix =", "fixx =", "rules/fabrics.toml: FAB-01.fixx: unknown key (did you mean 'fix'?)"),
        (
            "rules",
            '"fabric >= 2.0"',
            '"fabrics >= 2.0"',
            "rules/fabrics.toml: FAB-01.when[0]: no fact 'fabrics' (did you mean 'fabric'?)",
        ),
        (
            "rules",
            '"fabric >= 2.0"',
            '"fabric >= 2.x"',
            "rules/fabrics.toml: FAB-01.when[0]: fabric: '2.x' is not a version",
        ),
        (
            "rules",
            '"fabric >= 2.0"',
            '"fabric => 2.0"',
            "rules/fabrics.toml: FAB-01.when[0]: 'fabric => 2.0' is not a condition;"
            " write: fact operator value, or: fact exists",
        ),
        (
            "rules",
            '"shape == round"',
            '"shape > round"',
            "rules/fabrics.toml: FAB-01.when[1]: '>' does not apply to shape, a word"
            " (use: ==, !=, in, not_in, exists)",
        ),
        (
            "rules",
            '"shape == round"',
            '"shape == rond"',
            "rules/fabrics.toml: FAB-01.when[1]: shape: 'rond' is not an allowed value"
            " (did you mean 'round'?)",
        ),
        (
            "rules",
            '"shape == round"',
            '"shape in round"',
            "rules/fabrics.toml: FAB-01.when[1]: 'in' takes a [list]",
        ),
        (
            "rules",
            '"glue >= 1.5"',
            '"floor >= 1.5"',
            "rules/fabrics.toml: FAB-01.side: 'floor' belongs to the host, but the rule is about the image",
        ),
        (
            "rules",
            '["book"]',
            '["bok"]',
            "rules/fabrics.toml: FAB-01.source[0]: no source 'bok' (did you mean 'book'?)",
        ),
        (
            "rules",
            '"error"',
            '"eror"',
            "rules/fabrics.toml: FAB-01.severity: no severity 'eror' (did you mean 'error'?)",
        ),
        (
            "rules",
            'glue = "1.4" }]',
            'glue = "x" }]',
            "rules/fabrics.toml: FAB-01.fires[0].glue: glue: 'x' is not a version",
        ),
        (
            "rules",
            'fix = "Take glue 1.5."',
            "",
            "rules/fabrics.toml: FAB-01.fix: missing: errors and warnings need a remedy for the user",
        ),
        (
            "rules",
            '"2026-11-21"',
            '"yesterday"',
            "rules/fabrics.toml: FAB-01.date: 'yesterday' is not a date; write 2026-11-21 or 2026-11",
        ),
        ("rules", "fires =", "fire =", "rules/fabrics.toml: FAB-01.fires: missing (a list of tables)"),
        (
            "versions",
            'version = "2.0"',
            'version = "two"',
            "versions/fabric.toml: release[0].version: 'two' is not a version",
        ),
        (
            "versions",
            'version = "2.0"',
            'version = "1.0"',
            "versions/fabric.toml: release: '1.0' is listed before '1.2-3' but is not newer (newest first)",
        ),
        (
            "versions",
            "glue =",
            "gluee =",
            "versions/fabric.toml: release[0].brings.gluee: no component 'gluee' (did you mean 'glue'?)",
        ),
        (
            "facts",
            'kind = "word"',
            'kind = "wird"',
            "facts.toml: shape.kind: no kind 'wird' (did you mean 'word'?)",
        ),
        (
            "stacks",
            '"1.2-3"',
            '"1.2.x"',
            "stacks/plain-1.toml: pins.fabric: fabric: '1.2.x' is not a version",
        ),
        (
            "stacks",
            "[pins]",
            '[facts]\nshapes = "round"\n[pins]',
            "stacks/plain-1.toml: facts.shapes: no fact 'shapes' (did you mean 'shape'?)",
        ),
        (
            "stacks",
            "[pins]",
            'instances = ["p5.48xlarg"]\n[pins]',
            "stacks/plain-1.toml: instances[0]: no EC2 type 'p5.48xlarg'",
        ),
    ],
)
def test_an_error_names_file_key_and_value(
    small: Repository, file: str, old: str, new: str, expected: str
) -> None:
    files = {
        "rules": "catalog/rules/fabrics.toml",
        "versions": "catalog/versions/fabric.toml",
        "facts": "catalog/facts.toml",
        "stacks": "catalog/stacks/plain-1.toml",
    }
    path = small.root / files[file]
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(CatalogError) as caught:
        knowledge_of(small.root)
    assert expected in caught.value.problems


def test_a_rule_with_settings_needs_severity_setting(small: Repository) -> None:
    small.replace(
        "catalog/rules/fabrics.toml", 'fix = "Take glue 1.5."', 'fix = "."\nenvironment = { A = "1" }'
    )
    with pytest.raises(CatalogError) as caught:
        knowledge_of(small.root)
    assert any("if and only if its severity is 'setting'" in problem for problem in caught.value.problems)


def test_two_rules_cannot_have_the_same_id(small: Repository) -> None:
    small.write("catalog/rules/more.toml", RULE)
    with pytest.raises(CatalogError) as caught:
        knowledge_of(small.root)
    assert caught.value.problems == (
        "rules/more.toml: FAB-01.id: already the id of a rule in rules/fabrics.toml",
    )
