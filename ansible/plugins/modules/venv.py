#!/usr/bin/python3
"""Install locked requirements into a virtual environment, in one module run.

The action plugin of the same name provides the controller's pip, so the image needs none and the result does
not depend on the machine's pip. Indexes, wheel folders and certificates come from PIP_* in the process
environment or from the machine's pip configuration. FACTORY_WHEEL_INDEX names an index that is used only if
the others lack a wheel; every wheel is pinned by hash, so another index adds no risk.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.fetching import PROGRESS, Progress

DOCUMENTATION = """
module: venv
short_description: Install locked requirements into a virtual environment
description:
  - Creates the environment if O(python) is given, installs the requirements from wheels only and without
    dependencies, and byte-compiles new files.
  - Records the requirements in C(requirements.d) of the environment; does nothing if the record is the same.
options:
  path:
    description: Folder of the environment.
    type: path
    required: true
  name:
    description: Name of the record in C(requirements.d).
    type: str
    required: true
  requirements:
    description: Lines of a requirements file, each with its hashes.
    type: list
    elements: str
    required: true
  python:
    description: Interpreter to create the environment with. If omitted, the environment must exist.
    type: path
  pip:
    description: Path of pip; set by the action plugin.
    type: path
author: The image factory
"""

EXAMPLES = """
- name: Create the environment
  venv:
    path: /opt/venv
    name: python_env
    python: /usr/bin/python3
    requirements: "{{ python_env_requirements }}"
"""

RETURN = """
compiled:
  description: Number of files that were byte-compiled.
  returned: if requirements were installed
  type: int
"""


# Without -B, the first import of a file writes byte code with the time of the installation.
ISOLATED = ("-I", "-B")
# Patterns in pip's output: a wheel with a wrong hash, a download's progress, a package that no index has.
MISMATCH = "DO NOT MATCH THE HASHES"
RECEIVED = re.compile(r"Progress (\d+) of (\d+)")  # with --progress-bar raw
MISSING = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+)")
ANSWER_S = 20


def make_environment(module: AnsibleModule, path: Path, python: str) -> None:
    # --without-pip makes the command take 30 ms instead of six seconds, and keeps pip out of the image.
    module.run_command([python, *ISOLATED, "-m", "venv", "--without-pip", str(path)], check_rc=True)


def install(module: AnsibleModule, interpreter: Path, lines: list[str]) -> None:
    file = Path(module.tmpdir, "requirements.txt")
    file.write_text(join_lines(lines), encoding="utf-8")
    command = [str(interpreter), *ISOLATED, module.params["pip"], "install", "--no-input", "--no-color"]
    command += ["--disable-pip-version-check", "--root-user-action", "ignore"]
    # FACTORY_PROGRESS is set only with the locked pip; other pips may not have --progress-bar raw.
    command += ["--progress-bar", "raw" if os.environ.get(PROGRESS) else "off"]
    command += ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-compile"]
    if "PIP_CACHE_DIR" not in os.environ:
        command.append("--no-cache-dir")
    command += ["--requirement", str(file)]
    code, output, errors = run_pip(command)
    if code and MISMATCH in errors and "--no-cache-dir" not in command:
        # pip neither verifies nor replaces a damaged wheel in its cache.
        code, output, errors = run_pip([*command, "--no-cache-dir"])
        if not code:
            module.run_command([str(interpreter), *ISOLATED, module.params["pip"], "cache", "purge"])
    index, missing = os.environ.get("FACTORY_WHEEL_INDEX", ""), MISSING.search(errors)
    if code and index and missing:
        if reason := find_obstacle(f"{index.rstrip('/')}/{missing[1]}/"):
            errors += f"\n{index} was asked as well: {reason}"
        else:
            indexes = f"{os.environ.get('PIP_EXTRA_INDEX_URL', '')} {index}"
            code, output, errors = run_pip(command, {"PIP_EXTRA_INDEX_URL": indexes.strip()})
    if code:
        module.fail_json(msg=find_reason(errors), rc=code, stdout=output, stderr=errors)


def run_pip(command: list[str], environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run pip and report the progress of its downloads; return exit code, stdout and stderr."""
    progress, output = Progress(), []
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **(environment or {})},
        ) as pip:
            for line in pip.stdout or ():
                if received := RECEIVED.match(line):
                    progress(int(received[1]), int(received[2]))
                else:
                    output.append(line)
        errors.seek(0)
        return pip.returncode, "".join(output), errors.read()


def find_obstacle(url: str) -> str:
    """Return why an index page cannot be read, or "". Needed as pip tries five times per wheel."""
    if url.startswith("file:"):
        return ""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S):
            return ""
    except (OSError, ValueError) as error:
        return f"{url}: {error}"


def find_reason(errors: str) -> str:
    """Return pip's error message: from the first line that starts with ERROR to the end of its paragraph."""
    lines = errors.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("ERROR:")), 0)
    paragraph = "\n".join(lines[start:]).split("\n\n")[0]
    return paragraph.removeprefix("ERROR: ").strip() or "pip failed without an error message"


def compile_sources(interpreter: Path, path: Path) -> int:
    """Byte-compile all sources that have no byte code, on all cores; return the number of files.

    The mode checked-hash keeps timestamps out of the byte code and still recompiles edited sources.
    Sources that do not compile are skipped, as by pip: some packages
    ship templates that are named .py.
    """
    query = [str(interpreter), *ISOLATED, "-c", "import sys; print(sys.implementation.cache_tag)"]
    tag = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    sources = [
        str(source)
        for source in sorted((path / "lib").rglob("*.py"))
        if not (source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc").exists()
    ]
    command = [
        str(interpreter),
        *ISOLATED,
        "-m",
        "compileall",
        "-q",
        "--invalidation-mode",
        "checked-hash",
        "-i",
        "-",
    ]

    def compile_share(share: list[str]) -> None:
        subprocess.run(command, input=join_lines(share), text=True, capture_output=True, check=False)

    jobs = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(compile_share, [share for job in range(jobs) if (share := sources[job::jobs])]))
    return len(sources)


def join_lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def is_recorded(record: Path, lines: list[str]) -> bool:
    return record.exists() and record.read_text(encoding="utf-8") == join_lines(lines)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "requirements": {"type": "list", "elements": "str", "required": True},
            "python": {"type": "path"},
            "pip": {"type": "path"},
        },
        supports_check_mode=True,
    )
    path, lines = Path(module.params["path"]), module.params["requirements"]
    interpreter = path / "bin" / "python"
    record = path / "requirements.d" / f"{module.params['name']}.txt"
    if is_recorded(record, lines):
        module.exit_json(changed=False)
    if not module.params["python"] and not interpreter.exists():
        module.fail_json(msg=f"{path}: not a virtual environment; set python to create it")
    if module.check_mode:
        module.exit_json(changed=True)
    os.umask(0o022)
    if not interpreter.exists():
        make_environment(module, path, module.params["python"])
    if lines:
        install(module, interpreter, lines)
    compiled = compile_sources(interpreter, path)
    # The record file is written last, so a run after an interruption finds no record and starts over.
    record.parent.mkdir(exist_ok=True)
    record.write_text(join_lines(lines), encoding="utf-8")
    module.exit_json(changed=True, compiled=compiled)


if __name__ == "__main__":
    main()
