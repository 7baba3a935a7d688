"""Applies roles to the real software of upstreams in a build container of Debian 13, twice, and checks it.

The site file names a bare git folder for each upstream in [mirror.prefixes]. Debian's archive serves CUDA and
the compilers, the Python index serves NCCL. Kernel modules are not built.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from builder import site as site_file
from builder.app.role_plan import RoleRequest
from builder.model import Plan, Value
from tests.roles.machines import Machine, open_machine
from tests.standins import overlay
from tests.standins.aws_ofi_nccl import RELEASES
from tests.standins.site import Site, serve
from tests.upstream import sources

pytestmark = pytest.mark.upstream

SYSTEM, STACK = "debian-13", "cuda-12.4-debian-13"
KIND = "container"
# Packages that the sources of libfabric and of the plugin need for autogen.sh.
TOOLS = "autoconf automake git libtool make g++ libhwloc-dev libibverbs-dev librdmacm-dev libnuma-dev"
# Neither /tmp nor /var/tmp: the engine copies no files into a tmpfs.
WORK = "/srv/upstream"


@dataclass
class Bench:
    """Container with the real CUDA and NCCL, and the site that serves the sources."""

    machine: Machine
    site: Site
    # Bare git folders of the sources, by name.
    folders: Mapping[str, Path]

    def plan(
        self, components: Sequence[str], pins: Mapping[str, str], variables: Mapping[str, Value]
    ) -> Plan:
        """Return a plan of these components only; what they require is on the machine already."""
        request = RoleRequest(
            components=components,
            kind=KIND,
            system=SYSTEM,
            stack=STACK,
            pins={**self.site.pins, **pins},
            variables=variables,
        )
        plan = overlay.plan_of(request, self.site, build=_build)
        return replace(plan, components=tuple(components))

    def succeed(self, *components: str, pins: Mapping[str, str] | None = None, **variables: Value) -> None:
        """Apply components twice; fail if the second run changes something or a check fails."""
        plan = self.plan(components, pins or {}, variables)
        play = self.machine.apply(plan)
        assert play.passed, play.failure
        assert self.machine.failures(plan) == []
        assert self.machine.apply(plan).changed == []

    def build(self, name: str, version: str, script: str) -> None:
        """Run a script in a folder with the sources of a release."""
        archive = sources.archive_of(self.folders[name], f"v{version}", name)
        self.machine.shell(f"rm -rf {WORK}/{name}; mkdir -p {WORK}")
        self.machine.opened.engine.put(self.machine.opened.container, WORK, archive)
        self.machine.shell(f"cd {WORK}/{name}; export TMPDIR={WORK}; {script}")


def _build(site: Site, name: str) -> None:
    """Write the stand-in of a component unless its real files are in a git folder or in Debian's archive."""
    if name in overlay.standin_pins() and name not in sources.URLS:
        overlay.build_standin(site, name)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folders = sources.folders_of(site_file.load(overlay.ROOT).mirror)
    pins = {name: sources.release_of(folders[name]) for name in ("gdrcopy", "nccl_tests")}
    with serve(tmp_path_factory.mktemp("s"), {**overlay.standin_pins(), **pins}) as site:
        sources.serve_folders(site.folder, folders)
        request = RoleRequest(
            components=("packages", "cuda", "nccl"), kind=KIND, system=SYSTEM, stack=STACK, pins=site.pins
        )
        plan = overlay.plan_of(request, site, build=_build)
        with open_machine(plan, site=site, label="upstream") as machine:
            play = machine.apply(plan)
            assert play.passed, play.failure
            assert machine.failures(plan) == []
            machine.shell(f"apt-get update; apt-get install --yes {TOOLS} libopenmpi-dev")
            # The EFA installer would put Open MPI here.
            machine.shell(
                "mkdir -p /opt/amazon; cp -rL /usr/lib/x86_64-linux-gnu/openmpi /opt/amazon/openmpi;"
                " cp -P /usr/lib/x86_64-linux-gnu/libmpi* /opt/amazon/openmpi/lib;"
                " echo /opt/amazon/openmpi/lib > /etc/ld.so.conf.d/000_efa.conf; ldconfig"
            )
            yield Bench(machine=machine, site=site, folders=folders)


def test_gdrcopy(bench: Bench) -> None:
    bench.succeed("gdrcopy")


def test_nccl_tests(bench: Bench) -> None:
    bench.succeed("nccl_tests", nccl_tests_capabilities=[80])


@pytest.mark.parametrize("program", ["nxd_training", "verl"])
def test_upstream_source(bench: Bench, program: str) -> None:
    bench.succeed("upstream_source", upstream_source_policy=program)


@pytest.fixture(scope="module")
def fabric(bench: Bench) -> None:
    """Install libfabric from its sources where the EFA installer would put it."""
    bench.build(
        "libfabric",
        sources.release_of(bench.folders["libfabric"]),
        "./autogen.sh; ./configure --prefix=/opt/amazon/efa --enable-efa; make --jobs=$(nproc) install;"
        " sed -i 1i/opt/amazon/efa/lib /etc/ld.so.conf.d/000_efa.conf; ldconfig",
    )


@pytest.mark.usefixtures("fabric")
@pytest.mark.parametrize("below", ["1.17.0", ""], ids=["one file and a link", "two files"])
def test_aws_ofi_nccl(bench: Bench, below: str) -> None:
    """Build the newest release, and the newest before 1.17.0, from an archive that `make dist` writes."""
    version = sources.release_of(bench.folders["aws_ofi_nccl"], below=below)
    name = f"aws-ofi-nccl-{version}.tar.gz"
    bench.build(
        "aws_ofi_nccl",
        version,
        "./autogen.sh; ./configure --with-libfabric=/opt/amazon/efa --with-cuda=/usr/local/cuda"
        " --enable-platform-aws --disable-tests; make dist",
    )
    opened = bench.machine.opened
    archive = opened.engine.read_file(opened.container, f"{WORK}/aws_ofi_nccl/{name}")
    bench.site.url_file(f"{RELEASES}/v{version}/{name}").write_bytes(archive)
    pins = {"aws_ofi_nccl": version}
    bench.succeed("aws_ofi_nccl", "nccl_env", pins=pins, aws_ofi_nccl_policy="source")
