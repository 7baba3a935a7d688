"""Times of the checks of the benchmark's image, with one shell and with one `docker exec` per command."""

import time
from collections.abc import Sequence
from pathlib import Path

from bench.bed import ROLES, Bed
from builder.adapters.checks.testinfra import run_checks
from builder.adapters.container.checker import ImageChecker
from builder.adapters.container.failed import FailedContainers
from builder.adapters.engine.client import LAYERS
from builder.adapters.host.workspace import Workspace, open_run
from builder.errors import CheckError
from builder.events import Stream

# Check files of the checkout, because the benchmark's repository has only one check.
_FOLDERS = [Path(__file__).resolve().parents[1] / "ansible" / "roles" / name / "tests" for name in ROLES]
# Options of pytest: without the builder's plugin, testinfra starts `docker exec` for each command.
WAYS: dict[str, Sequence[str]] = {"checks": (), "execs": ("-p", "no:builder.adapters.checks.shell")}


def check(bed: Bed, case: str) -> float:
    """Return the seconds that the checks of the roles take in a running container."""
    plan, events, environment = bed.plan(), Stream(), bed.environment()
    with open_run(Workspace(home=bed.home, out=bed.repository / "out"), "checks") as run:
        checker = ImageChecker(
            engine=bed.engine,
            run=run,
            root=bed.repository,
            events=events,
            environment=lambda: environment,
            failed=FailedContainers(bed.engine, run, keep=False),
        )
        with checker.container(f"{LAYERS}:{plan.key}") as container:
            began = time.perf_counter()
            found = run_checks(
                run,
                bed.repository,
                events,
                plan,
                [folder for folder in _FOLDERS if folder.is_dir()],
                f"docker://{container}",
                environment=environment | {"DOCKER_HOST": bed.engine.url},
                options=WAYS[case],
            )
            seconds = time.perf_counter() - began
    if failed := [one for one in found if one.outcome == "failed"]:
        raise CheckError(f"{len(failed)} checks failed", details=failed[0].message)
    return seconds
