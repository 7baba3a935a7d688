"""The catalog's versions, stacks and machine types: complete and consistent; released stacks are frozen."""

import ast
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.members import members_of
from builder.model import Stack
from builder.stack.checking import check
from builder.stack.derive import derive
from builder.stack.differences import differences, markdown
from builder.stack.knowledge import Knowledge
from builder.stack.reference import page
from builder.stack.rules import Finding
from builder.stack.solving.nearest import nearest
from builder.stack.vocabulary import ABSENT, Facts, Value, read_value
from tests.support.repository import knowledge_of

# JSON file: earlier names of renamed pins and facts, and digests of released stacks with earlier names.
BEFORE_RENAMING = Path(__file__).with_name("released_before_renaming.json")


@pytest.fixture(scope="module")
def knowledge(root: Path) -> Knowledge:
    return knowledge_of(root)


def facts_of(knowledge: Knowledge, **raw: object) -> dict[str, Value]:
    return {name: read_value(knowledge.vocabulary.fact(name), value) for name, value in raw.items()}


# Stacks


def test_every_stack_obeys_the_rules_on_its_machine_types(knowledge: Knowledge) -> None:
    for name, stack in knowledge.stacks.items():
        for instance in stack.instances or ("",):
            on = {"instance": instance} if instance else {}
            result = check(knowledge, {**knowledge.stack_facts(name), **on})
            assert [finding.rule.id for finding in result.errors] == [], f"{name} on {instance}"


# Components that every stack for an accelerator must pin, because jobs depend on their versions.
_NEEDED = {
    "nvidia": (
        "kernel",
        "nvidia_driver",
        "nvidia_driver_flavor",
        "cuda",
        "nccl",
        "nccl_tests",
        "efa",
        "aws_ofi_nccl",
    ),
    "neuron": ("kernel", "neuron_sdk", "neuron_driver", "neuron_runtime", "torch_neuronx", "python"),
    "none": (),
}


def test_every_stack_pins_all_components_that_jobs_depend_on(knowledge: Knowledge) -> None:
    for name, stack in knowledge.stacks.items():
        for instance in stack.instances:
            facts = derive({**knowledge.stack_facts(name), "instance": instance}, knowledge)
            needed = {*_NEEDED[str(facts["accel"])], "efa", "efa_kmod", "libfabric", "memlock"}
            lacking = [fact for fact in needed if facts.get(fact, ABSENT) is ABSENT]
            assert lacking == [], f"{name} on {instance}"
            if facts["nvswitch"] in ("gen2", "gen3", "gen4"):
                assert facts["nvidia_fabric_manager"] == facts["nvidia_driver"], name


def test_pins_are_releases_that_the_catalog_lists(knowledge: Knowledge) -> None:
    listed = {fact for fact, releases in knowledge.releases.items() if releases}
    for name, stated in knowledge.stated.items():
        for fact, value in stated.items():
            if fact in listed:
                assert knowledge.release(fact, value), f"{name}: {fact} {value} is not a listed release"


def test_a_neuron_stack_pins_versions_that_its_sdk_release_offers(knowledge: Knowledge) -> None:
    for name, stated in knowledge.stated.items():
        release = knowledge.release("neuron_sdk", stated.get("neuron_sdk"))
        if release is not None:
            for fact, choice in release.offers.items():
                if fact in stated:
                    assert stated[fact] in choice, f"{name}: {fact}"


def test_common_systems_and_instance_types_have_a_stack(knowledge: Knowledge) -> None:
    served = {
        (str(stack.facts["os"]), instance.partition(".")[0])
        for stack in knowledge.stacks.values()
        for instance in stack.instances
    }
    for system in ("ubuntu2204", "ubuntu2404"):
        assert {(system, "p4d"), (system, "p5"), (system, "trn1"), (system, "trn2")} <= served
    assert {("al2023", "p5en"), ("al2023", "p6-b200"), ("al2023", "hpc7a"), ("al2023", "c5n")} <= served
    assert {"cpu-debian-12", "cuda-11.8-debian-12"} <= set(knowledge.stacks)


def test_amazon_linux_stacks_pin_a_kernel_series_instead_of_a_release(knowledge: Knowledge) -> None:
    """A new Amazon Linux AMI has only the newest kernel of a series, so a pinned release would be missing."""
    catalog = knowledge.catalog
    pinned = {
        f"{target.name} {flavour.name}": knowledge.stacks[flavour.stack].pins.get("kernel", "")
        for target in catalog.targets.values()
        for flavour in target.flavours.values()
        if target.ami and catalog.systems[flavour.system].distribution == "amazon"
    }
    assert len(pinned) > 3
    assert {name: kernel for name, kernel in pinned.items() if not re.fullmatch(r"(\d+\.\d+)?", kernel)} == {}


def test_no_target_has_the_container_toolkit_that_breaks_pods(knowledge: Knowledge) -> None:
    flavours = [
        flavour for target in knowledge.catalog.targets.values() for flavour in target.flavours.values()
    ]
    versions = {knowledge.stacks[flavour.stack].pins.get("nvidia_container_toolkit") for flavour in flavours}
    assert "1.20.1" in versions
    assert "1.20.0" not in versions


def test_gpu_machines_have_docker_with_the_container_toolkit(knowledge: Knowledge) -> None:
    """Flavours for rehearsals are left out: Debian has no container toolkit."""
    catalog, found = knowledge.catalog, set()
    for name in ("ami-gpu", "ami-pcs-gpu", "ami-batch-gpu"):
        for flavour in catalog.targets[name].flavours.values():
            if flavour.site != "local":
                members = set(members_of(catalog, catalog.targets[name], flavour))
                assert {"docker", "containerd", "nvidia_container_toolkit"} <= members, flavour.name
                found.add(name)
    assert found == {"ami-gpu", "ami-pcs-gpu", "ami-batch-gpu"}


def test_ami_with_a_fabric_manager_has_nvlsm_if_its_stack_states_nvlsm(knowledge: Knowledge) -> None:
    """NVSwitches of P6-B200 and P6-B300 have no NVLink fabric without the package nvlsm."""
    catalog, claiming = knowledge.catalog, set()
    for target in catalog.targets.values():
        for flavour in target.flavours.values():
            stack = knowledge.stacks[flavour.stack]
            if "nvidia_fabric_manager" in members_of(catalog, target, flavour):
                claims = bool(stack.facts.get("nvlsm"))
                assert claims == bool(stack.pins.get("nvlink_subnet_manager")), stack.name
                claiming |= {target.name} if claims else set()
    assert claiming == {"ami-batch-gpu", "ami-gpu", "ami-pcs-gpu"}


def test_a_released_stack_never_changes(root: Path, knowledge: Knowledge) -> None:
    """A changed stack needs a new name, because users rely on the contents of a released stack."""
    released = json.loads((root / "catalog/stacks/released.json").read_text(encoding="utf-8"))
    assert {name: knowledge.digest(name) for name in released} == released


def test_released_stacks_have_their_original_digests_under_the_old_names(knowledge: Knowledge) -> None:
    """Pins and facts were renamed after some stacks were released; their values must be the same."""
    released = json.loads(BEFORE_RENAMING.read_text(encoding="utf-8"))["digests"]
    assert {name: _under_old_names(knowledge, name).digest(name) for name in released} == released


# Digests of these stacks before their files had a base stack, when the files listed every pin.
_IN_FULL = {
    "cuda-13.2-batch": "7a10aa08c6d4735c8f12f9d47b02f82a10f3dab573dcbb8ee0d2aee8ec5ea25c",
    "neuron-2.28-pcluster-3.14": "0de3e3895163bd2fc07bb02df9176e38aac8166101814dccd97473c118aa9f0d",
    "neuron-2.31-eks-1.33": "0cffed20bce39459e8439d8b585c67e3f0c5865af1edf3b6b9bfe020ee7ee678",
}


def test_rewriting_a_stack_with_a_base_keeps_its_digest(knowledge: Knowledge) -> None:
    assert {name: knowledge.digest(name) for name in _IN_FULL} == _IN_FULL


# Stacks are named <accelerator>-<version>, with the purpose as a suffix if several stacks share a version.
_STACK_NAME = re.compile(r"cpu-[a-z]+-[\d.]+(?:-[a-z0-9.-]+)?|(cuda|neuron)-(\d+\.\d+)(\.\d+|-[a-z0-9.-]+)?")


def test_a_stack_is_named_after_its_accelerator_and_version(root: Path, knowledge: Knowledge) -> None:
    systems = {path.stem for path in (root / "catalog/systems").glob("*.toml")}
    released = json.loads((root / "catalog/stacks/released.json").read_text(encoding="utf-8"))
    for name, stack in knowledge.stacks.items():
        match = _STACK_NAME.fullmatch(name)
        assert match, name
        if name.startswith("cpu-"):
            assert any(f"{name}-".startswith(f"cpu-{system}-") for system in systems) or name in released
        elif version := stack.pins.get({"cuda": "cuda", "neuron": "neuron_sdk"}[match[1]]):
            assert version.startswith(f"{match[2]}."), name


def _under_old_names(knowledge: Knowledge, name: str) -> Knowledge:
    """Return a copy of `knowledge` in which the pins and facts of stack `name` have their earlier names."""
    old = json.loads(BEFORE_RENAMING.read_text(encoding="utf-8"))
    stack, stated = knowledge.stacks[name], knowledge.stated[name]
    pins = {old["pins"].get(pin, pin): version for pin, version in stack.pins.items()}
    facts = {old["facts"].get(fact, fact): value for fact, value in stated.items()}
    return _with_stack(knowledge, dataclasses.replace(stack, pins=pins), facts)


def _with_stack(knowledge: Knowledge, stack: Stack, stated: Facts) -> Knowledge:
    catalog = dataclasses.replace(knowledge.catalog, stacks={**knowledge.stacks, stack.name: stack})
    return dataclasses.replace(knowledge, catalog=catalog, stated={**knowledge.stated, stack.name: stated})


def test_stack_digest_covers_pins_facts_and_instances_but_not_descriptions(knowledge: Knowledge) -> None:
    stack, stated = knowledge.stacks["cuda-13.0"], knowledge.stated["cuda-13.0"]

    def digest(facts: Facts = stated, **changes: Any) -> str:
        return _with_stack(knowledge, dataclasses.replace(stack, **changes), facts).digest(stack.name)

    assert digest() == knowledge.digest(stack.name)
    assert digest(summary="x", origin="y") == digest()
    assert digest(pins={**stack.pins, "nccl": "2.29.3"}) != digest()
    assert digest({**stated, "memlock": "64"}) != digest()
    assert digest(instances=("p5.48xlarge",)) != digest()


# Component versions must not occur outside the catalog

_NAMES = (
    "efa|nccl|cuda|libfabric|driver|cudnn|gdrcopy|torch|neuron|openmpi|rdma[-_]core|pmix|enroot|pyxis|slurm"
)
_DIGIT = re.compile(r"\d")
_NAMED = re.compile(rf"\b(?:{_NAMES})(?:[-_ ]?version)?\W{{0,4}}v?\d+\.\d+", re.IGNORECASE)


def test_no_version_of_a_component_outside_the_catalog(root: Path, knowledge: Knowledge) -> None:
    known = {
        str(release.version)
        for releases in knowledge.releases.values()
        for release in releases
        if str(release.version).count(".") >= 2
    }
    known |= {
        version for stack in knowledge.stacks.values() for version in stack.pins.values() if "." in version
    }
    known -= {str(release.version) for fact in ("python", "gcc") for release in knowledge.releases[fact]}
    found = [
        f"{path.relative_to(root)}: {text.strip()[:60]}"
        for path, text in _code(root)
        if path.name != "examples.py"  # names of stacks in example commands
        if _DIGIT.search(text)
        if _NAMED.search(text) or known & set(re.findall(r"[\w.+-]*\d[\w.+-]*", text))
    ]
    assert found == []


def _code(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the strings of Python files, except docstrings, and the lines of other files up to a comment."""
    for folder in ("ansible/roles", "ansible/tasks", "ansible/plugins", "packer", "containers", "builder"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix == ".py" and "tests" not in path.parts:
                yield from ((path, text) for text in _strings(ast.parse(path.read_text(encoding="utf-8"))))
            elif path.suffix in (".yml", ".j2", ".hcl", ".sh") or path.name == "Dockerfile":
                for line in path.read_text(encoding="utf-8").splitlines():
                    yield path, line.partition("#")[0]


def _strings(tree: ast.AST) -> Iterator[str]:
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


# Tests of `builder stack check`, suggested changes, `builder stack diff` and the reference page


@pytest.mark.parametrize(
    ("raw", "rule", "changes"),
    [
        ({"efa": "1.28.0", "nccl": "2.19.3"}, "ENV-01", {"efa": "1.29.1"}),
        ({"cuda": "13.0.0", "nvidia_driver": "575.57.08"}, "CUDA-DRV-13", {"nvidia_driver": "580.65.06"}),
        (
            {"instance": "p5.48xlarge", "nvidia_driver": "580.126.09", "nvidia_fabric_manager": "580.126.16"},
            "FM-01",
            {"nvidia_fabric_manager": "580.126.09"},
        ),
        (
            {"instance": "p5.48xlarge", "nvidia_driver": "580.126.09", "nvidia_fabric_manager": "absent"},
            "FM-01",
            {"nvidia_fabric_manager": "580.126.09"},
        ),
        ({"os": "al2", "efa": "1.50.0"}, "EFA-OS-01", {"efa": "1.49.0"}),
        ({"kind": "ami", "kernel": "6.17", "efa": "1.42.0"}, "EFA-KERN-04", {"efa": "1.43.3"}),
        ({"env": "NCCL_DEBUG,RDMAV_FORK_SAFE"}, "ENV-08", {"env": "('NCCL_DEBUG',)"}),
        (
            {"gpu_sm": 100, "nvidia_driver_flavor": "proprietary"},
            "DRV-OPEN-01",
            {"nvidia_driver_flavor": "open"},
        ),
        ({"aws_ofi_nccl": "1.16.3", "nccl": "2.20.5"}, "OFI-NCCL-02", {"aws_ofi_nccl": "1.17.0"}),
        ({"torch": "2.15.0", "python": "3.10"}, "TORCH-PY-01", {"python": "3.11"}),
        ({"family": "g5g", "arch": "x86_64"}, "ARCH-01", {}),
    ],
)
def test_stack_check_suggests_the_smallest_change_that_meets_a_rule(
    knowledge: Knowledge, raw: dict[str, object], rule: str, changes: dict[str, str]
) -> None:
    stated = facts_of(knowledge, **raw)
    finding = next(finding for finding in check(knowledge, stated).findings if finding.rule.id == rule)
    found = {change.fact: str(change.after) for change in nearest(knowledge, stated, finding)}
    assert found == changes


def test_a_suggestion_that_breaks_another_rule_also_repairs_that_rule(knowledge: Knowledge) -> None:
    """CUDA 13 needs driver 580, which needs the fabric manager of the same version and a newer EFA."""
    stated = knowledge.stack_facts("cuda-12.8") | facts_of(knowledge, instance="p5.48xlarge", cuda="13.0.2")
    finding = next(f for f in check(knowledge, stated).errors if f.rule.id == "CUDA-DRV-13")
    changes = {change.fact: change.after for change in nearest(knowledge, stated, finding)}
    assert changes.keys() == {"nvidia_driver", "nvidia_fabric_manager", "efa"}
    after = {error.rule.id for error in check(knowledge, {**stated, **changes}).errors}
    assert after <= {error.rule.id for error in check(knowledge, stated).errors} - {"CUDA-DRV-13"}


def test_a_suggested_change_fixes_the_broken_rule_and_breaks_no_other_rule(knowledge: Knowledge) -> None:
    for rule in knowledge.rules:
        for example in rule.fires_for:
            before = {error.rule.id for error in check(knowledge, example).errors}
            changes = nearest(knowledge, example, Finding(rule=rule, facts={}))
            if changes:
                after = {**example, **{change.fact: change.after for change in changes}}
                assert rule.fires(derive(after, knowledge)) is not True, rule.id
                assert {error.rule.id for error in check(knowledge, after).errors} <= before, rule.id


def test_a_stack_check_returns_required_environment_variables(knowledge: Knowledge) -> None:
    result = check(knowledge, facts_of(knowledge, efa="1.28.0", nccl="2.19.3", kind="container"))
    assert [str(setting) for setting in result.settings] == [
        "FI_EFA_SET_CUDA_SYNC_MEMOPS=0",
        "image NVIDIA_VISIBLE_DEVICES=all",
        "image NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ]


def test_stack_diff_lists_the_riskiest_difference_first(knowledge: Knowledge) -> None:
    rows = differences(knowledge, "cuda-12.8", "cuda-13.0-slurm-25.11")
    assert [row.fact for row in rows[:5]] == [
        "os",
        "kernel",
        "nvidia_driver",
        "nvidia_fabric_manager",
        "cuda",
    ]
    assert {row.change for row in rows if row.fact == "enroot"} == {"added"}
    assert differences(knowledge, "cuda-12.8", "cuda-12.8") == ()
    text = markdown("cuda-12.8", "cuda-13.0-slurm-25.11", rows)
    assert "| NVIDIA kernel driver | 570.172.08 | 595.112.07 | newer |" in text.splitlines()


def test_stack_diff_of_swapped_stacks_is_inverted(knowledge: Knowledge) -> None:
    opposite = {"newer": "older", "older": "newer", "added": "removed", "removed": "added"}
    forward = {row.fact: row.change for row in differences(knowledge, "cuda-12.4", "cuda-12.9")}
    backward = {row.fact: row.change for row in differences(knowledge, "cuda-12.9", "cuda-12.4")}
    assert backward == {fact: opposite.get(change, change) for fact, change in forward.items()}


def test_reference_page_of_stacks_is_current(root: Path, knowledge: Knowledge) -> None:
    written = (root / "docs/reference/rules.md").read_text(encoding="utf-8")
    assert written == page(knowledge), "run: python -m builder.stack.reference docs/reference/rules.md"
    assert all(f"### {rule.id}\n" in written for rule in knowledge.rules)
