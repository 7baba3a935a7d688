"""Compute the digests of roles, playbook files, checks and workload files for a plan.

Only reads files; a plan is a pure function of the catalog, the lock and these digests.
"""

import ast
import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath

from builder import dockerfile as dockerfiles
from builder.errors import CatalogError, CheckError, IntegrityError, MissingError
from builder.members import members_of
from builder.model import Catalog, Flavour, Layer, Plan, Target
from builder.patterns import GROUPS
from builder.reading import read_bytes, read_text
from builder.requirements import is_outdated, read_requirements
from builder.values import dataclass

# Parts of a role that do not affect the image: changing a check must not rebuild a layer.
_NOT_IN_KEY = {"tests", "meta", "molecule", "__pycache__"}
_LARGEST = 1 << 40  # bytes of a workload's file
# Files below ansible/ that are part of every layer's key.
_RUNNER = ("ansible.cfg", "image.yml", "requirements.lock", "plugins", "tasks")
_FOLDERS = (
    *("ansible", "ansible/roles", "catalog", "containers", "packer", "packer/ami"),
    *(f"catalog/{name}" for name in (*GROUPS, "rules", "versions")),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Digests and file contents that a plan depends on."""

    roles: Mapping[str, str]
    runner: str
    checks: str
    dockerfile: str = ""
    workload_files: tuple[tuple[str, str], ...] = ()
    workload_requirements: tuple[str, ...] = ()
    requirements: Mapping[str, str] = field(default_factory=dict)  # path → sha256 of each pip lock file


def require_folders(root: Path) -> None:
    """Raise CatalogError if the catalog is missing, or if a folder of the repository is a link to outside.

    If containers/ were a link to "..", a workload could copy files from outside the repository.
    """
    if not (root / "catalog").is_dir():
        raise CatalogError(
            [f"{root / 'catalog'}: no such folder"],
            hint="run the command in the repository, or with --root FOLDER",
        )
    for folder in map(root.joinpath, _FOLDERS):
        if not folder.is_symlink():
            continue
        try:
            target = folder.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop, before Python 3.13
            raise CatalogError([f"{folder}: is a loop of symbolic links"], hint=f"rm {folder}") from error
        if root.resolve().is_relative_to(target):
            raise CatalogError(
                [f"{folder}: is a symbolic link to {folder.readlink()}, which contains the repository"],
                hint=f"rm {folder}",
            )


def role_folder(root: Path, component: str) -> Path:
    return root / "ansible" / "roles" / component


def read(root: Path, catalog: Catalog, target: Target, flavour: Flavour) -> Sources:
    """Read the sources of a flavour; raise CatalogError if its Dockerfile copies a missing file."""
    components = members_of(catalog, target, flavour)
    fields: dict[str, object] = {}
    if target.workload:
        context = root / "containers"
        dockerfile = context / target.workload / "Dockerfile"
        for path in (dockerfile.parent, dockerfile, dockerfile.with_name("requirements.lock")):
            _require_inside(path)
        text = _read_dockerfile(dockerfile, target)
        fields = {
            "dockerfile": digest_of(text),
            "workload_files": tuple(
                (str(path), _file_digest(context / path)) for path in copied_files(context, text, target)
            ),
            "workload_requirements": _read_requirements(root, target)
            if _installs_requirements(catalog, components)
            else (),
        }
    return Sources(
        requirements=requirement_digests(root, catalog, target, flavour),
        roles={name: role_digest(root, name) for name in components},
        runner=runner_digest(root),
        checks=tree_digest(check_folders(root, components, target.workload)),
        **fields,  # type: ignore[arg-type]
    )


def _installs_requirements(catalog: Catalog, components: Iterable[str]) -> bool:
    return any(catalog.components[name].requirements == "workload" for name in components)


def _read_dockerfile(path: Path, target: Target) -> str:
    """Return a workload's Dockerfile; raise CatalogError if its base is not the component layers."""
    name = f"containers/{target.workload}/Dockerfile"
    try:
        text = read_text(path)
    except (FileNotFoundError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise CatalogError([f"{name}: {reason}"], hint=f"correct {name}") from error
    if problems := dockerfiles.base_problems(name, text):
        raise CatalogError(problems, hint=f"correct {name}")
    return text


def _read_requirements(root: Path, target: Target) -> tuple[str, ...]:
    """Return the locked requirements of a workload; none if its requirements.in is not compiled yet."""
    name = f"containers/{target.workload}/requirements.lock"
    if not (root / name).exists() and (root / name).with_suffix(".in").is_file():
        return ()
    try:
        return read_requirements(root / name)
    except (FileNotFoundError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        source = f"containers/{target.workload}/requirements.in"
        raise CatalogError(
            [f"{name}: {reason}"], hint=f"list packages in {source}, then: builder lock {target.name}"
        ) from error


def requirement_digests(root: Path, catalog: Catalog, target: Target, flavour: Flavour) -> Mapping[str, str]:
    """Return the sha256 of a flavour's Python lock files, by path; "" if the requirements.in has changed."""
    runner = "ansible/requirements.lock"
    found = {runner: file_sha256(root / runner)}
    paths = [catalog.stacks[flavour.stack].requirements_file]
    if target.workload and _installs_requirements(catalog, members_of(catalog, target, flavour)):
        paths.append(f"containers/{target.workload}/requirements.lock")
    for path in filter(None, paths):
        found[path] = "" if _is_outdated(root, path) else file_sha256(root / path)
    return found


def _is_outdated(root: Path, lock: str) -> bool:
    try:
        return is_outdated(root / lock)
    except ValueError as error:
        source = PurePosixPath(lock).with_suffix(".in")
        raise CatalogError([f"{source}: {error}"], hint=f"correct {source}") from error


def runner_digest(root: Path) -> str:
    """Return the digest of the files below ansible/ that every layer depends on."""
    return tree_digest([root / "ansible" / name for name in _RUNNER])


def role_digest(root: Path, component: str) -> str:
    return tree_digest([role_folder(root, component)], leave_out=_NOT_IN_KEY)


def check_folders(root: Path, components: Iterable[str], workload: str) -> list[Path]:
    """Return the existing check folders of the components and of the workload."""
    folders = [role_folder(root, name) / "tests" for name in components]
    if workload:
        folders.append(root / "containers" / workload / "tests")
    return [folder for folder in folders if folder.is_dir()]


def digest_of(value: object) -> str:
    """Return the sha256 of the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tree_digest(paths: Iterable[Path], *, leave_out: Iterable[str] = ("__pycache__",)) -> str:
    """Return the sha256 of names, executable bits, link targets and contents below `paths`."""
    entries: list[tuple[str, str]] = []
    for path in paths:
        _require_inside(path)
        if path.is_dir():
            entries.extend(_walk(path, f"{path.name}/", frozenset(leave_out)))
        elif path.exists():
            entries.append((path.name, _file_digest(path)))
    return digest_of(sorted(entries))


def _walk(folder: Path, prefix: str, leave_out: frozenset[str]) -> Iterable[tuple[str, str]]:
    for path in folder.iterdir():
        if path.name in leave_out:
            continue
        _require_inside(path)
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path, f"{prefix}{path.name}/", leave_out)
        else:
            yield prefix + path.name, _file_digest(path)


def _require_inside(path: Path) -> None:
    """Raise CatalogError if a symbolic link leads to a file that no digest covers.

    Links to files in the same folder or below it are allowed, because the folder's digest covers these files.
    """
    if not path.is_symlink():
        return
    try:
        is_inside = path.resolve().is_relative_to(path.parent.resolve())
    except RuntimeError:  # a loop of links
        is_inside = False
    if not is_inside:
        raise CatalogError(
            [f"{path}: is a symbolic link out of its folder, to {path.readlink()}"],
            hint=f"remove the link, or replace it with a regular file: rm {path}",
        )


def require_unchanged(root: Path, layers: Iterable[Layer]) -> None:
    """Raise IntegrityError if a file was edited since the keys of the layers were computed."""
    for layer in layers:
        for name, digest in layer.inputs.items():
            if not _is_same(root, name, digest):
                raise edited(name)


def require_same_checks(root: Path, plan: Plan) -> None:
    """Raise IntegrityError if a check was edited since the plan was made."""
    folders = check_folders(root, plan.components, plan.target.workload)
    if tree_digest(folders) != plan.checks:
        raise edited(f"a check of target '{plan.target.name}'")


def require_parsable_checks(root: Path, plan: Plan) -> None:
    """Raise CheckError for a check file with a syntax error, which would fail after the whole build."""
    for folder in check_folders(root, plan.components, plan.target.workload):
        for path in sorted(folder.rglob("*.py")):
            try:
                ast.parse(read_text(path))
            except (SyntaxError, ValueError) as error:
                line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
                reason = error.msg if isinstance(error, SyntaxError) else str(error)
                name = path.relative_to(root)
                raise CheckError(f"{name}{line}: {reason}", hint=f"correct {name}") from error


def edited(name: str) -> IntegrityError:
    """Return the error for an input that was edited during a build."""
    return IntegrityError(f"{name} was edited during the build; nothing was stored", hint="build again")


def _is_same(root: Path, name: str, digest: str) -> bool:
    """Return True if an input of a layer still has this digest; inputs other than files cannot change."""
    try:
        if name == "runner":
            return runner_digest(root) == digest
        if name.startswith("role "):
            return role_digest(root, name.removeprefix("role ")) == digest
        return not name.startswith("containers/") or digest in _digests_of(root / name)
    except (FileNotFoundError, CatalogError, MissingError):
        return False


def _digests_of(path: Path) -> tuple[str, ...]:
    """Return both digests that a workload file can have: as a copied file, and as a Dockerfile."""
    if path.is_symlink():
        return (_file_digest(path),)
    return _file_digest(path), digest_of(path.read_text(encoding="utf-8", errors="replace"))


def file_sha256(path: Path) -> str:
    try:
        return hashlib.sha256(read_bytes(path, largest=_LARGEST)).hexdigest()
    except ValueError as error:
        raise MissingError(f"{path}: {error}", hint=f"ls -ld {path}") from error


def _file_digest(path: Path) -> str:
    if path.is_symlink():
        return f"link:{path.readlink()}"
    mode = "x" if path.stat().st_mode & 0o111 else "-"
    return f"{mode}:{file_sha256(path)}"


def copied_files(context: Path, dockerfile: str, target: Target) -> tuple[PurePosixPath, ...]:
    """Return the files of `context` that the Dockerfile's COPY and ADD instructions name, sorted."""
    path = f"containers/{target.workload}/Dockerfile"
    found: set[PurePosixPath] = set()
    problems: list[str] = []
    try:
        sources = list(dockerfiles.copied(path, dockerfiles.instructions(dockerfile)))
    except ValueError as error:
        raise CatalogError([str(error)], hint=f"correct {path}") from error
    for instruction, source in sources:
        where = f"{path}:{instruction.line}: {instruction.name} {source}"
        try:
            files = _matching(context, source)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        for file in files:
            # The file may be a symbolic link, which is copied as a link. A link among its parent folders
            # would be followed.
            if not file.parent.resolve().is_relative_to(context.resolve()):
                problems.append(f"{where}: {file} is behind a symbolic link out of containers/")
            found.add(PurePosixPath(file.relative_to(context)))
    if problems:
        raise CatalogError(problems, hint=f"correct {path}")
    return tuple(sorted(found))


def _matching(context: Path, source: str) -> list[Path]:
    """Return the files below `context` that match a COPY source; raise ValueError if there are none."""
    clean = posixpath.normpath(source.lstrip("/"))
    if "://" in source or clean == "." or clean.startswith(".."):
        raise ValueError("must be a file or folder below containers/")
    matches = sorted(context.glob(clean))
    if not matches:
        raise ValueError("no such file below containers/")
    return [file for match in matches for file in _files_below(match)]


def _files_below(path: Path) -> Iterable[Path]:
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [
        file
        for file in path.rglob("*")
        if (file.is_symlink() or not file.is_dir()) and "__pycache__" not in file.parts
    ]
