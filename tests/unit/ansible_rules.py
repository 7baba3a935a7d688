"""Lint rules for roles: each rule is a function that yields findings.

The rules catch mistakes that are hard to find in images: commands that hide failures, unpinned versions,
services started during the build, environment variables that override defaults of NCCL and libfabric.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# Keywords of an Ansible task; any other key of a task is its action.
KEYWORDS = frozenset(
    {
        *(
            "args",
            "block",
            "changed_when",
            "check_mode",
            "delay",
            "delegate_to",
            "environment",
            "failed_when",
        ),
        *(
            "listen",
            "loop",
            "loop_control",
            "name",
            "no_log",
            "notify",
            "register",
            "rescue",
            "always",
            "retries",
        ),
        *(
            "run_once",
            "tags",
            "throttle",
            "until",
            "vars",
            "when",
            "any_errors_fatal",
            "become",
            "become_user",
        ),
        *("diff", "ignore_errors", "ignore_unreachable", "module_defaults", "with_items"),
    }
)
REFUSED = {
    "shell": "a shell hides the failure of all but the last command",
    "raw": "a shell hides the failure of all but the last command",
    "script": "a script is not idempotent and does not report changes",
    "get_url": "files are downloaded by tasks/download.yml",
    "uri": "files are downloaded by tasks/download.yml",
    "git": "git sources are checked out by tasks/checkout.yml",
    "subversion": "git sources are checked out by tasks/checkout.yml",
    "apt_key": "repository keys are installed by tasks/repository_*.yml",
    "rpm_key": "repository keys are installed by tasks/repository_*.yml",
    "apt_repository": "repositories are added by tasks/repository_*.yml",
    "deb822_repository": "repositories are added by tasks/repository_*.yml",
    "yum_repository": "repositories are added by tasks/repository_*.yml",
    "pip": "Python packages are installed by the module venv",
    "blockinfile": "blocks with the same marker replace each other; write a separate file with tree",
    "reboot": "a machine is not restarted during the build",
    "sysctl": "settings are applied at boot; write a file with tree",
    "modprobe": "modules are loaded at boot; write a file with tree",
    "package": "package names differ between families; use tasks/install_*.yml",
}
PACKAGES = "packages are installed by tasks/install_*.yml and removed by tasks/remove_*.yml"
SERVICES = frozenset({"service", "systemd", "systemd_service", "sysvinit"})
COMMANDS = frozenset({"command"})
INCLUDES = frozenset({"include_tasks", "import_tasks"})
# Path from a role's task files to shared tasks, so that plays, molecule and ansible-lint find the same file.
SHARED_TASKS = "../../../tasks/"
STARTS = frozenset({"start", "restart", "reload", "stop", "try-restart"})
NEVER_STARTED = "services are enabled or disabled, never started"
# Start of a command that runs make or a configure script; the command may be a template.
BUILD = re.compile(r"(?:\{\{\s*)?(?:\[')?(?:make\b|\./configure\b|\w+_make\b)")
# Programs that roles may not call: they change the build machine, bypass the lock file or hide failures.
REFUSED_PROGRAMS = {
    **dict.fromkeys(("curl", "wget", "git"), "use tasks/download.yml or tasks/checkout.yml"),
    **dict.fromkeys(("sudo", "su"), "the play sets the user"),
    **dict.fromkeys(("sh", "bash"), "a shell hides the failure of all but the last command"),
    **dict.fromkeys(("modprobe", "insmod", "rmmod"), "modules are loaded at boot; write a file with tree"),
    **dict.fromkeys(("reboot", "shutdown"), "a machine is not restarted during the build"),
    **dict.fromkeys(("pip", "pip3"), "Python packages are installed by the module venv"),
    **dict.fromkeys(("amazon-linux-extras", "apt-key"), "does not exist on the supported systems"),
    "uname": "reports the kernel of the build machine; target_kernel is the kernel of the image",
}
TEXTS: Mapping[str, tuple[str, str]] = {
    "running kernel": (
        r"ansible_kernel|ansible_facts|uname\s+-r|\buname -",
        "this is the kernel of the build machine; target_kernel is the kernel of the image",
    ),
    "preload": (r"\bLD_PRELOAD\b|ld\.so\.preload", "a preload affects all programs"),
    "empty path element": (
        r"\b(?!PATH=)[A-Z_]*PATH=(?::|[^\n]*?(?:::|:[\"']?$|(?<!\+):\$(?:[A-Z_]+|\{[A-Z_]+\})))",
        "an empty element of a path list is the current directory",
    ),
    "moving version": (
        r"state:\s*latest|/latest/|\brefs/heads/|\bversion:\s*[\"']?(?:HEAD|master|main|latest)\b|=\d[\w.]*\*",
        "the version is not pinned, so it may differ from the tested one",
    ),
    "hidden failure": (
        r"\|\|\s*(?:true|:)\b|ignore_errors|ignore_unreachable|failed_when:\s*false",
        "the failure is hidden",
    ),
    "unsigned packages": (
        r"(?<!localpkg_)gpgcheck\s*[:=]\s*(?:0|false|no)\b|allow_unauthenticated|disable_gpg_check|trusted=yes"
        r"|validate_certs:\s*false|--no-check-certificate|--nogpgcheck|\bforce:\s*true.*deb",
        "packages without a verified signature can be replaced on the network",
    ),
    "unbounded make": (
        r"\bmake\b[^\n]*\s-j(?!\s*[\d{$])|['\"]-j['\"]",
        "make -j without a number takes all memory",
    ),
    "forced choice": (
        r"\b(?:NCCL_PROTO|NCCL_ALGO|FI_PROVIDER|FI_EFA_FORK_SAFE|FI_EFA_USE_DEVICE_RDMA|RDMAV_\w+)\s*=",
        "a value that suits one NCCL or libfabric release may be wrong for the next one",
    ),
    "upgrade of all packages": (
        r"name:\s*[\"']\*[\"']|upgrade:\s*(?:dist|full|safe|yes|true)|dist-upgrade|\bdnf\b[^\n]*\bupgrade\b",
        "upgrading all packages replaces the kernel that modules were built for",
    ),
    "URL outside the catalog": (
        r"(?:https?|ftp)://(?!127\.|localhost|169\.254\.|\[)[\w-]+(?:\.[\w-]+)+",
        "URLs belong in the catalog, so that the lock covers them",
    ),
}
TEXT_RULES = {name: (re.compile(pattern, re.MULTILINE), why) for name, (pattern, why) in TEXTS.items()}
# Comments and Documentation= lines may contain URLs and forbidden text: nothing executes or fetches them.
EXPLANATION = re.compile(r"^\s*#.*$|^\s*Documentation=.*$", re.MULTILINE)
# Exemptions of roles from rules: `kernel` is exempt because it must restart the machine and compare versions.
EXEMPT = {"kernel": frozenset({"reboot", "uname", "running kernel"})}


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None


def find_tasks(document: Any) -> Iterator[dict[str, Any]]:
    """Yield all tasks of a document, including tasks in blocks."""
    for task in document if isinstance(document, list) else ():
        if isinstance(task, dict):
            yield task
            for part in ("block", "rescue", "always"):
                yield from find_tasks(task.get(part))


def actions_of(task: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in task.items():
        if key not in KEYWORDS:
            yield key.rpartition(".")[2], value


def task_files(role: Path) -> Iterator[Path]:
    for folder in ("tasks", "handlers"):
        yield from sorted((role / folder).rglob("*.yml"))


def tasks_of(role: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in task_files(role):
        for task in find_tasks(read_yaml(path)):
            yield path, task


def words_of(value: Any) -> list[str]:
    """Return the words of a command without rendering templates."""
    if isinstance(value, dict):
        value = value.get("argv") or value.get("cmd") or ""
    return [str(word) for word in value] if isinstance(value, list) else str(value).split()


@dataclass(frozen=True)
class Finding:
    """Violation of a rule."""

    rule: str
    text: str


def refused_actions(role: Path) -> Iterator[Finding]:
    for path, task in tasks_of(role):
        for action, value in actions_of(task):
            if action in REFUSED:
                yield Finding(action, f"{path.name}: uses {action}: {REFUSED[action]}")
            arguments = value if isinstance(value, dict) else {}
            if action in ("apt", "dnf"):
                yield Finding(action, f"{path.name}: calls {action}: {PACKAGES}")
            if "://" in str({"apt": arguments.get("deb"), "unarchive": value, "dnf": value}.get(action)):
                yield Finding("fetch", f"{path.name}: {action} fetches: {REFUSED['get_url']}")


def refused_programs(role: Path) -> Iterator[Finding]:
    for path, task in tasks_of(role):
        for action, value in actions_of(task):
            words = words_of(value) if action in COMMANDS else []
            program = words[0].rpartition("/")[2] if words else ""
            if program in REFUSED_PROGRAMS:
                yield Finding(program, f"{path.name}: runs {program}: {REFUSED_PROGRAMS[program]}")
            if program == "systemctl" and STARTS & set(words):
                yield Finding("started", f"{path.name}: runs {' '.join(words)}: {NEVER_STARTED}")


def started_services(role: Path) -> Iterator[Finding]:
    for path, task in tasks_of(role):
        for action, value in actions_of(task):
            if action not in SERVICES:
                continue
            where = f"{path.name}: {task.get('name')}"
            if not isinstance(value, dict) or "state" in value:
                yield Finding("started", f"{where}: {NEVER_STARTED}")
            elif not {"enabled", "masked", "daemon_reload"} & set(value):
                yield Finding("started", f"{where}: sets neither enabled nor masked")


def other_users(role: Path) -> Iterator[Finding]:
    for path, task in tasks_of(role):
        for key in ("become", "become_user", "delegate_to", "remote_user"):
            if key in task:
                where = f"{path.name}: {task.get('name')}"
                yield Finding(key, f"{where}: {key}: the play sets user and host")


def silent_commands(role: Path) -> Iterator[Finding]:
    """Yield commands that would report a change in every run."""
    for path, task in tasks_of(role):
        for action, value in actions_of(task):
            arguments = {**(task.get("args") or {}), **(value if isinstance(value, dict) else {})}
            if action in COMMANDS and not ({"creates", "removes"} & set(arguments) or "changed_when" in task):
                text = f"{path.name}: {task.get('name')}: a command needs creates, removes or changed_when"
                yield Finding("silent", text)


def builds_in_tmp(role: Path) -> Iterator[Finding]:
    """Yield tasks that build from source and would run compiled programs in /tmp."""
    for path, task in tasks_of(role):
        for action, value in actions_of(task):
            is_build = action in COMMANDS and BUILD.match(" ".join(words_of(value)))
            if is_build and "TMPDIR" not in (task.get("environment") or {}):
                where = f"{path.name}: {task.get('name')}"
                yield Finding("TMPDIR", f"{where}: /tmp may be noexec; set TMPDIR to the work folder")


def hidden_dependencies(role: Path) -> Iterator[Finding]:
    for path in (*(role / "defaults").rglob("*.yml"), *(role / "meta").rglob("*.yml")):
        if "dependencies" in (read_yaml(path) or {}):
            where = f"{path.parent.name}/{path.name}"
            yield Finding("dependencies", f"{where}: dependencies belong in the catalog")


def texts_of(role: Path) -> Iterator[tuple[Path, str]]:
    for folder in ("tasks", "handlers", "defaults", "vars", "templates", "files"):
        for path in sorted((role / folder).rglob("*")):
            if path.is_file():
                yield path, EXPLANATION.sub("", path.read_text(encoding="utf-8"))


def misaddressed_tasks(role: Path) -> Iterator[Finding]:
    """Yield includes of task files that are neither in the role nor `../../../tasks/NAME.yml`."""
    for path, task in tasks_of(role):
        for action, value in actions_of(task):
            if action not in INCLUDES:
                continue
            file = value.get("file", "") if isinstance(value, dict) else value
            if "/" in str(file).removeprefix(SHARED_TASKS):
                yield Finding(
                    "address", f"{path.name}: includes {file}: include shared tasks from {SHARED_TASKS}"
                )


def refused_texts(role: Path) -> Iterator[Finding]:
    for path, text in texts_of(role):
        for name, (pattern, why) in TEXT_RULES.items():
            if found := pattern.search(text):
                yield Finding(name, f"{path.name}: {name} ({found.group().strip()}): {why}")


RULES: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    refused_actions,
    refused_programs,
    started_services,
    other_users,
    silent_commands,
    builds_in_tmp,
    hidden_dependencies,
    misaddressed_tasks,
    refused_texts,
)


def check(role: Path) -> list[Finding]:
    exempt = EXEMPT.get(role.name, frozenset())
    return [found for rule in RULES for found in rule(role) if found.rule not in exempt]
