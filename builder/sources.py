"""Compute the digests of roles, playbook files, checks and workload files for a plan.

Only reads files; a plan is a pure function of the catalog, the lock and these digests.
"""

import hashlib
import json
import posixpath
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from builder.errors import CatalogError, IntegrityError
from builder.members import members_of
from builder.model import Catalog, Flavour, Layer, Plan, Target
from builder.requirements import read_requirements

# Parts of a role that do not affect the image: changing a check must not rebuild a layer.
_NOT_IN_KEY = {"tests", "meta", "molecule", "__pycache__"}
# Files below ansible/ that are part of every layer's key.
_RUNNER = ("ansible.cfg", "image.yml", "requirements.lock", "plugins", "tasks")


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
        text = dockerfile.read_text(encoding="utf-8")
        fields = {
            "dockerfile": digest_of(text),
            "workload_files": tuple(
                (str(path), _file_digest(context / path)) for path in copied_files(context, text, target)
            ),
            "workload_requirements": read_requirements(context / target.workload / "requirements.lock"),
        }
    return Sources(
        requirements=requirement_digests(root, catalog, target, flavour),
        roles={name: role_digest(root, name) for name in components},
        runner=runner_digest(root),
        checks=tree_digest(check_folders(root, components, target.workload)),
        **fields,  # type: ignore[arg-type]
    )


def requirement_digests(root: Path, catalog: Catalog, target: Target, flavour: Flavour) -> Mapping[str, str]:
    """Return the sha256 of the Python locks of one flavour, by path."""
    paths = ["ansible/requirements.lock", catalog.stacks[flavour.stack].requirements_file]
    if target.workload:
        paths.append(f"containers/{target.workload}/requirements.lock")
    return {path: file_sha256(root / path) for path in paths if path}


def runner_digest(root: Path) -> str:
    """Return the digest of the files below ansible/ that every layer depends on."""
    return tree_digest([root / "ansible" / name for name in _RUNNER])


def role_digest(root: Path, component: str) -> str:
    return tree_digest([role_folder(root, component)], leave_out=_NOT_IN_KEY)


def check_folders(root: Path, components: Iterable[str], workload: str) -> list[Path]:
    """Return the check folders of the components and the workload that exist."""
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

    A link may lead to a file beside it or below, which the digest of their folder covers.
    """
    if path.is_symlink() and not path.resolve().is_relative_to(path.parent.resolve()):
        raise CatalogError(
            [f"{path}: is a symbolic link out of its folder, to {path.readlink()}"],
            hint=f"replace the link by the file: rm {path}",
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
    except (FileNotFoundError, CatalogError):
        return False


def _digests_of(path: Path) -> tuple[str, ...]:
    """Return the digests that a workload's file may have in a key: as a copied file, and as a Dockerfile."""
    if path.is_symlink():
        return (_file_digest(path),)
    return _file_digest(path), digest_of(path.read_text(encoding="utf-8", errors="replace"))


def file_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    for source in _copy_sources(dockerfile):
        clean = posixpath.normpath(source.lstrip("/"))
        if "://" in source or clean == "." or clean.startswith(".."):
            problems.append(f"{path}: COPY {source}: must be a file or folder below containers/")
            continue
        matches = sorted(context.glob(clean))
        if not matches:
            problems.append(f"{path}: COPY {source}: no such file below containers/")
        for file in (file for match in matches for file in _files_below(match)):
            # The last part may be a link, which the image gets as a link; a linked folder would be followed.
            if not file.parent.resolve().is_relative_to(context.resolve()):
                problems.append(f"{path}: COPY {source}: {file} is behind a symbolic link out of containers/")
            found.add(PurePosixPath(file.relative_to(context)))
    if problems:
        raise CatalogError(problems, hint=f"correct {path}")
    return tuple(sorted(found))


def _files_below(path: Path) -> Iterable[Path]:
    if path.is_symlink() or not path.is_dir():
        return [path]
    return [
        file
        for file in path.rglob("*")
        if (file.is_symlink() or not file.is_dir()) and "__pycache__" not in file.parts
    ]


def _copy_sources(dockerfile: str) -> Iterable[str]:
    text = "\n".join(line for line in dockerfile.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\[ \t]*\n", " ", text).splitlines():
        match = re.match(r"\s*(?:COPY|ADD)\s+(.*)", line, re.IGNORECASE)
        if not match:
            continue
        words = shlex.split(match[1].replace("[", " ").replace("]", " ").replace('",', '" '))
        if any(word.startswith("--from=") for word in words):
            continue
        yield from [word for word in words if not word.startswith("--")][:-1]
