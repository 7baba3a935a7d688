"""Tests of the Ansible module `dkms`: compiling, restoring from archives, verification."""

import importlib.util
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

MODULE = Path(__file__).resolve().parents[2] / "ansible" / "plugins" / "modules" / "dkms.py"


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"factory_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up annotations there
    spec.loader.exec_module(module)
    return module


dkms = load_module(MODULE)

KERNEL = "6.1.0-1-amd64"


@dataclass
class Machine:
    """Fake AnsibleModule whose programs work on a folder with sources and headers.

    Folders represent dkms states; a kernel module is a text file that begins with a kernel release.
    """

    top: Path
    check_mode: bool = False
    warnings: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    tools: dict[str, str] = field(default_factory=lambda: {"gcc": "gcc 12.2", "ld": "ld 2.40"})

    @classmethod
    def create(cls, top: Path) -> "Machine":
        machine = cls(top)
        machine.write("src/nvidia-current-1.0/dkms.conf", "")
        machine.write("src/nvidia-current-1.0/code.c", "int a;")
        machine.write(f"modules/{KERNEL}/build/Makefile", "")
        machine.write(f"modules/{KERNEL}/build/Module.symvers", "0x1 symbol")
        machine.tree.mkdir()
        return machine

    @property
    def tree(self) -> Path:
        return self.top / "tree"

    def write(self, name: str, text: str) -> Path:
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def get_bin_path(self, name: str, *, required: bool = False) -> str | None:
        return name if name in self.tools else None

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def run_command(self, argv: list[str], environ_update: dict[str, str]) -> tuple[int, str, str]:
        program, *words = argv
        if program == "dkms":
            return self.dkms(*words)
        if program == "modinfo":
            path = self.top / "modules" / words[1] / f"{words[-1]}.ko"
            return (
                (0, path.read_text(encoding="utf-8").splitlines()[0], "")
                if path.exists()
                else (1, "", "not found")
            )
        return 0, f"{self.tools[program]}\n", ""

    def dkms(self, action: str, *words: str) -> tuple[int, str, str]:
        self.calls.append(action)
        given = dict(zip(words[::2], words[1::2], strict=False))
        home, kernel = self.tree / given.get("-m", "") / given.get("-v", ""), given.get("-k", "")
        archive = next((word.partition("=")[2] for word in words if word.startswith("--archive=")), "")
        code, output = 0, ""
        if action == "--version":
            output = "dkms-3.0.10"
        elif action == "status":
            output = "\n".join(self.status())
        elif action == "add":
            home.mkdir(parents=True)
        elif action == "remove":
            (home.parent / f"kernel-{kernel}").unlink(missing_ok=True)
            shutil.rmtree(home, ignore_errors=True)
        elif action == "build":
            code = self.build(home, kernel)
        elif action == "install":
            (home.parent / f"kernel-{kernel}").touch()
            for path in (home / kernel).glob("*/module/*"):
                shutil.copy(path, self.top / "modules" / kernel)
        elif action == "mktarball":
            with tarfile.open(archive, "w:gz") as file:
                file.add(home / kernel, (home / kernel).relative_to(self.tree))
        elif action == "ldtarball":
            try:
                with tarfile.open(archive) as file:
                    file.extractall(self.tree, filter="data")
            except tarfile.TarError as error:
                code, output = 2, str(error)
        return code, output, ""

    def status(self) -> Iterator[str]:
        for found in sorted(self.tree.glob("*/*/")):
            built = [path for path in found.iterdir() if path.name != "build"]
            label = f"{found.parent.name}/{found.name}"
            if not built:
                yield f"{label}: added"
            for path in built:
                state = "installed" if (found.parent / f"kernel-{path.name}").exists() else "built"
                warning = " (WARNING! Diff)" if (path / "warning").exists() else ""
                yield f"{label}, {path.name}, x86_64: {state}{warning}"

    def build(self, home: Path, kernel: str) -> int:
        shutil.rmtree(home / "build", ignore_errors=True)
        shutil.copytree(self.top / "src" / f"{home.parent.name}-{home.name}", home / "build")
        code = (home / "build" / "code.c").read_text(encoding="utf-8")
        if "error" in code:
            lines = [*(f"line {i}" for i in range(90)), code, "end"]
            (home / "build" / "make.log").write_text("\n".join(lines), encoding="utf-8")
            return 10
        module = home.relative_to(self.top) / kernel / "x86_64" / "module" / f"{home.parent.name}.ko"
        self.write(str(module), f"{kernel} SMP\n{code}")
        shutil.rmtree(home / "build")
        return 0

    def make(self, name: str = "nvidia*", archives: bool = True) -> dict[str, Any]:
        found = dkms.find_name(self, name, "1.0")
        build = dkms.Build(module=self, name=found, version="1.0", kernel=KERNEL)
        result: dict[str, Any] = dkms.ensure_installed(build, self.top / "archives" if archives else None)
        return result

    def reset(self) -> None:
        """Delete all builds but keep the sources, as on a new machine."""
        shutil.rmtree(self.tree)
        self.tree.mkdir()
        (self.top / f"modules/{KERNEL}/nvidia-current.ko").unlink()

    def archives(self) -> list[str]:
        return [path.name for path in (self.top / "archives").glob("*")]

    def installed(self) -> str:
        return (self.top / f"modules/{KERNEL}/nvidia-current.ko").read_text(encoding="utf-8")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for name, folder in {"TREE": "tree", "SOURCES": "src", "KERNELS": "modules", "SETTINGS": "etc"}.items():
        monkeypatch.setattr(dkms, name, tmp_path / folder)
    return Machine.create(tmp_path)


def test_compiles_installs_and_saves_an_archive(machine: Machine) -> None:
    result = machine.make()
    assert (result["changed"], result["outcome"], result["module"]) == (True, "compiled", "nvidia-current")
    assert machine.archives() == [result["archive"]]
    assert machine.installed().startswith(KERNEL)


def test_second_run_changes_nothing(machine: Machine) -> None:
    machine.make()
    machine.calls.clear()
    again = machine.make()
    assert (again["changed"], again["outcome"]) == (False, "none")
    assert set(machine.calls) == {"status", "--version"}


def test_check_mode_changes_nothing(machine: Machine) -> None:
    machine.check_mode = True
    checked = machine.make()
    assert checked["outcome"] == "needed"
    assert list(machine.tree.iterdir()) == []
    machine.check_mode = False
    assert machine.make()["archive"] == checked["archive"]


def test_restores_the_archive_of_the_same_inputs(machine: Machine) -> None:
    machine.make()
    machine.reset()
    machine.calls.clear()
    assert machine.make()["outcome"] == "restored"
    assert "build" not in machine.calls
    assert machine.installed().startswith(KERNEL)


@pytest.mark.parametrize(
    "changed",
    [
        "src/nvidia-current-1.0/code.c",
        f"modules/{KERNEL}/build/Module.symvers",
        f"modules/{KERNEL}/build/.config",
        "etc/nvidia-current.conf",
        "etc/framework.conf.d/unsigned.conf",
    ],
)
def test_a_changed_input_changes_the_archive_name(machine: Machine, changed: str) -> None:
    first = machine.make()["archive"]
    machine.reset()
    machine.write(changed, "int b;")
    again = machine.make()
    assert (again["outcome"], again["archive"] != first) == ("compiled", True)


@pytest.mark.parametrize("tool", ["gcc", "ld"])
def test_a_changed_compiler_changes_the_archive_name(machine: Machine, tool: str) -> None:
    first = machine.make()["archive"]
    machine.tools[tool] = f"{tool} 99"
    assert machine.make()["archive"] != first


def test_archive_name_depends_on_the_compiler_that_built_the_kernel(machine: Machine) -> None:
    machine.write(f"modules/{KERNEL}/build/.config", 'CONFIG_CC_VERSION_TEXT="gcc-11 (x) 11.3"\n')
    machine.tools["gcc-11"] = "gcc 11.3"
    first = machine.make()["archive"]
    machine.tools["gcc"] = "gcc 13"
    assert machine.make()["archive"] == first


def test_compiles_if_the_archive_is_damaged(machine: Machine) -> None:
    archive = machine.make()["archive"]
    machine.reset()
    machine.write(f"archives/{archive}", "half of it")
    assert machine.make()["outcome"] == "compiled"
    assert [archive in warning for warning in machine.warnings] == [True]
    machine.reset()
    assert machine.make()["outcome"] == "restored"


def test_refuses_an_archive_for_another_kernel(machine: Machine) -> None:
    archive = machine.make()["archive"]
    folder = "nvidia-current/1.0"
    machine.write(f"forged/{folder}/{KERNEL}/x86_64/module/nvidia-current.ko", "5.10.0 SMP\n")
    with tarfile.open(machine.top / "archives" / archive, "w:gz") as file:
        file.add(machine.top / "forged" / folder, folder)
    machine.reset()
    with pytest.raises(dkms.DkmsError, match=f"would not load into kernel {KERNEL}.*5\\.10\\.0"):
        machine.make()


def test_keeps_the_modules_of_another_kernel(machine: Machine) -> None:
    machine.make()
    machine.reset()
    other = machine.write("tree/nvidia-current/1.0/5.10.0/x86_64/module/nvidia-current.ko", "5.10.0 SMP\n")
    assert machine.make()["outcome"] == "compiled"
    assert other.exists()


@pytest.mark.parametrize("interrupted", ["before the installation", "between module and index", "damaged"])
def test_rebuilds_a_module_after_an_interrupted_or_damaged_installation(
    machine: Machine, interrupted: str
) -> None:
    machine.make(archives=False)
    if interrupted == "before the installation":
        (machine.tree / f"nvidia-current/kernel-{KERNEL}").unlink()
        machine.write(f"tree/nvidia-current/1.0/{KERNEL}/x86_64/module/nvidia-current.ko", "half")
    elif interrupted == "between module and index":
        (machine.top / f"modules/{KERNEL}/nvidia-current.ko").unlink()
    else:
        machine.write(f"tree/nvidia-current/1.0/{KERNEL}/warning", "")
    assert machine.make(archives=False)["outcome"] == "compiled"
    assert machine.installed().startswith(KERNEL)


def test_failure_contains_the_compiler_error(machine: Machine) -> None:
    reason = "nv-pci.c:223:9: error: too few arguments to function 'pci_resize_resource'"
    machine.write("src/nvidia-current-1.0/code.c", reason)
    with pytest.raises(dkms.DkmsError, match=f"for kernel {KERNEL} failed: error: too few") as caught:
        machine.make()
    lines = caught.value.log.splitlines()
    assert (len(lines), lines[-1]) == (40, "end")
    assert reason in lines
    assert machine.archives() == []


def test_failure_names_a_kernel_without_headers(machine: Machine) -> None:
    shutil.rmtree(machine.top / f"modules/{KERNEL}/build")
    with pytest.raises(dkms.DkmsError, match=f"no headers of kernel {KERNEL}"):
        machine.make()


@pytest.mark.parametrize(("pattern", "names"), [("neuron", "nothing"), ("n*", "nvidia-current, nvidia-open")])
def test_pattern_must_match_exactly_one_dkms_module(machine: Machine, pattern: str, names: str) -> None:
    machine.write("src/nvidia-open-1.0/dkms.conf", "")
    with pytest.raises(dkms.DkmsError, match=names):
        machine.make(pattern)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("a/1.0: added", ("a", "1.0", None, "added", "")),
        ("a, 1.0: added", ("a", "1.0", None, "added", "")),
        ("a/1.0, 6.1.0-1-amd64, x86_64: built", ("a", "1.0", "6.1.0-1-amd64", "built", "")),
        ("a, 1.0, 5.15.0-1-aws, aarch64: installed", ("a", "1.0", "5.15.0-1-aws", "installed", "")),
        (
            "nvidia-current-open/535.261.03, 6.1.0-50-amd64, x86_64: installed (WARNING! Diff)",
            ("nvidia-current-open", "535.261.03", "6.1.0-50-amd64", "installed", " (WARNING! Diff)"),
        ),
    ],
)
def test_parses_the_status_of_dkms_2_and_3(line: str, fields: tuple[str | None, ...]) -> None:
    assert dkms.STATUS.fullmatch(line).groups() == fields
