"""Turn failed plays into the builder's errors, each with the cause, a hint and an exit code."""

import re

from builder.adapters.ansible.playbook import Failure, Listener
from builder.adapters.upstream.mirror import Mirror
from builder.adapters.upstream.pip import missing_wheel
from builder.errors import BuildError, FactoryError, IntegrityError
from builder.model import Plan
from builder.plan import variables_of

_COMMIT_DIGITS = 40  # of a commit; a sha256 has 64

# Messages of apt and the module `apt_packages` for lists, files, packages or versions that a mirror lacks.
_MIRROR = re.compile(
    r"404 +Not Found|does not have a Release file|Failed to fetch|Unable to locate package"
    r"|has no installation candidate|no package \S+ is available"
)


def failure(about: str, plan: Plan, listener: Listener, code: int, mirror: Mirror) -> FactoryError:
    """Return the error for a failed play; `about` names the layer or target that the play was building."""
    found = listener.failure
    if found is None:
        return BuildError(
            f"{about}: Ansible exited with code {code}",
            hint="see the run's log",
            details="\n".join(listener.tail),
        )
    text = f"{found.message}\n{found.details}"
    where = f"{about}: role '{found.role}': {found.task}"
    if found.expected:
        return _mismatch(where, found)
    if "DO NOT MATCH THE HASHES" in text or "Hash mismatch" in text:
        return IntegrityError(
            f"{where}: a package does not match its locked hash",
            hint="the package changed upstream or the lock is stale: compare the hashes, then:"
            f" builder lock --update 'requirements {_requirements_file(plan, found.role)}'",
            details=text,
        )
    if missing := missing_wheel(text, mirror):
        return BuildError(f"{where}: {missing[0]}", hint=missing[1], details=text)
    if _MIRROR.search(text):
        hint = (
            "check mirror.apt in site.toml and the versions of the stack, or wait for the mirror to catch up"
        )
        return BuildError(f"{where}: the package mirror lacks a requested package", hint=hint, details=text)
    hint = f"correct ansible/roles/{found.role}, then build again"
    return BuildError(f"{where} failed", hint=hint, details=text)


def _requirements_file(plan: Plan, role: str) -> str:
    """Return the path of the locked requirements file that a role installs."""
    lines = variables_of(plan).get(f"{role}_requirements")
    if plan.target.workload and lines != list(plan.stack.requirements):
        return f"containers/{plan.target.workload}/requirements.lock"
    return plan.stack.requirements_file


def _mismatch(where: str, found: Failure) -> IntegrityError:
    """Return the error for a download that does not match its locked checksum."""
    kind = "git" if len(found.expected) == _COMMIT_DIGITS else "archive"
    return IntegrityError(
        f"{where}: {found.url} does not match its locked checksum",
        hint="check why the file changed; if the change is expected:"
        f" builder lock --update '{kind} {found.url}';"
        " if the file came from a mirror: see mirror.prefixes in site.toml",
        details=f"expected  {found.expected}\nactual    {found.actual or 'none'}\nurl       {found.url}",
    )
