"""Derive facts from stated ones: from the machine type, the contents of releases and other facts.

Never overrides a stated fact, and never guesses: a fact that does not follow stays unknown.
"""

from collections.abc import Callable, Mapping

from builder.stack.knowledge import Knowledge
from builder.stack.versions import Version
from builder.stack.vocabulary import ABSENT, Facts, Value

# Components that exist for one kind of accelerator only.
_MAKES = {
    "nvidia": ("cuda", "nvidia_driver", "nccl"),
    "neuron": ("neuron_sdk", "neuron_driver", "neuron_runtime"),
}


def derive(stated: Facts, knowledge: Knowledge) -> dict[str, Value]:
    """Return `stated` and all facts that follow from it."""
    facts = dict(stated)
    for step in _STEPS:
        for name, value in step(facts, knowledge).items():
            facts.setdefault(name, value)
    return facts


def _machine(facts: Facts, knowledge: Knowledge) -> Facts:
    instance = knowledge.instances.get(str(facts.get("instance")))
    if instance is None:
        return {}
    known: dict[str, Value | None] = {
        "family": instance.family,
        "accel": instance.accel,
        "arch": instance.arch,
        "gdr": instance.gdr,
        "nvswitch": instance.nvswitch,
        "gpu_sm": instance.gpu_sm if instance.accel == "nvidia" else ABSENT,
        "instance_efa_max": instance.efa,
        "has_efa": None if instance.efa is None else instance.efa > 0,
    }
    return {name: value for name, value in known.items() if value is not None}


def _make(facts: Facts, _: Knowledge) -> Facts:
    makes = [make for make, names in _MAKES.items() if any(facts.get(n, ABSENT) is not ABSENT for n in names)]
    if len(makes) > 1:
        return {"accel_stacks": len(makes)}
    return {"accel": makes[0]} if makes else {}


def _contents(facts: Facts, knowledge: Knowledge) -> Facts:
    """Return the versions that the stated releases contain; of host components only in an AMI."""
    found: dict[str, Value] = {}
    for name, value in facts.items():
        release = knowledge.release(name, value)
        if release is None or not _BRINGS_IF.get(name, _always)(facts):
            continue
        for other, version in release.contents.items():
            on_host = knowledge.vocabulary.facts[other].side == "host"
            if (not on_host or facts.get("kind") == "ami") and _COMES_IF.get(other, _always)(facts):
                found[other] = version
    return found


def _always(_: Facts) -> bool:
    return True


def _from_index(facts: Facts) -> bool:
    """True if torch is the wheel from PyPI; the catalog lists the contents of no other torch wheel."""
    return facts.get("torch_index") == "pypi" and getattr(facts["torch"], "variant", "") == ""


def _plugin_in_use(facts: Facts) -> bool:
    return facts.get("accel") == "nvidia" and facts.get("aws_ofi_nccl_custom_build") is not True


# Conditions under which facts are derived from the release of a component.
_BRINGS_IF: Mapping[str, Callable[[Facts], bool]] = {"torch": _from_index}
# Conditions under which a component's version is derived from the releases that contain it.
_COMES_IF: Mapping[str, Callable[[Facts], bool]] = {"aws_ofi_nccl": _plugin_in_use}


def _plugin(facts: Facts, _: Knowledge) -> Facts:
    """Mark the NCCL plugin as absent on machines without NVIDIA GPUs."""
    return {"aws_ofi_nccl": ABSENT} if facts.get("accel") in ("none", "neuron") else {}


def _one_machine(facts: Facts, _: Knowledge) -> Facts:
    """Copy image facts to the host facts of an AMI, where both are the same installation."""
    if facts.get("kind") != "ami":
        return {}
    pairs = (("host_os", "os"), ("gdrdrv", "gdrcopy"))
    return {host: facts[image] for host, image in pairs if image in facts}


def _driver(facts: Facts, knowledge: Knowledge) -> Facts:
    driver = facts.get("nvidia_driver")
    if driver is ABSENT:
        return dict.fromkeys(
            ("nvidia_driver_branch", "nvidia_driver_flavor", "nvidia_driver_below_bundled"), ABSENT
        )
    if not isinstance(driver, Version):
        return {}
    found: dict[str, Value] = {"nvidia_driver_branch": driver.major}
    cuda = knowledge.release("cuda", facts.get("cuda"))
    if cuda is not None and cuda.bundled_driver is not None:
        found["nvidia_driver_below_bundled"] = driver < cuda.bundled_driver
    return found


def _flags(facts: Facts, knowledge: Knowledge) -> Facts:
    answers = {name: derived.value(facts) for name, derived in knowledge.derived.items()}
    return {name: answer for name, answer in answers.items() if answer is not None}


_STEPS = (_machine, _make, _contents, _plugin, _one_machine, _driver, _flags)
