"""`python -m tests.standins COMPONENT... -- COMMAND...`: run a command while stand-ins replace the vendors.

python -m tests.standins efa -- builder role efa --twice
python -m tests.standins --scenario fabric -- molecule test -s fabric
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder import catalog
from builder.adapters.host.workspace import Workspace, find_workspace, open_run
from builder.app.role_plan import RoleRequest, role_target
from builder.app.scenario import platform_of, request_of
from tests.standins import overlay
from tests.standins.image import image_of
from tests.standins.overlay import ROOT, standin_pins
from tests.standins.site import serve


@contextmanager
def served(request: RoleRequest) -> Iterator[dict[str, str]]:
    """Serve the stand-ins of these roles; yield an environment for `builder role` and molecule."""
    request = RoleRequest(
        components=request.components,
        kind=request.kind,
        system=request.system,
        stack=request.stack,
        pins=standin_pins() | dict(request.pins),
        variables=request.variables,
    )
    loaded, target = role_target(catalog.load(ROOT), request)
    pins = dict(loaded.stacks[target.default.stack].pins)
    with tempfile.TemporaryDirectory(prefix="standins-") as name, serve(Path(name), pins) as site:
        overlay.lay_out(request, site)
        workspace = Workspace(home=find_workspace(ROOT).home, out=Path(name) / "out")
        with (
            open_run(workspace, "standins") as run,
            image_of(run, site, loaded.systems[target.default.system]) as image,
        ):
            yield overlay.environment_of(site) | {"BUILDER_ROLE_IMAGE": image}


def scenario_request(scenario: str) -> RoleRequest:
    return request_of(platform_of(ROOT / "ansible" / "molecule" / scenario / "molecule.yml"))


def main(argv: Sequence[str]) -> int:
    words = list(argv)
    split = words.index("--") if "--" in words else len(words)
    options = argparse.ArgumentParser(prog="python -m tests.standins", usage=__doc__)
    options.add_argument("components", nargs="*")
    options.add_argument("--scenario", help="use the components of this molecule scenario")
    options.add_argument("--system", default="")
    parsed = options.parse_args(words[:split])
    if not (parsed.components or parsed.scenario) or not words[split + 1 :]:
        options.error("name components or --scenario, and a command after --")
    request = (
        scenario_request(parsed.scenario)
        if parsed.scenario
        else RoleRequest(components=parsed.components, system=parsed.system)
    )
    with served(request) as environment:
        cwd = ROOT / "ansible" if parsed.scenario else ROOT
        return subprocess.run(words[split + 1 :], env=environment, cwd=cwd, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
