#!/usr/bin/python3
"""Has dkms build a kernel module for one kernel, or takes what was compiled before from the same inputs.

The kernel is the one that the image boots, never the one that runs. What dkms calls installed is looked at
again: a build that was interrupted, or a module that is not the one that was built, is made anew.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: dkms
short_description: Build and install kernel modules for one kernel
description:
  - Restores the archive of an earlier build if there is one, else compiles; then installs and verifies.
  - In check mode, says what the archive of this build is called and whether it would be needed.
options:
  name:
    description:
      - Name by which dkms knows the sources, or a pattern that fits one of them. Vendors call one and the
        same module nvidia, nvidia-open and nvidia-current-open.
    type: str
    required: true
  version:
    description: Version of the sources.
    type: str
    required: true
  kernel:
    description: Release of the kernel to build for.
    type: str
    required: true
  archives:
    description: Folder where the archive of an earlier build may lie, and where that of a new one is put.
    type: path
author: The image factory
"""

EXAMPLES = """
- name: Build the driver
  dkms:
    name: nvidia*
    version: "{{ nvidia_driver_version }}"
    kernel: "{{ target_kernel }}"
    archives: "{{ work_folder }}"
"""

RETURN = """
module:
  description: Name by which dkms knows the sources.
  returned: always
  type: str
archive:
  description: Name of the archive; it covers all that the result of the build depends on.
  returned: always
  type: str
outcome:
  description: What had to be done (none, restored, compiled); in check mode none or needed.
  returned: always
  type: str
"""

TREE = Path("/var/lib/dkms")
SOURCES = Path("/usr/src")
KERNELS = Path("/lib/modules")
SETTINGS = Path("/etc/dkms")
# Both forms: NAME/VERSION, KERNEL, ARCH: STATE and, from dkms 2, NAME, VERSION, KERNEL, ARCH: STATE.
STATUS = re.compile(
    r"(?P<name>[^,/\s]+)(?:/|, )(?P<version>[^,:\s]+)(?:, (?P<kernel>[^,]+), [^,:]+)?"
    r": (?P<state>\w+)(?P<more>.*)"
)
ERROR = re.compile(r"\b(?:fatal )?error: .*|.*No space left on device.*|\*\*\* .*")
LOG_LINES = 40
LOG_COLUMNS = 240


class Refused(Exception):
    """The modules cannot be made; `log` is what a person needs to see of the compiler's output."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Build:
    """One module of dkms for one kernel."""

    module: AnsibleModule
    name: str
    version: str
    kernel: str

    @property
    def tree(self) -> Path:
        return TREE / self.name / self.version

    def entries(self) -> list[dict[str, str]]:
        """What dkms says of these sources."""
        mine = (self.name, self.version)
        return [entry for entry in read_status(self.module) if (entry["name"], entry["version"]) == mine]

    def dkms(self, action: str, *words: str, kernel: bool = True) -> tuple[int, str]:
        """Exit code of dkms and what it said."""
        which = ["-m", self.name, "-v", self.version, *(["-k", self.kernel] if kernel else [])]
        return run(self.module, "dkms", action, *which, *words)

    def state(self) -> str:
        """installed, built, damaged (dkms warns about it), added, or nothing."""
        entries = self.entries()
        for entry in entries:
            if entry["kernel"] == self.kernel:
                return "damaged" if "WARNING" in entry["more"] else entry["state"]
        return "added" if entries else ""


def run(module: AnsibleModule, *command: str) -> tuple[int, str]:
    environment = {"LC_ALL": "C", "DKMS_DIRECTIVE": ""}
    code, output, errors = module.run_command(list(command), environ_update=environment)
    return int(code), f"{output}{errors}"


def read_status(module: AnsibleModule) -> list[dict[str, str]]:
    code, said = run(module, "dkms", "status")
    if code != 0:
        raise Refused(f"dkms status failed: {said.strip()[-LOG_COLUMNS:]}")
    found = (STATUS.fullmatch(line.strip()) for line in said.splitlines())
    return [{key: value or "" for key, value in match.groupdict().items()} for match in found if match]


def find_name(module: AnsibleModule, pattern: str, version: str) -> str:
    """The one name that fits, of what dkms knows and of the sources that wait to be added."""
    known = {entry["name"] for entry in read_status(module) if entry["version"] == version}
    known |= {path.parent.name.removesuffix(f"-{version}") for path in SOURCES.glob(f"*-{version}/dkms.conf")}
    fitting = sorted(name for name in known if fnmatch.fnmatchcase(name, pattern))
    if len(fitting) != 1:
        found = ", ".join(fitting) or f"nothing in {SOURCES}"
        raise Refused(f"dkms: one module '{pattern}' of version {version} is expected, and there is {found}")
    return fitting[0]


def sum_of_tree(folder: Path) -> str:
    """Covers names, contents and executable bits of the sources."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found.update(f"{name}\0link {path.readlink()}\0".encode())
        elif path.is_file():
            executable = os.access(path, os.X_OK)
            found.update(f"{name}\0{executable}\0{path.stat().st_size}\0".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


def describe_headers(module: AnsibleModule, kernel: str) -> str:
    """The headers' package with its version, and what of them decides whether a module fits."""
    folder = (KERNELS / kernel / "build").resolve()
    if not (folder / "Makefile").is_file():
        raise Refused(
            f"there are no headers of kernel {kernel} (no {KERNELS / kernel / 'build'}): install them first"
        )
    texts = []
    for command in (("dpkg-query", "--search", str(folder)), ("rpm", "--query", "--file", str(folder))):
        if module.get_bin_path(command[0]):
            code, said = run(module, *command)
            texts += [said.split(":")[0].strip()] if code == 0 else []
    if texts and module.get_bin_path("dpkg-query"):
        texts.append(run(module, "dpkg-query", "--show", "--showformat", "${Version}", texts[0])[1])
    files = [folder / "Module.symvers", folder / ".config"]
    texts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()]
    return "\n".join(texts)


def describe_compiler(module: AnsibleModule, kernel: str) -> str:
    """The compiler that dkms will take: that of the kernel if it is there."""
    config = KERNELS / kernel / "build" / ".config"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    named = re.search(r'^CONFIG_CC_VERSION_TEXT="(\S+)', text, re.MULTILINE)
    compiler = module.get_bin_path(named[1]) if named else None
    tools = (compiler or module.get_bin_path("gcc", required=True), module.get_bin_path("ld", required=True))
    return "\n".join(run(module, tool, "--version")[1].splitlines()[0] for tool in tools)


def name_archive(build: Build) -> str:
    """Names the archive after all that the result depends on."""
    settings = sorted((*SETTINGS.glob("framework.conf*"), *SETTINGS.glob("framework.conf.d/*")))
    settings += sorted(SETTINGS.glob(f"{build.name}*.conf"))
    inputs = [
        sum_of_tree(SOURCES / f"{build.name}-{build.version}"),
        describe_headers(build.module, build.kernel),
        describe_compiler(build.module, build.kernel),
        run(build.module, "dkms", "--version")[1].strip(),
        *(path.read_text(encoding="utf-8") for path in settings if path.is_file()),
    ]
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    return f"{build.name}-{build.version}-{build.kernel}-{os.uname().machine}-{digest}.dkms.tar.gz"


def begin_anew(build: Build) -> None:
    """Leaves the sources known to dkms and nothing built from them for this kernel."""
    if build.state() in ("built", "installed", "damaged"):
        build.dkms("remove")
    if not build.state():
        code, said = build.dkms("add", kernel=False)
        if code != 0:
            raise Refused(f"dkms cannot add {build.name} {build.version}: {said.strip()[-LOG_COLUMNS:]}")


def restore(build: Build, archive: Path) -> bool:
    """Whether the archive held what a build of ours would have made."""
    # dkms loads an archive only of what it does not know, so what other kernels have would be lost.
    if any(entry["kernel"] for entry in build.entries()):
        return False
    build.dkms("remove", "--all", kernel=False)
    code, said = run(build.module, "dkms", "ldtarball", f"--archive={archive}")
    if code == 0 and build.state() == "built":
        return True
    build.module.warn(
        f"{archive.name} cannot be used, so the modules are compiled: {said.strip()[-LOG_COLUMNS:]}"
    )
    begin_anew(build)
    return False


def compile_modules(build: Build) -> None:
    code, said = build.dkms("build", "-j", str(len(os.sched_getaffinity(0))))
    if code == 0:
        return
    log = build.tree / "build" / "make.log"
    lines = (
        log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else said.splitlines()
    )
    found = (ERROR.search(line) for line in lines)
    reason = next((match.group() for match in found if match), f"dkms ended with code {code}")
    tail = "\n".join(line[:LOG_COLUMNS] for line in lines[-LOG_LINES:])
    raise Refused(
        f"{build.name} {build.version} cannot be compiled for kernel {build.kernel}: {reason[:LOG_COLUMNS]}",
        tail,
    )


def save(build: Build, archive: Path) -> None:
    """Keeps what was built; whole, or not at all."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"part-{archive.name}")
    code, said = build.dkms("mktarball", "--binaries-only", f"--archive={part}")
    if code != 0:
        raise Refused(f"dkms cannot keep {archive.name}: {said.strip()[-LOG_COLUMNS:]}")
    part.replace(archive)


def install(build: Build) -> None:
    code, said = build.dkms("install", "--force")
    if code != 0:
        raise Refused(
            f"dkms cannot install {build.name} {build.version}: {said.strip()[-LOG_COLUMNS:]}", said
        )


def find_flaw(build: Build) -> str:
    """Why the modules would not load into the kernel; empty where they would."""
    state = build.state()
    if state != "installed":
        return f"dkms calls it '{state}'"
    modules = sorted((build.tree / build.kernel).glob("*/module/*.ko*"))
    if not modules:
        return "there is no module"
    for path in modules:
        name = path.name.partition(".ko")[0]
        code, said = run(build.module, "modinfo", "-k", build.kernel, "-F", "vermagic", name)
        if code != 0 or said.split()[:1] != [build.kernel]:
            return f"modinfo says of {name}: {said.strip() or 'nothing'}"
    return ""


def make(build: Build, archives: Path | None) -> dict[str, Any]:
    known: dict[str, Any] = {"module": build.name, "archive": name_archive(build)}
    if not find_flaw(build):
        return {**known, "changed": False, "outcome": "none"}
    if build.module.check_mode:
        return {**known, "changed": True, "outcome": "needed"}
    archive = archives / known["archive"] if archives else None
    begin_anew(build)
    restored = archive is not None and archive.is_file() and restore(build, archive)
    if not restored:
        compile_modules(build)
        if archive:
            save(build, archive)
    install(build)
    flaw = find_flaw(build)
    if flaw:
        raise Refused(f"{build.name} {build.version} would not load into kernel {build.kernel}: {flaw}")
    return {**known, "changed": True, "outcome": "restored" if restored else "compiled"}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "kernel": {"type": "str", "required": True},
            "archives": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params
    os.umask(0o022)
    try:
        name = find_name(module, given["name"], given["version"])
        build = Build(module=module, name=name, version=given["version"], kernel=given["kernel"])
        result = make(build, Path(given["archives"]) if given["archives"] else None)
    except Refused as error:
        module.fail_json(msg=str(error), stdout=error.log)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
