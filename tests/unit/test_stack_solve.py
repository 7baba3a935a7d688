"""Version solver: agrees with brute force, finds only valid version sets, explains contradictions."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.model import Catalog, Instance, Stack
from builder.stack.checking import broken, check
from builder.stack.knowledge import Knowledge, Release
from builder.stack.rules import Rule, parse_clause
from builder.stack.solving.ask import Request, choices, known_versions, numbers, pin, state
from builder.stack.solving.problem import Contents, Problem
from builder.stack.solving.solve import Contradiction, Solution, complete, find_alternatives, solve
from builder.stack.versions import Version, parse
from builder.stack.vocabulary import Fact, Value, Vocabulary, write_value
from tests.support.repository import knowledge_of


@pytest.fixture(scope="module")
def knowledge(root: Path) -> Knowledge:
    return knowledge_of(root)


def requests_of(knowledge: Knowledge, pins: Mapping[str, str], facts: Mapping[str, str]) -> list[Request]:
    return [
        *(state(knowledge, name, text, f"--set {name}={text}") for name, text in facts.items()),
        *(pin(knowledge, name, text, f"--pin {name}={text}") for name, text in pins.items()),
    ]


def ask(
    knowledge: Knowledge, instance: str, pins: Mapping[str, str] | None = None, **facts: str
) -> Solution | Contradiction:
    requests = requests_of(knowledge, pins or {}, {"instance": instance, **facts})
    return solve(knowledge, complete(knowledge, requests))


def versions(answer: Solution | Contradiction) -> dict[str, str]:
    assert isinstance(answer, Solution)
    return {row.fact: "" if row.value is None else write_value(row.value) for row in answer.rows}


# Comparison of the solver with brute force in small generated catalogs

_MACHINE = ("instance", "family", "accel", "arch", "gdr", "nvswitch", "gpu_sm", "instance_efa_max", "has_efa")
_COMPONENTS = ("anvil", "bolt", "crank")  # components with releases of their own
_BROUGHT = ("drill", "eel")  # bundled with anvil: drill in a fixed version, eel possibly in several versions
_VERSIONS = ("2.1", "2.0", "1.1", "1.0")


def _vocabulary() -> Vocabulary:
    facts = [Fact(name=name, kind="word", side="machine", what=name) for name in _MACHINE]
    facts += [
        Fact(name=name, kind="version", side="image", what=name, is_component=True)
        for name in (*_COMPONENTS, *_BROUGHT)
    ]
    facts += [Fact(name=name, kind="flag", side="image", what=name) for name in ("fast", "safe")]
    return Vocabulary({fact.name: fact for fact in facts})


VOCABULARY = _vocabulary()
MACHINE = Instance(
    name="m.1", family="m", accelerator="M", accel="nvidia", arch="arm64", gdr=True, nvswitch="none", gpu_sm=1
)
EXAMPLES = 150
_NAMES = st.sampled_from((*_COMPONENTS, *_BROUGHT))
_TEXTS = st.sampled_from(_VERSIONS)
_ORDERS = st.sampled_from(("==", "!=", "<", "<=", ">", ">="))
_CLAUSES = st.one_of(
    st.builds("{} {} {}".format, _NAMES, _ORDERS, st.one_of(_TEXTS, _NAMES)),
    st.builds("{} == {}".format, st.sampled_from(("fast", "safe")), st.sampled_from(("true", "false"))),
    st.builds("{} in [{}, {}]".format, _NAMES, _TEXTS, _TEXTS),
)


def _rule(number: int, severity: str, when: Sequence[str], require: Sequence[str]) -> Rule:
    return Rule(
        id=f"R-{number}",
        severity=severity,
        side="image",
        subject="s",
        why="w",
        sources=("s",),
        date="2026-11",
        when=tuple(parse_clause(text, VOCABULARY) for text in when),
        require=tuple(parse_clause(text, VOCABULARY) for text in require),
    )


@st.composite
def _anvils(draw: st.DrawFn, release: Release) -> Release:
    brings = {name: parse(draw(_TEXTS)) for name in draw(st.sets(st.sampled_from(_BROUGHT)))}
    offered = draw(st.lists(_TEXTS, max_size=3, unique=True))
    return replace(release, brings=brings, offers={"eel": tuple(map(parse, offered))} if offered else {})


@st.composite
def catalogs(draw: st.DrawFn) -> Knowledge:
    releases: dict[str, tuple[Release, ...]] = {}
    for name in _COMPONENTS:
        texts = draw(st.lists(_TEXTS, min_size=1, max_size=4, unique=True))
        releases[name] = tuple(Release(version=v) for v in sorted(map(parse, texts), reverse=True))
    releases["anvil"] = tuple(draw(_anvils(release)) for release in releases["anvil"])
    # The oldest release bundles all components in _BROUGHT: unbundled components cannot be requested.
    oldest = releases["anvil"][-1]
    everything = {name: parse(draw(_TEXTS)) for name in _BROUGHT} | dict(oldest.brings)
    releases["anvil"] = (*releases["anvil"][:-1], replace(oldest, brings=everything))
    rules = [
        _rule(
            number,
            draw(st.sampled_from(("error", "error", "warning"))),
            draw(st.lists(_CLAUSES, min_size=1, max_size=2)),
            draw(st.lists(_CLAUSES, max_size=2)),
        )
        for number in range(draw(st.integers(0, 7)))
    ]
    usual = {name: parse("1.0") for name in (*_COMPONENTS, *_BROUGHT)}
    stack = Stack(name="s", summary="", pins={}, instances=("m.1",))
    return Knowledge(
        catalog=Catalog(
            components={},
            stacks={"s": stack},
            systems={},
            targets={},
            instances={"m.1": MACHINE},
            layers=(),
        ),
        vocabulary=VOCABULARY,
        rules=tuple(rules),
        releases=releases,
        stated={"s": usual},
        derived={},
        sources={},
    )


@st.composite
def questions(draw: st.DrawFn) -> tuple[Knowledge, list[Request]]:
    knowledge = draw(catalogs())
    flags = draw(st.dictionaries(st.sampled_from(("fast", "safe")), st.sampled_from(("true", "false"))))
    pins = {}
    for name in draw(st.sets(_NAMES)):
        known = choices(knowledge, name)
        if known:
            pins[name] = draw(st.sampled_from(known)).text[: draw(st.sampled_from((1, 3)))]
    return knowledge, requests_of(knowledge, pins, {"instance": "m.1", **flags})


def _every_set(knowledge: Knowledge, requests: Sequence[Request]) -> Iterator[dict[str, Version | None]]:
    """Yield every combination of versions, valid or not; None is an unknown version."""
    wanted = {request.fact: request for request in requests if request.value is None}

    def allowed(name: str, version: Version | None) -> bool:
        return name not in wanted or (version is not None and wanted[name].allows(version))

    for picked in itertools.product(*(knowledge.releases[name] for name in _COMPONENTS)):
        brought = picked[0].contents
        eels = [brought["eel"]] if "eel" in brought else list(picked[0].offers.get("eel", ())) or [None]
        for eel in eels:
            versions: dict[str, Version | None] = {
                name: release.version for name, release in zip(_COMPONENTS, picked, strict=True)
            }
            versions |= {"drill": brought.get("drill"), "eel": eel}
            if all(allowed(name, version) for name, version in versions.items()):
                yield versions


def _cost(
    knowledge: Knowledge, facts: Mapping[str, Value], versions: Mapping[str, Version | None]
) -> tuple[bool, int, list[int]]:
    """Return the cost of a version set: unknown versions, warnings, distances to the newest versions."""
    known = known_versions(knowledge)
    warnings = len(broken(knowledge, facts, ("warning",)))
    chosen = [versions[name] for name in (*_COMPONENTS, *(["eel"] if _is_chosen(knowledge) else []))]
    ages = [
        len(_VERSIONS) if version is None else known[name].index(version)
        for name, version in zip((*_COMPONENTS, "eel"), chosen, strict=False)
    ]
    return (None in chosen, warnings, ages)


def _is_chosen(knowledge: Knowledge) -> bool:
    return any("eel" in release.offers for release in knowledge.releases["anvil"])


def best_by_force(knowledge: Knowledge, requests: Sequence[Request]) -> object:
    """Return the lowest cost of all valid version sets by brute force; None if no set is valid."""
    given = {request.fact: request.value for request in requests if request.value is not None}
    costs = []
    for versions in _every_set(knowledge, requests):
        facts = {**given, **{name: version for name, version in versions.items() if version is not None}}
        if not check(knowledge, facts).errors:
            costs.append(_cost(knowledge, facts, versions))
    return min(costs, default=None)


@given(questions())
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_solver_agrees_with_brute_force(question: tuple[Knowledge, list[Request]]) -> None:
    knowledge, requests = question
    answer = solve(knowledge, requests)
    expected = best_by_force(knowledge, requests)
    if isinstance(answer, Contradiction):
        assert expected is None
        return
    assert answer.result.errors == ()
    versions = {row.fact: row.value for row in answer.rows}
    found = {name: versions.get(name) for name in (*_COMPONENTS, *_BROUGHT)}
    assert _cost(knowledge, answer.stated, found) == expected


@given(questions())
@settings(max_examples=EXAMPLES, deadline=None)
def test_the_core_of_a_contradiction_is_minimal(question: tuple[Knowledge, list[Request]]) -> None:
    knowledge, requests = question
    answer = solve(knowledge, requests)
    if isinstance(answer, Contradiction):
        assert isinstance(solve(knowledge, answer.core), Contradiction)
        for request in answer.core:
            rest = [other for other in answer.core if other is not request]
            assert isinstance(solve(knowledge, rest), Solution), request.argument
        assert answer.clashes


@given(questions(), st.randoms(use_true_random=False))
@settings(max_examples=EXAMPLES // 2, deadline=None)
def test_the_solution_does_not_depend_on_the_order_of_inputs(
    question: tuple[Knowledge, list[Request]], shuffler: random.Random
) -> None:
    knowledge, requests = question

    def shuffled(items: Mapping[str, object]) -> dict[str, object]:
        names = list(items)
        shuffler.shuffle(names)
        return {name: items[name] for name in names}

    other = replace(
        knowledge,
        vocabulary=Vocabulary(shuffled(VOCABULARY.facts)),  # type: ignore[arg-type]
        releases=shuffled(knowledge.releases),  # type: ignore[arg-type]
    )
    again = requests.copy()
    shuffler.shuffle(again)
    first, second = solve(knowledge, requests), solve(other, again)
    if isinstance(first, Contradiction):
        assert isinstance(second, Contradiction)
        assert (second.core, second.clashes) == (first.core, first.clashes)
    else:
        assert isinstance(second, Solution)
        assert (second.rows, second.conditions) == (first.rows, first.conditions)
        assert second.result == first.result


# Requests


@pytest.mark.parametrize(
    ("asked", "offered", "expected"),
    [
        ("2.10", "2.10.0", True),
        ("2.10", "2.1.0", False),
        ("2.1", "2.10.0", False),
        ("2.10.0", "2.10.1", False),
        ("13.0.0", "13.0", True),
        ("580", "580.126.09", True),
        ("v2.10", "2.10.3", True),
        ("2.29.3-1", "2.29.3", True),
        ("2.4.0amzn5.0", "2.4.0amzn1.0", False),
        ("2.4.0", "2.4.0amzn1.0", True),
        ("2.9.0.2.14", "2.9.0.2.14.27725", True),
    ],
)
def test_a_requested_version_matches_versions_with_the_same_first_numbers(
    asked: str, offered: str, expected: bool
) -> None:
    assert Request(fact="x", text=asked, argument="").allows(parse(offered)) is expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nccl", "9", "the catalog has no nccl 9; the newest is"),
        ("ncl", "2", "no fact 'ncl' (did you mean 'nccl'?)"),
        ("nccl", "new", "'new' is not a version"),
        ("os", "al2", "'os' is not a component; set it with --set os=al2"),
        ("nvidia_fabric_manager", "1", "the catalog has no nvidia_fabric_manager 1"),
    ],
)
def test_refuses_a_pin_that_the_catalog_cannot_meet(
    knowledge: Knowledge, name: str, text: str, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        pin(knowledge, name, text, "")
    assert message in str(caught.value)


# Tests of the solver with the catalog of this repository

_TORCHES = ("2.7", "2.14")


def _distinct_machine_types(knowledge: Knowledge) -> list[str]:
    """Return one machine type of each group of machine types that no rule distinguishes."""
    kinds = {
        (instance.family, instance.efa is None or instance.efa > 0, instance.gdr, instance.nvswitch): name
        for name, instance in knowledge.instances.items()
    }
    return sorted(kinds.values())


def test_every_machine_type_has_a_valid_version_set(knowledge: Knowledge) -> None:
    for instance in _distinct_machine_types(knowledge):
        answer = ask(knowledge, instance)
        assert isinstance(answer, Solution), instance
        assert check(knowledge, answer.stated).errors == (), instance
        assert answer.warnings == (), instance


def test_a_requested_framework_gives_a_valid_version_set_or_an_explanation(knowledge: Knowledge) -> None:
    for instance in _distinct_machine_types(knowledge):
        framework = "torch_neuronx" if knowledge.instances[instance].accel == "neuron" else "torch"
        for version in _TORCHES:
            if not any(numbers(v.text)[:2] == numbers(version) for v in choices(knowledge, framework)):
                continue
            answer = ask(knowledge, instance, {framework: version})
            if isinstance(answer, Solution):
                assert check(knowledge, answer.stated).errors == (), instance
                assert versions(answer)[framework].startswith(version)
            else:
                assert answer.clashes, instance


def test_solver_constraints_agree_with_the_check(knowledge: Knowledge) -> None:
    """A constraint must forbid exactly the assignments for which the check reports its rule."""
    draw = random.Random(7)
    for instance in ("p5en.48xlarge", "p6e-gb200.36xlarge", "g5.48xlarge", "trn2.48xlarge", "hpc7g.16xlarge"):
        for kind in ("ami", "container"):
            facts = {"instance": instance, "kind": kind, "kernel": "6.17", "gin": "true", "memlock": "64"}
            problem = Problem(knowledge, complete(knowledge, requests_of(knowledge, {}, facts)))
            for _ in range(40):
                assignment = [draw.randrange(len(variable.values)) for variable in problem.variables]
                _agree_with_contents(problem, assignment)
                stated = problem.stated(enumerate(assignment))
                forbidding = {
                    constraint.reason.id
                    for constraint in (*problem.hard, *problem.soft)
                    if isinstance(constraint.reason, Rule) and problem.forbids(constraint, assignment)
                }
                assert forbidding == broken(knowledge, stated, ("error", "warning")), (instance, kind)


def _agree_with_contents(problem: Problem, assignment: list[int]) -> None:
    """Set each bundled component to the version in the assigned release of the bundling component."""
    for constraint in problem.hard:
        if isinstance(constraint.reason, Contents):
            level = problem.level[constraint.reason.fact]
            for index in range(len(problem.variables[level].values)):
                assignment[level] = index
                if not problem.forbids(constraint, assignment):
                    break


@pytest.mark.parametrize(
    ("instance", "present", "missing"),
    [
        (
            "p5en.48xlarge",
            {"nvidia_driver", "nvidia_fabric_manager", "aws_ofi_nccl", "libfabric"},
            {"nvidia_imex", "neuron_sdk", "slurm"},
        ),
        ("p5.4xlarge", {"nvidia_driver", "aws_ofi_nccl"}, {"nvidia_fabric_manager", "nvidia_imex"}),
        ("p6e-gb200.36xlarge", {"nvidia_imex", "aws_ofi_nccl"}, {"nvidia_fabric_manager"}),
        ("g5g.16xlarge", {"nvidia_driver", "torch"}, {"efa", "aws_ofi_nccl", "libfabric"}),
        (
            "trn1.32xlarge",
            {"torch_neuronx", "neuron_driver", "efa"},
            {"nvidia_driver", "cuda", "aws_ofi_nccl"},
        ),
        ("inf2.48xlarge", {"torch_neuronx"}, {"efa", "nvidia_driver"}),
        ("hpc7g.16xlarge", {"efa", "openmpi5"}, {"nvidia_driver", "cuda", "torch", "neuron_sdk"}),
    ],
)
def test_a_machine_gets_only_the_components_it_needs(
    knowledge: Knowledge, instance: str, present: set[str], missing: set[str]
) -> None:
    found = versions(ask(knowledge, instance)).keys()
    assert present <= found
    assert not missing & found


def test_the_fabric_manager_has_the_version_of_the_driver(knowledge: Knowledge) -> None:
    found = versions(ask(knowledge, "p6-b200.48xlarge"))
    assert found["nvidia_fabric_manager"] == found["nvidia_driver"]
    found = versions(ask(knowledge, "p6-b200.48xlarge", {"nvidia_fabric_manager": "580"}))
    assert found["nvidia_driver"] == found["nvidia_fabric_manager"]
    assert numbers(found["nvidia_driver"])[0] == 580


def test_a_request_changes_only_versions_that_depend_on_it(knowledge: Knowledge) -> None:
    newest = versions(ask(knowledge, "p5en.48xlarge"))
    older = versions(ask(knowledge, "p5en.48xlarge", {"torch": "2.10"}))
    assert older["nccl"] == older["torch_nccl"]  # the torch wheel loads its bundled NCCL
    assert numbers(older["cuda"])[0] == numbers(older["torch_cuda"])[0] == 12
    same = ("nvidia_driver", "efa", "aws_ofi_nccl", "gdrcopy", "nccl_tests", "dcgm")
    assert {name: older[name] for name in same} == {name: newest[name] for name in same}


def test_every_version_has_reasons_why_it_is_not_newer(knowledge: Knowledge) -> None:
    for pins in ({}, {"torch": "2.10"}, {"efa": "1.43.2"}):
        problem = ask(knowledge, "p5en.48xlarge", pins)
        assert isinstance(problem, Solution)
        for row in problem.rows:
            if row.value is None or row.comes_with or row.twin or row.fact == "nvidia_driver_flavor":
                continue
            newer = [version for version in known_versions(knowledge)[row.fact] if version > row.value]  # type: ignore[operator]
            assert [value for rejection in row.rejected for value in rejection.values] == newer, row.fact
            assert all(rejection.reasons for rejection in row.rejected)


def test_the_efa_kernel_module_of_a_container_is_chosen_separately(knowledge: Knowledge) -> None:
    assert versions(ask(knowledge, "p5en.48xlarge", {"efa": "1.47.0"}))["efa_kmod"] == "3.0.0"
    apart = versions(ask(knowledge, "p5en.48xlarge", {"efa": "1.47.0"}, kind="container"))
    assert parse(apart["efa_kmod"]) > parse("3.0.0")


def test_unknown_contents_of_an_efa_release_stay_unknown(knowledge: Knowledge) -> None:
    answer = ask(knowledge, "p5en.48xlarge", {"efa": "1.49"})
    assert versions(answer)["efa_kmod"] == ""
    assert isinstance(answer, Solution)
    assert "EFA-NV-01" in {condition.rule.id for condition in answer.conditions}
    assert "efa_kmod" not in answer.result.facts


def test_the_nccl_plugin_is_chosen_separately_if_the_efa_release_lacks_it(knowledge: Knowledge) -> None:
    answer = ask(knowledge, "p5en.48xlarge", {"efa": "1.37"})
    assert isinstance(answer, Solution)
    plugin = next(row for row in answer.rows if row.fact == "aws_ofi_nccl")
    assert plugin.comes_with == ()
    assert plugin.value == knowledge.releases["aws_ofi_nccl"][0].version


def test_torch_is_preferred_to_the_newest_neuron_sdk(knowledge: Knowledge) -> None:
    """The newest SDK has no torch, so the solver chooses that SDK only on request."""
    found = versions(ask(knowledge, "trn1.32xlarge"))
    assert found["torch_neuronx"]
    assert numbers(found["libneuronxla"])[0] == 2
    assert versions(ask(knowledge, "trn1.32xlarge", {"neuron_sdk": "2.32"}))["torch_neuronx"] == ""


def test_a_rule_that_depends_on_the_job_becomes_a_condition_of_the_solution(knowledge: Knowledge) -> None:
    answer = ask(knowledge, "p6-b200.48xlarge")
    assert isinstance(answer, Solution)
    conditions = {c.rule.id: [clause.text for clause in c.clauses] for c in answer.conditions}
    assert conditions["EFA-RUN-01"] == ["memlock == unlimited"]
    assert conditions["FM-02"] == ["nvlsm == true", "ib_umad == true"]
    assert "memlock" not in answer.result.facts
    met = ask(knowledge, "p6-b200.48xlarge", memlock="unlimited", nvlsm="true", ib_umad="true")
    assert isinstance(met, Solution)
    assert not {"EFA-RUN-01", "FM-02"} & {condition.rule.id for condition in met.conditions}


@pytest.mark.parametrize(
    ("instance", "pins", "facts", "core", "reasons"),
    [
        ("g7.48xlarge", {"nvidia_driver": "580"}, {}, {"instance", "nvidia_driver"}, ["DRV-595-03"]),
        ("p6-b200.48xlarge", {"torch": "2.6", "efa": "1.47"}, {}, {"instance", "torch"}, ["TORCH-SM-100"]),
        (
            "p5.48xlarge",
            {"nvidia_driver": "570", "torch": "2.11"},
            {},
            {"nvidia_driver", "torch", "torch_index"},
            ["TORCH-DRV"],
        ),
        (
            "p5en.48xlarge",
            {"torch": "2.11", "efa": "1.42", "python": "3.12"},
            {"os": "ubuntu2404"},
            {"instance", "torch", "efa", "kind", "torch_index"},
            ["efa_kmod of efa", "EFA-NV-01", "TORCH-DRV"],
        ),
        (
            "p5.48xlarge",
            {"efa": "1.47.0", "aws_ofi_nccl": "1.22"},
            {},
            {"instance", "efa", "aws_ofi_nccl"},
            ["aws_ofi_nccl of efa"],
        ),
        # No constraint joins the two facts in rule IMG-01, so only the check finds the contradiction.
        ("p5.48xlarge", {"neuron_sdk": "2.31"}, {}, {"instance", "neuron_sdk"}, ["IMG-01"]),
        ("p5.48xlarge", {}, {"nvidia_driver": "absent"}, {"instance", "nvidia_driver"}, ["FM-01"]),
        ("p4d.24xlarge", {}, {"boot_mode": "uefi"}, {"instance", "boot_mode"}, ["BOOT-01"]),
        (
            "trn1.32xlarge",
            {"neuron_sdk": "2.32"},
            {"uses_nxd": "true"},
            {"neuron_sdk", "uses_nxd"},
            ["NRN-15"],
        ),
        ("p5.48xlarge", {"efa": "1.51"}, {"os": "al2"}, {"efa", "os"}, ["EFA-OS-01"]),
    ],
)
def test_a_contradiction_names_requests_and_rules(
    knowledge: Knowledge,
    instance: str,
    pins: dict[str, str],
    facts: dict[str, str],
    core: set[str],
    reasons: list[str],
) -> None:
    answer = ask(knowledge, instance, pins, **facts)
    assert isinstance(answer, Contradiction)
    assert {request.fact for request in answer.core} == core
    assert [clash.reason.id for clash in answer.clashes] == reasons
    for request in answer.core:
        rest = [other for other in answer.core if other is not request]
        assert isinstance(solve(knowledge, rest), Solution), request.argument


def test_a_suggested_alternative_resolves_the_contradiction(knowledge: Knowledge) -> None:
    requests = requests_of(knowledge, {"nvidia_driver": "580", "torch": "2.14"}, {"instance": "g7.48xlarge"})
    requests = list(complete(knowledge, requests))
    answer = solve(knowledge, requests)
    assert isinstance(answer, Contradiction)
    ((request, value),) = find_alternatives(knowledge, requests, answer)
    assert request.fact == "nvidia_driver"
    instead = [r for r in requests if r is not request]
    instead.append(state(knowledge, "nvidia_driver", write_value(value), ""))
    assert isinstance(solve(knowledge, instead), Solution)
