"""Ansible in a read-only folder that is mounted into build containers and never installed in an image.

The folder is created once per lock and Python version, and compiled by the Python that will run it. Its
digest is recorded beside it; a folder that differs from its digest is installed again. Ansible is started
with `python3 -I`: a PYTHONPATH would leak into every module that a role runs.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from builder.adapters.ansible import parsed_settings
from builder.adapters.host import process
from builder.adapters.host.workspace import Run, write_atomically
from builder.adapters.upstream.pip import missing_requirement, pip_install
from builder.errors import BuildError, FactoryError, IntegrityError
from builder.sources import digest_of, tree_digest

_FORMAT = 1
_MISMATCH = "DO NOT MATCH THE HASHES"
# /dev is a tmpfs in every container, so this mount point does not end up in a layer.
MOUNT = "/dev/factory"
_intact: set[Path] = set()  # folders that this process has compared with their digests
_LAUNCHER = """\
import json, os, runpy, sys
mount = {mount!r}
sys.path.insert(0, mount + "/runtime")
sys.dont_write_bytecode = True
os.environ.update(json.load(open(mount + "/run/environment.json")))
os.environ["FACTORY_PROGRESS"] = "/proc/%d/fd/1" % os.getpid()
for folder in ("HOME", "ANSIBLE_LOCAL_TEMP"):
    os.makedirs(os.environ[folder], exist_ok=True)
os.chdir(mount + "/ansible")
sys.argv[0] = "ansible-playbook"
{prepare}
from ansible.cli.playbook import main
sys.exit(main())
"""


def launcher(mount: str, *, prepare: str = "") -> str:
    """Return the program that runs `ansible-playbook` from the folders below `mount`.

    `prepare` is Python code that the program runs before Ansible starts.
    """
    return _LAUNCHER.format(mount=mount, prepare=prepare)


def folder_of(run: Run, lock: Path, *, python: str, arch: str, compiler: str = "") -> Path:
    """Return the runtime folder for one Python version and architecture; install it if it is missing.

    `compiler` names a vendor's image that compiles the runtime. Only builds on that image use the result,
    because the image could put any code into the bytecode, and this host runs a shared runtime, too.
    """
    inputs = [_FORMAT, lock.read_text(encoding="utf-8"), python, arch]
    key = digest_of([*inputs, compiler] if compiler else inputs)[:16]
    folder = run.workspace.cache("runtime") / key
    with run.locked(f"runtime-{key}"):
        if folder not in _intact and not _is_intact(folder):
            staging = run.scratch / f"runtime-{key}"
            shutil.rmtree(staging, ignore_errors=True)
            _install(run, lock, staging, python=python, arch=arch)
            if folder.exists():  # damaged, or deleted in part
                folder.rename(run.scratch / f"damaged-{key}")
            staging.rename(folder)
            _record(folder)
        _intact.add(folder)
    return folder


def ensure_compiled(run: Run, folder: Path, compile_in: Callable[[], None]) -> None:
    """Compile the runtime with `compile_in`, which runs COMPILE in a container, unless it is compiled."""
    if _needs_compiling(folder):
        with run.locked(f"runtime-{folder.name}"):
            if _needs_compiling(folder):
                compile_in()
                _record(folder)


def _record(folder: Path) -> None:
    write_atomically(_digest_file(folder), tree_digest([folder], leave_out=()))


def _is_intact(folder: Path) -> bool:
    try:
        return _digest_file(folder).read_bytes().decode() == tree_digest([folder], leave_out=())
    except (OSError, ValueError, FactoryError):
        return False


def _digest_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _install(run: Run, lock: Path, folder: Path, *, python: str, arch: str) -> None:
    argv = [*pip_install(lock, folder, python=python, arch=arch), "--no-compile"]
    # pip reads the user's indexes, proxies and certificates from the environment.
    environment = process.inherited_environment()
    done = process.run(argv, timeout_s=600, cancelled=run.cancelled, env=environment)
    if done.code != 0 and _MISMATCH in done.output:  # pip does not replace a damaged wheel of its cache
        argv.append("--no-cache-dir")
        done = process.run(argv, timeout_s=600, cancelled=run.cancelled, env=environment)
    if done.code != 0:
        kind = IntegrityError if _MISMATCH in done.output else BuildError
        wheel = missing_requirement(done.output)
        reason = f": no index of this host's pip has the wheel {wheel}" if wheel else ""
        hint = "see the indexes: pip config list" if wheel else f"check {lock.name} and pip"
        raise kind(f"could not install the Ansible runtime{reason}", hint=hint, details=done.details)
    for name in ("bin", "share"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _needs_compiling(folder: Path) -> bool:
    return not (folder / parsed_settings.NAME).exists()


PARSED_SETTINGS = f"{MOUNT}/parsed_settings.py"  # where containers have the module of this name
# The command runs in a container of the base image, because bytecode is specific to a version of Python.
# It writes the file of the parsed settings last: this file marks a runtime as complete.
COMPILE = (
    "python3",
    "-c",
    f"import compileall, py_compile, pathlib, runpy, sys; p = '{MOUNT}/runtime'; "
    "compileall.compile_dir(p, quiet=2, workers=0, "
    "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH); "
    f"sys.path.insert(0, p); runpy.run_path('{PARSED_SETTINGS}')['write'](pathlib.Path(p))",
)
