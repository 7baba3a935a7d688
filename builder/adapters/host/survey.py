"""Read the installed versions of an image or of this machine; change nothing, start no container.

Knows where vendors record versions, not which versions are compatible. Unreadable versions are left out.
"""

import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder import arch
from builder.adapters.engine.client import Engine
from builder.adapters.host import process
from builder.errors import FactoryError, UsageError
from builder.marks import REF_NAME_LABEL, VERSION_LABEL, VERSIONS_LABEL
from builder.stack.vocabulary import Value, Vocabulary, read_value

# Names of facts by the environment variable in which published images record the version.
_VARIABLES = {
    "CUDA_VERSION": "cuda",
    "NCCL_VERSION": "nccl",
    "NV_LIBNCCL_PACKAGE_VERSION": "nccl",
    "CUDNN_VERSION": "cudnn",
    "NV_CUDNN_VERSION": "cudnn",
    "EFA_INSTALLER_VERSION": "efa",
    "EFA_VERSION": "efa",
    "AWS_OFI_NCCL_VERSION": "aws_ofi_nccl",
    "NCCL_TESTS_VERSION": "nccl_tests",
    "GDRCOPY_VERSION": "gdrcopy",
    "PYTORCH_VERSION": "torch",
    "PYTHON_VERSION": "python",
}
# Names of facts by the file of a running kernel that contains the version.
_FILES = {
    "/sys/module/efa/version": "efa_kmod",
    "/sys/module/efa_nv_peermem/version": "efa_nv_peermem",
    "/sys/module/gdrdrv/version": "gdrdrv",
    "/sys/module/neuron/version": "neuron_driver",
}
# Names of facts by kernel module; modinfo also knows modules that are installed but not loaded.
_MODULES = {
    "efa": "efa_kmod",
    "efa_nv_peermem": "efa_nv_peermem",
    "gdrdrv": "gdrdrv",
    "neuron": "neuron_driver",
}
_COMMANDS = {
    ("nv-fabricmanager", "--version"): "nvidia_fabric_manager",
    ("nvidia-imex", "--version"): "nvidia_imex",
    ("nvidia-ctk", "--version"): "nvidia_container_toolkit",
    ("enroot", "version"): "enroot",
    ("sinfo", "--version"): "slurm",
}
_NUMBER = re.compile(r"\d+(?:\.\d+)+[\w.-]*")
_TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """Facts of an image or a machine, and messages about values that could not be parsed."""

    facts: Mapping[str, Value]
    unread: tuple[str, ...] = ()


class _Notes:
    """Collects facts; the first source of a fact wins."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.facts: dict[str, Value] = {}
        self.unread: list[str] = []

    def add(self, source: str, name: str, raw: object) -> None:
        fact = self._vocabulary.fact(name)
        if fact.name in self.facts:
            return
        try:
            self.facts[fact.name] = read_value(fact, raw)
        except ValueError as error:
            self.unread.append(f"{source}: {error}")

    def survey(self) -> Survey:
        return Survey(facts=self.facts, unread=tuple(self.unread))


def of_image(engine: Engine, reference: str, vocabulary: Vocabulary) -> Survey:
    """Return the facts in the labels, environment and entrypoint of an image, which may be wrong."""
    image = engine.inspect_image(reference)
    if image is None:
        raise UsageError(f"no image '{reference}' in the engine", hint=f"docker pull {reference}")
    config: Mapping[str, Any] = image.get("Config") or {}
    labels: Mapping[str, str] = config.get("Labels") or {}
    variables = dict(pair.partition("=")[::2] for pair in config.get("Env") or ())
    notes = _Notes(vocabulary)
    notes.add("image", "kind", "container")
    if found := arch.find(image.get("Architecture", "")):
        notes.add("image", "arch", found.name)
    _version_labels(labels, notes, vocabulary)
    for variable, name in _VARIABLES.items():
        if variables.get(variable):
            notes.add(f"variable {variable}", name, variables[variable])
    _system_label(labels, notes)
    _environment(variables, config.get("Entrypoint") or (), notes)
    return notes.survey()


def _version_labels(labels: Mapping[str, str], notes: _Notes, vocabulary: Vocabulary) -> None:
    if VERSIONS_LABEL not in labels:
        return
    try:
        versions = json.loads(labels[VERSIONS_LABEL])
    except ValueError:
        versions = None
    if not isinstance(versions, dict):
        notes.unread.append(f"label {VERSIONS_LABEL}: not a JSON table")
        return
    for name, version in versions.items():
        fact = vocabulary.component(name) or vocabulary.of_package(name)
        if fact is not None:
            notes.add(f"label {VERSIONS_LABEL}", fact.name, version)


def _system_label(labels: Mapping[str, str], notes: _Notes) -> None:
    """Add the system of an image based on Ubuntu, from the two labels of Ubuntu's base images."""
    name = labels.get(REF_NAME_LABEL, "")
    version = labels.get(VERSION_LABEL, "")
    if name == "ubuntu" and re.fullmatch(r"\d\d\.\d\d", version):
        notes.add(f"label {VERSION_LABEL}", "os", system_name("ubuntu", version))


def _environment(variables: Mapping[str, str], entrypoint: Sequence[str], notes: _Notes) -> None:
    """Add facts from environment and entrypoint; ld.so.conf files cannot be read here."""
    notes.add("environment", "env", list(variables))
    path = variables.get("LD_LIBRARY_PATH", "")
    if "hpcx" in path:
        notes.add("LD_LIBRARY_PATH", "hpcx_in_ldpath", raw=True)
    if "/compat" in path:
        notes.add("LD_LIBRARY_PATH", "cuda_compat_in_ldpath", "always")
    if "/amazon/efa/lib" in path and "ofi-nccl" in path:
        notes.add("LD_LIBRARY_PATH", "ldpath_has_efa_and_ofi", raw=True)
    if any("nvidia_entrypoint" in word for word in entrypoint):
        notes.add("entrypoint", "ngc_entrypoint", raw=True)


def of_host(vocabulary: Vocabulary, root: Path = Path("/")) -> Survey:
    """Return the facts of this machine; with another `root`, only the facts in files below it."""
    notes = _Notes(vocabulary)
    if found := arch.find(platform.machine()):
        notes.add("machine", "arch", found.name)
    kernel = re.match(r"\d+(\.\d+)*", platform.release())
    if kernel:
        notes.add("kernel", "kernel", kernel[0])
    if not any((root / name).exists() for name in (".dockerenv", "run/.containerenv")):
        _system_file(root, notes)  # in a container, os-release describes the container
    _driver(root, notes)
    for path, name in _FILES.items():
        text = _read(root / path.lstrip("/"))
        if text:
            notes.add(path, name, _version(text))
    if (root / "sys/module").is_dir():
        notes.add("/sys/module", "ib_umad", (root / "sys/module/ib_umad").exists())
    if _read(root / "sys/class/dmi/id/sys_vendor").strip() == "Amazon EC2":
        notes.add(
            "/sys/class/dmi/id/product_name",
            "instance",
            _read(root / "sys/class/dmi/id/product_name").strip(),
        )
    installer = re.search(r"installer version: (\S+)", _read(root / "opt/amazon/efa_installed_packages"))
    if installer:
        notes.add("/opt/amazon/efa_installed_packages", "efa", installer[1])
    if root == Path("/"):
        _run_programs(notes)
    return notes.survey()


def system_name(identity: str, version: str) -> str:
    """Return the system name that rules use, from os-release fields: ubuntu2204, al2023, rhel9, debian12."""
    if identity == "amzn":
        return f"al{version}"
    major = version.partition(".")[0]
    return f"{identity}{version.replace('.', '') if identity == 'ubuntu' else major}"


def _system_file(root: Path, notes: _Notes) -> None:
    text = _read(root / "etc/os-release")
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    if "ID" in fields and "VERSION_ID" in fields:
        name = system_name(fields["ID"], fields["VERSION_ID"])
        notes.add("/etc/os-release", "host_os", name)
        notes.add("/etc/os-release", "os", name)


def _driver(root: Path, notes: _Notes) -> None:
    text = _read(root / "proc/driver/nvidia/version")
    version = re.search(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)", text)
    if version:
        notes.add("/proc/driver/nvidia/version", "nvidia_driver", version[1])
        flavor = "open" if "Open Kernel Module" in text else "proprietary"
        notes.add("/proc/driver/nvidia/version", "nvidia_driver_flavor", flavor)


def _run_programs(notes: _Notes) -> None:
    for module, name in _MODULES.items():
        text = _output(["modinfo", "-F", "version", module])
        if text:
            notes.add(f"modinfo {module}", name, _version(text))
    for argv, name in _COMMANDS.items():
        version = _NUMBER.search(_output(argv))
        if version:
            notes.add(" ".join(argv), name, version[0])


def _version(text: str) -> str:
    """Return the version without a module's build suffix (the g of 2.17.3g means GPU memory support)."""
    match = re.match(r"\d+(\.\d+)*", text.strip())
    return match[0] if match else text.strip()


def _output(argv: Iterable[str]) -> str:
    """Return the output of a program; "" if it is missing or fails."""
    try:
        # With the user's LD_LIBRARY_PATH and PATH, so that the versions are those the user's programs load.
        environment = process.inherited_environment()
        finished = process.run([*argv], timeout_s=_TIMEOUT_S, env=environment)
    except FactoryError:
        return ""
    return finished.output if finished.code == 0 else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
