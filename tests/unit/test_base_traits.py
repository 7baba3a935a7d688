"""Roles, plays and the catalog handle the properties of vendors' base images in base_traits.toml."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder import catalog
from builder.members import members_of, policy_of
from builder.model import Catalog
from builder.rehearsal.ec2 import machine

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "ansible"
TRAITS = tomllib.loads((ROOT / "tests/data/base_traits.toml").read_text(encoding="utf-8"))["trait"]


@pytest.fixture(scope="module")
def loaded(root: Path) -> Catalog:
    return catalog.load(root)


@pytest.mark.parametrize("trait", TRAITS, ids=lambda trait: f"{trait['system']}: {trait['trait']}")
def test_each_trait_of_base_traits_toml_has_a_source_and_a_test(
    trait: Mapping[str, str], loaded: Catalog
) -> None:
    path, _, name = trait["test"].partition("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
    assert trait["source"]
    assert trait["system"] == "debian" or trait["system"] in loaded.systems


def test_machine_image_has_only_the_archive_area_main(loaded: Catalog) -> None:
    bootstrap = loaded.systems["debian-12"].bootstrap
    assert bootstrap
    assert "non-free" in bootstrap.areas
    assert machine._recipe(bootstrap).areas == ("main",)


# Kernels.

UBUNTU = {"system_family": "debian", "system_distribution": "ubuntu", "kernel_series": "6.17"}
AMAZON = {"system_family": "redhat", "system_distribution": "amazon", "kernel_series": "6.12"}
DEBIAN = {"system_family": "debian", "system_distribution": "debian", "kernel_series": "6.1"}
NAMES = [
    *("linux-image-6.17.0-1007-aws", "linux-image-6.17.0-1012-aws", "linux-image-6.17.0-990-aws"),
    *("linux-image-6.17.0-1012-aws-fips", "linux-image-6.17.0-2000-generic"),
]
DEBIAN_NAMES = [
    *("linux-image-6.1.0-50-amd64", "linux-image-6.1.0-51-rt-amd64", "linux-image-6.1.0-49-cloud-amd64"),
    "linux-image-6.1.0-51-cloud-amd64",
]
BUILDS = ["6.12.110-150.223.amzn2023.x86_64", "6.12.99-1.amzn2023.x86_64"]
# Case → kernels of base image, of archive; whether the role `kernel` installs; variables; expected kernel.
KERNELS: Mapping[str, tuple[list[str], list[str], bool, Mapping[str, str], str]] = {
    "of_base": (["6.17.0-990-aws", "6.17.0-1007-aws", "7.0.0-1-aws"], NAMES, True, UBUNTU, "6.17.0-1007-aws"),
    "newer_base": (["7.0.0-1009-aws"], NAMES, True, UBUNTU, "6.17.0-1012-aws"),
    "cloud_kernel": (["6.12.9+deb13-cloud-amd64"], DEBIAN_NAMES, True, DEBIAN, "6.1.0-51-cloud-amd64"),
    "older_base": (["6.1.150-1.amzn2023.x86_64"], BUILDS, True, AMAZON, BUILDS[0]),
    "no_role": (["7.0.0-1009-aws"], NAMES, False, UBUNTU, ""),
    "no_kernel": (["7.0.0-1009-aws"], NAMES[-1:], True, UBUNTU, ""),
}


def run_play(folder: Path, hosts: Mapping[str, Mapping[str, Any]], tasks: list[dict[str, Any]]) -> str:
    """Run tasks on several inventory hosts on this machine, each with a PATH folder of its own."""
    play = {
        "hosts": "all",
        "gather_facts": False,
        "environment": {"PATH": f"{folder}/{{{{ inventory_hostname }}}}:{os.environ['PATH']}"},
        "tasks": tasks,
    }
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}))
    environment = os.environ | {
        "ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home"),
        "ANSIBLE_INVENTORY_ENABLED": "yaml",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_STDOUT_CALLBACK": "minimal",
    }
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    argv = [program, "-i", str(folder / "hosts.yml"), "-c", "local", str(folder / "play.yml")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)
    return done.stdout + done.stderr


def write_program(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\ncat << 'E'\n" + "\n".join(lines) + "\nE\n")
    path.chmod(0o755)


def test_kernel_of_the_pinned_series_is_selected(tmp_path: Path) -> None:
    """A kernel of the pinned series comes from the base image, else from the archive in the same flavour."""
    hosts = {}
    for name, (present, offered, installs, variables, _) in KERNELS.items():
        for program, lines in (("ls", present), ("apt-cache", offered), ("dnf", offered)):
            write_program(tmp_path / name / program, lines)
        hosts[name] = {**variables, "kernel_from_archive": installs, "kernel_plain_series": "6.1"}
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.include_tasks": str(ANSIBLE / "tasks/kernel_of_base.yml")},
        {
            "ansible.builtin.copy": {
                "content": "{{ target_kernel }}",
                "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}/found",
            }
        },
    ]
    output = run_play(tmp_path, hosts, tasks)
    files = {name: tmp_path / name / "found" for name in KERNELS}
    found = {name: path.read_text() if path.exists() else "" for name, path in files.items()}
    assert found == {name: row[-1] for name, row in KERNELS.items()}, output
    refusal = "The stack pins kernel series 6.17; the base image has 7.0.0-1009-aws"
    assert f"{refusal}:" in output
    assert f"{refusal}, and its package archive offers none of the series:" in output


def test_package_linux_modules_extra_is_optional(tmp_path: Path) -> None:
    role = ANSIBLE / "roles/kernel"
    tasks = yaml.safe_load((role / "tasks/main.yml").read_text(encoding="utf-8"))
    assert tasks[0]["register"] == "kernel_extra"
    offered = {"6.17.0-1007-aws": ["linux-modules-extra-6.17.0-1007-aws"], "7.0.0-1009-aws": []}
    hosts = {}
    for kernel, names in offered.items():
        write_program(tmp_path / kernel / "apt-cache", names)
        hosts[kernel] = {"target_kernel": kernel, "system_distribution": "ubuntu"}
    copy = {
        "content": "{{ kernel_packages | join(' ') }}",
        "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}/found",
    }
    output = run_play(
        tmp_path,
        hosts,
        [
            tasks[0],
            {"ansible.builtin.include_vars": str(role / "vars/debian.yml")},
            {"ansible.builtin.copy": copy},
        ],
    )
    for kernel, names in offered.items():
        expected = [f"linux-image-{kernel}", f"linux-headers-{kernel}", *names]
        assert (tmp_path / kernel / "found").read_text().split() == expected, output


# Base images with accelerator software.


def test_efa_of_eks_base_images_is_kept(loaded: Catalog) -> None:
    """EKS AMIs have the latest EFA, but no driver in /lib/modules, so role `efa` would remove GPUDirect."""
    kept = set()
    for target in loaded.targets.values():
        for flavour in target.flavours.values():
            if flavour.system.startswith("eks-") and "efa" in members_of(loaded, target, flavour):
                assert policy_of("efa", target, flavour) == "verify_minimum"
                kept.add(target.name)
    assert kept == {"ami-eks-gpu", "ami-eks-neuron"}
    tasks = yaml.safe_load((ANSIBLE / "roles/efa/tasks/main.yml").read_text(encoding="utf-8"))
    changing = [
        task for task in tasks if task["name"] in ("Install EFA", "Build or remove the kernel modules")
    ]
    assert len(changing) == 2
    assert all("not efa_policy.startswith('verify_')" in str(task["when"]) for task in changing)


def test_eks_stacks_pin_the_kernel_series_of_their_kubernetes_version(loaded: Catalog) -> None:
    """A build is refused if the base image has no kernel of the pinned series."""
    series = {"1.33": "6.12", "1.34": "6.12", "1.35": "6.12", "1.36": "6.18", "1.37": "6.18"}
    pinned = {
        flavour.system: loaded.stacks[flavour.stack].pins["kernel"]
        for target in loaded.targets.values()
        for flavour in target.flavours.values()
        if flavour.system.startswith("eks-")
    }
    assert pinned == {
        f"eks-{version}-{accelerator}": kernel
        for version, kernel in series.items()
        for accelerator in ("nvidia", "neuron")
    }


def test_source_ami_of_neuron_is_still_published(loaded: Catalog) -> None:
    """AWS no longer publishes Neuron DLAMIs for Ubuntu 22.04; their SSM parameter has a stale AMI or none."""
    parameters = {system.ami.parameter for system in loaded.systems.values() if system.ami}
    neuron = {name for name in parameters if name.startswith("/aws/service/neuron/")}
    assert neuron == {"/aws/service/neuron/dlami/base/ubuntu-24.04/latest/image_id"}
