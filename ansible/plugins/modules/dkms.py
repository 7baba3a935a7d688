#!/usr/bin/python3
"""Build a kernel module with dkms, or restore it from an archive built from the same inputs.

Builds for the kernel that the image boots, not the running kernel. Modules that dkms reports as installed are
verified and rebuilt if their build was interrupted or their files differ.
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
  - Restores the archive of an earlier build if there is one, otherwise compiles; then installs and verifies.
  - In check mode, returns the name of the archive and whether a build is needed.
options:
  name:
    description:
      - Name of the sources in dkms, or a glob pattern that matches exactly one. Vendors use different names
        for the same module (nvidia, nvidia-open, nvidia-current-open).
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
    description: Folder with archives of earlier builds, to which the archive of a new build is saved.
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
  description: Name of the sources in dkms.
  returned: always
  type: str
archive:
  description: Name of the archive; it contains a digest of all inputs of the build.
  returned: always
  type: str
outcome:
  description: Action taken (none, restored or compiled); in check mode none or needed.
  returned: always
  type: str
"""

TREE = Path("/var/lib/dkms")
SOURCES = Path("/usr/src")
KERNELS = Path("/lib/modules")
SETTINGS = Path("/etc/dkms")
# Matches NAME/VERSION, KERNEL, ARCH: STATE of dkms 3 and NAME, VERSION, KERNEL, ARCH: STATE of dkms 2.
STATUS = re.compile(
    r"(?P<name>[^,/\s]+)(?:/|, )(?P<version>[^,:\s]+)(?:, (?P<kernel>[^,]+), [^,:]+)?"
    r": (?P<state>\w+)(?P<more>.*)"
)
ERROR = re.compile(r"\b(?:fatal )?error: .*|.*No space left on device.*|\*\*\* .*")
LOG_LINES = 40
LOG_COLUMNS = 240


class DkmsError(Exception):
    """Failed build or installation; `log` is the end of the compiler's output."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Build:
    """Build of a dkms module for one kernel."""

    module: AnsibleModule
    name: str
    version: str
    kernel: str

    @property
    def tree(self) -> Path:
        return TREE / self.name / self.version

    def entries(self) -> list[dict[str, str]]:
        """Return the parsed lines of dkms status for the name and version of this build."""
        mine = (self.name, self.version)
        return [entry for entry in read_status(self.module) if (entry["name"], entry["version"]) == mine]

    def dkms(self, action: str, *words: str, kernel: bool = True) -> tuple[int, str]:
        """Run a dkms action on the module of this build; return its exit code and output."""
        which = ["-m", self.name, "-v", self.version, *(["-k", self.kernel] if kernel else [])]
        return run(self.module, "dkms", action, *which, *words)

    def state(self) -> str:
        """Return the dkms state for this kernel, "damaged" if dkms warns about it, "" for unknown sources."""
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
    code, output = run(module, "dkms", "status")
    if code != 0:
        raise DkmsError(f"dkms status failed: {output.strip()[-LOG_COLUMNS:]}")
    found = (STATUS.fullmatch(line.strip()) for line in output.splitlines())
    return [{key: value or "" for key, value in match.groupdict().items()} for match in found if match]


def find_name(module: AnsibleModule, pattern: str, version: str) -> str:
    """Return the only matching name among dkms' modules and the sources not yet added to dkms."""
    known = {entry["name"] for entry in read_status(module) if entry["version"] == version}
    known |= {path.parent.name.removesuffix(f"-{version}") for path in SOURCES.glob(f"*-{version}/dkms.conf")}
    fitting = sorted(name for name in known if fnmatch.fnmatchcase(name, pattern))
    if len(fitting) != 1:
        found = ", ".join(fitting) or f"nothing in {SOURCES}"
        raise DkmsError(f"dkms: expected one module '{pattern}' of version {version}, found {found}")
    return fitting[0]


def hash_tree(folder: Path) -> str:
    """Return a digest of the names, contents and executable bits of all files in a folder."""
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
    """Return the kernel headers' package and version, and the digests of Module.symvers and .config."""
    folder = (KERNELS / kernel / "build").resolve()
    if not (folder / "Makefile").is_file():
        raise DkmsError(
            f"no headers of kernel {kernel} (no {KERNELS / kernel / 'build'}): install the kernel headers"
        )
    parts = []
    for command in (("dpkg-query", "--search", str(folder)), ("rpm", "--query", "--file", str(folder))):
        if module.get_bin_path(command[0]):
            code, output = run(module, *command)
            parts += [output.split(":")[0].strip()] if code == 0 else []
    if parts and module.get_bin_path("dpkg-query"):
        parts.append(run(module, "dpkg-query", "--show", "--showformat", "${Version}", parts[0])[1])
    files = [folder / "Module.symvers", folder / ".config"]
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()]
    return "\n".join(parts)


def describe_compiler(module: AnsibleModule, kernel: str) -> str:
    """Return the versions of linker and compiler; dkms uses the kernel's compiler if it is installed."""
    config = KERNELS / kernel / "build" / ".config"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    named = re.search(r'^CONFIG_CC_VERSION_TEXT="(\S+)', text, re.MULTILINE)
    compiler = module.get_bin_path(named[1]) if named else None
    tools = (compiler or module.get_bin_path("gcc", required=True), module.get_bin_path("ld", required=True))
    return "\n".join(run(module, tool, "--version")[1].splitlines()[0] for tool in tools)


def name_archive(build: Build) -> str:
    """Return the name of the archive of built modules, which contains a digest of all build inputs."""
    settings = sorted((*SETTINGS.glob("framework.conf*"), *SETTINGS.glob("framework.conf.d/*")))
    settings += sorted(SETTINGS.glob(f"{build.name}*.conf"))
    inputs = [
        hash_tree(SOURCES / f"{build.name}-{build.version}"),
        describe_headers(build.module, build.kernel),
        describe_compiler(build.module, build.kernel),
        run(build.module, "dkms", "--version")[1].strip(),
        *(path.read_text(encoding="utf-8") for path in settings if path.is_file()),
    ]
    digest = hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:16]
    return f"{build.name}-{build.version}-{build.kernel}-{os.uname().machine}-{digest}.dkms.tar.gz"


def reset(build: Build) -> None:
    """Add the sources to dkms and delete earlier builds for this kernel."""
    if build.state() in ("built", "installed", "damaged"):
        build.dkms("remove")
    if not build.state():
        code, output = build.dkms("add", kernel=False)
        if code != 0:
            raise DkmsError(f"dkms cannot add {build.name} {build.version}: {output.strip()[-LOG_COLUMNS:]}")


def restore(build: Build, archive: Path) -> bool:
    """Load the archive into dkms; return True if dkms then lists the modules as built."""
    # dkms loads an archive only if the sources are not added to dkms. Removing them would delete the modules
    # that are built for other kernels.
    if any(entry["kernel"] for entry in build.entries()):
        return False
    build.dkms("remove", "--all", kernel=False)
    code, output = run(build.module, "dkms", "ldtarball", f"--archive={archive}")
    if code == 0 and build.state() == "built":
        return True
    build.module.warn(
        f"{archive.name} is unusable, compiling the modules instead: {output.strip()[-LOG_COLUMNS:]}"
    )
    reset(build)
    return False


def compile_modules(build: Build) -> None:
    code, output = build.dkms("build", "-j", str(len(os.sched_getaffinity(0))))
    if code == 0:
        return
    log = build.tree / "build" / "make.log"
    lines = (
        log.read_text(encoding="utf-8", errors="replace").splitlines()
        if log.is_file()
        else output.splitlines()
    )
    found = (ERROR.search(line) for line in lines)
    reason = next((match.group() for match in found if match), f"dkms ended with code {code}")
    tail = "\n".join(line[:LOG_COLUMNS] for line in lines[-LOG_LINES:])
    raise DkmsError(
        f"compiling {build.name} {build.version} for kernel {build.kernel} failed: {reason[:LOG_COLUMNS]}",
        tail,
    )


def save(build: Build, archive: Path) -> None:
    """Save the built modules to the archive, atomically."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"part-{archive.name}")
    code, output = build.dkms("mktarball", "--binaries-only", f"--archive={part}")
    if code != 0:
        raise DkmsError(f"dkms cannot save {archive.name}: {output.strip()[-LOG_COLUMNS:]}")
    part.replace(archive)


def install(build: Build) -> None:
    code, output = build.dkms("install", "--force")
    if code != 0:
        raise DkmsError(
            f"dkms cannot install {build.name} {build.version}: {output.strip()[-LOG_COLUMNS:]}", output
        )


def find_problem(build: Build) -> str:
    """Return the reason why the kernel would not load the modules, or "" if it would."""
    state = build.state()
    if state != "installed":
        return f"dkms reports the state '{state}'"
    modules = sorted((build.tree / build.kernel).glob("*/module/*.ko*"))
    if not modules:
        return "dkms installed no module files"
    for path in modules:
        name = path.name.partition(".ko")[0]
        code, output = run(build.module, "modinfo", "-k", build.kernel, "-F", "vermagic", name)
        if code != 0 or output.split()[:1] != [build.kernel]:
            return f"modinfo {name} prints: {output.strip() or 'nothing'}"
    return ""


def ensure_installed(build: Build, archives: Path | None) -> dict[str, Any]:
    known: dict[str, Any] = {"module": build.name, "archive": name_archive(build)}
    if not find_problem(build):
        return {**known, "changed": False, "outcome": "none"}
    if build.module.check_mode:
        return {**known, "changed": True, "outcome": "needed"}
    archive = archives / known["archive"] if archives else None
    reset(build)
    restored = archive is not None and archive.is_file() and restore(build, archive)
    if not restored:
        compile_modules(build)
        if archive:
            save(build, archive)
    install(build)
    problem = find_problem(build)
    if problem:
        raise DkmsError(f"{build.name} {build.version} would not load into kernel {build.kernel}: {problem}")
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
        result = ensure_installed(build, Path(given["archives"]) if given["archives"] else None)
    except DkmsError as error:
        module.fail_json(msg=str(error), stdout=error.log)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror or error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
