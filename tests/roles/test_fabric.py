"""Tests of EFA and the NCCL plugin: version changes, base images with EFA, refused downloads, defects."""

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from builder.adapters.ansible.apply import Applied
from builder.app.role_plan import RoleRequest
from builder.model import Plan, Value
from tests.roles.machines import Machine, open_machine
from tests.standins import aws_ofi_nccl, efa, overlay
from tests.standins.site import Site, serve

pytestmark = pytest.mark.engine

# EFA installers: OLD installs the plugin to another folder; NEWEST detects NVIDIA's base images.
OLDEST, OLD, NEW, NEWEST = "1.40.0", "1.43.2", "1.47.0", "1.51.0"
# A release of aws-ofi-nccl that no EFA installer in these tests contains.
OTHER_PLUGIN = "1.21.1"
FABRIC = ("efa", "aws_ofi_nccl", "nccl_env")
RECORD = "/opt/amazon/efa_installed_packages"
CUDA = "/opt/headers-of-cuda"


@dataclass
class Image:
    """Container to which tests apply several plans."""

    site: Site
    machine: Machine

    def plan(self, version: str, *components: str, plugin: str = "", **variables: Value) -> Plan:
        """Return a plan of these components without their requirements, which are already installed."""
        self.site.pins = {"efa": version, "aws_ofi_nccl": plugin or efa.bundle(version)["aws_ofi_nccl"]}
        names = components or ("efa",)
        request = RoleRequest(components=names, kind="container", pins=self.site.pins, variables=variables)
        return replace(overlay.plan_of(request, self.site), components=names)

    def apply(self, version: str, *components: str, plugin: str = "", **variables: Value) -> Applied:
        return self.machine.apply(self.plan(version, *components, plugin=plugin, **variables))

    def version_of(self, package: str) -> str:
        query = (
            "dpkg-query --show --showformat '${db:Status-Status} ${Version}' %s 2>/dev/null || test $? = 1"
        )
        return self.machine.shell(query % package).removeprefix("installed ")

    def remove_efa(self) -> None:
        """Remove EFA from the container."""
        names = self.machine.shell(f"test ! -e {RECORD} || grep --invert-match ^# {RECORD}").split()
        packages = {name.partition("_")[0] for name in names} | {"libnccl-ofi", "libnccl-ofi-ngc-v3"}
        self.machine.shell(f"dpkg --purge --force-depends --force-remove-reinstreq {' '.join(packages)}")
        self.machine.shell("rm -rf /opt/amazon /opt/nvidia /etc/ld.so.conf.d/100_ofinccl.conf /etc/nccl.conf")
        self.machine.shell("apt-get install --yes --fix-broken; ldconfig")


@pytest.fixture(scope="module")
def shared_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    with serve(tmp_path_factory.mktemp("s"), {}) as site:
        plan = overlay.plan_of(RoleRequest(components=["packages"], kind="container"), site)
        with open_machine(plan, site=site, label="fabric") as machine:
            succeed(machine.apply(plan))
            yield Image(site=site, machine=machine)


@pytest.fixture
def image(shared_image: Image) -> Iterator[Image]:
    yield shared_image
    shared_image.site.faults.clear()
    shared_image.remove_efa()


def succeed(play: Applied) -> Applied:
    assert play.passed, play.failure
    return play


def message_of(play: Applied) -> str:
    assert play.failure is not None
    return play.failure.message + play.failure.details


@pytest.mark.parametrize(("first", "second"), [(OLD, NEW), (NEW, NEWEST), (NEWEST, NEW)])
def test_replaces_efa_of_another_version(image: Image, first: str, second: str) -> None:
    succeed(image.apply(first, *FABRIC))
    plan = image.plan(second, *FABRIC)
    succeed(image.machine.apply(plan))
    assert image.version_of("libfabric1-aws") == efa.bundle(second)["libfabric"]
    assert image.machine.failures(plan) == []
    assert image.machine.apply(plan).changed == []


def test_refuses_an_installer_with_another_checksum(image: Image) -> None:
    plan = image.plan(NEW)
    archive = image.site.url_file(f"{efa.HOST}/aws-efa-installer-{NEW}.tar.gz")
    archive.write_bytes(archive.read_bytes() + b"more")
    assert "does not match its lock: expected sha256" in message_of(image.machine.apply(plan))
    assert image.version_of("libfabric1-aws") == ""


def test_refuses_an_installer_without_the_vendors_signature(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = efa.build_release

    def sign_another(site: Site, version: str) -> None:
        archive = real(site, version)
        another = site.write(f"{efa.HOST}/another", "another")
        site.sign(another).replace(archive.with_name(f"{archive.name}.sig"))

    # The checksums match the lock, so only the signature can be wrong.
    monkeypatch.setattr(efa, "build_release", sign_another)
    plan = image.plan(NEW)
    play = image.machine.apply(plan)
    assert "signature" in message_of(play)
    assert image.version_of("libfabric1-aws") == ""


def test_installs_nothing_if_the_vendor_does_not_answer(image: Image) -> None:
    plan = image.plan(NEW)
    image.site.faults[f"/efa-installer.amazonaws.com/aws-efa-installer-{NEW}.tar.gz"] = (503, 9)
    assert "the server answered 503" in message_of(image.machine.apply(plan))
    assert image.version_of("libfabric1-aws") == ""
    image.site.faults.clear()
    succeed(image.machine.apply(plan))


def test_finishes_an_interrupted_installation(image: Image) -> None:
    plan = image.plan(NEW, *FABRIC)
    succeed(image.machine.apply(plan))
    image.machine.shell(f"rm {RECORD}; dpkg --purge --force-depends libfabric-aws-dev libnccl-ofi")
    assert image.machine.failures(plan) != []
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []


def test_minimal_efa_installation_has_no_libfabric(image: Image) -> None:
    plan = image.plan(NEW, efa_minimal=True)
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []
    assert image.version_of("libfabric1-aws") == ""
    assert image.machine.apply(plan).changed == []
    # Without efa_minimal, a second run installs the remaining packages of the same EFA version.
    succeed(image.apply(NEW))
    assert image.version_of("libfabric1-aws") == efa.bundle(NEW)["libfabric"]


def test_removes_open_mpi_of_the_distribution(image: Image) -> None:
    names = ["openmpi-bin", "libopenmpi-dev"]
    mpi = {"name": names, "install_recommends": False, "update_cache": True}
    succeed(image.machine.apply(image.plan(NEW), tasks=[{"ansible.builtin.apt": mpi}]))
    image.machine.shell("apt-mark hold openmpi-bin")
    plan = image.plan(NEW)
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []
    assert [image.version_of(name) for name in names] == ["", ""]


@pytest.mark.parametrize("version", [NEW, NEWEST])
def test_installs_all_packages_on_nvidias_base_image(image: Image, version: str) -> None:
    image.machine.put({"/opt/nvidia/nvidia_entrypoint.sh": "#!/bin/sh\n"})
    plan = image.plan(version, *FABRIC)
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []


def test_purges_half_installed_packages_of_the_base_image(image: Image) -> None:
    folder = "/opt/amazon/aws-ofi-nccl/lib"
    other = image.site.deb("libnccl-ofi-ngc-v3", "1.0-1", {f"{folder}/libnccl-net.so": b"\x7fELF"})
    broken = image.site.deb(
        "libfabric1-aws", "99.0", {"/opt/amazon/efa/lib/of-the-base-image": ""}, depends=["no-such-package"]
    )
    image.machine.put({f"/var/{path.name}": path.read_bytes() for path in (other, broken)})
    image.machine.shell(f"dpkg --install /var/{other.name}; dpkg --unpack /var/{broken.name}; rm /var/*.deb")
    plan = image.plan(NEW, *FABRIC, efa_policy="purge_then_install")
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []
    assert image.machine.apply(plan).changed == []


def test_policy_verify_only_keeps_the_efa_version_of_the_base_image(image: Image) -> None:
    verify = {"efa_policy": "verify_only"}
    assert f"pins EFA {NEW}, but the base image has none" in message_of(image.apply(NEW, **verify))
    succeed(image.apply(NEW))
    before = image.machine.shell("dpkg-query --list | md5sum; find /opt/amazon | md5sum")
    assert succeed(image.apply(NEW, **verify)).changed == []
    assert f"pins EFA {NEWEST}, but the base image has {NEW}" in message_of(image.apply(NEWEST, **verify))
    assert image.machine.shell("dpkg-query --list | md5sum; find /opt/amazon | md5sum") == before


def test_refuses_a_bundled_plugin_of_another_version(image: Image) -> None:
    message = message_of(image.apply(NEW, *FABRIC, plugin=OTHER_PLUGIN))
    assert f"Expected aws-ofi-nccl {OTHER_PLUGIN} in one folder; found /opt/amazon/ofi-nccl" in message


@pytest.mark.parametrize(
    ("version", "found"),
    [
        (OLDEST, "libnccl-net.so f"),
        (OLD, "libnccl-net-ofi.so f, libnccl-net.so l"),
        (NEW, "libnccl-net-ofi.so f, libnccl-net.so f"),
    ],
)
def test_accepts_the_nccl_plugin_files_of_all_releases(image: Image, version: str, found: str) -> None:
    """The plugin is one file before 1.15, a file and a link before 1.17, and two files since 1.17."""
    plan = image.plan(version, *FABRIC)
    succeed(image.machine.apply(plan))
    files = image.machine.shell("find /opt/amazon/ofi-nccl -name 'libnccl-net*' -printf '%f %y\n'")
    assert ", ".join(sorted(files.splitlines())) == found
    assert image.machine.failures(plan) == []


@pytest.mark.parametrize("path", ["/opt/amazon/ofi-nccl/lib64", "/opt/amazon/ofi-nccl/lib"])
def test_refuses_a_second_plugin_of_another_version(image: Image, path: str) -> None:
    plan = image.plan(NEW, *FABRIC)
    succeed(image.machine.apply(plan))
    image.machine.shell(f"mkdir -p {path}; echo aws-ofi-nccl 1.99.9 > {path}/libnccl-net-old.so")
    assert f"Expected aws-ofi-nccl {efa.bundle(NEW)['aws_ofi_nccl']}" in message_of(image.machine.apply(plan))


def test_checks_find_a_missing_nccl_net_plugin_setting(image: Image) -> None:
    # Before plugin 1.17, the name that NCCL loads by default is a link, which the loader cache lacks.
    plan = image.plan(OLD, *FABRIC)
    succeed(image.machine.apply(plan))
    assert "NCCL_NET_PLUGIN=ofi" in image.machine.shell("cat /etc/nccl.conf")
    image.machine.shell("rm /etc/nccl.conf")
    failed = [line.partition(": ")[0] for line in image.machine.failures(plan)]
    assert "aws_ofi_nccl::test_nccl_finds_the_plugin_by_name" in failed
    assert "nccl_env::test_nccl_finds_the_configured_plugin" in failed


@pytest.fixture(scope="module")
def cuda(shared_image: Image, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Install the real CUDA headers from NVIDIA's wheels; return the folder of the CUDA toolkit."""
    folder = tmp_path_factory.mktemp("cuda")
    words = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    projects = ("nvidia-cuda-runtime-cu12", "nvidia-cuda-nvcc-cu12")
    subprocess.run([sys.executable, "-m", "pip", *words, *projects], check=True)
    for path in folder.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if "/include/" in name and not name.endswith("/")]
            headers = {f"{CUDA}/include/{name.partition('/include/')[2]}": wheel.read(name) for name in names}
        shared_image.machine.put(headers)
    # The wheels lack the static CUDA runtime; the plugin's stand-in requires only that the file exists.
    shared_image.machine.put({f"{CUDA}/lib64/libcudart_static.a": "!<arch>\n"})
    return CUDA


def test_a_build_from_source_replaces_the_bundled_plugin(image: Image, cuda: str) -> None:
    build: dict[str, Value] = {"aws_ofi_nccl_policy": "source", "aws_ofi_nccl_cuda": cuda}
    image.machine.put({"/opt/gdrcopy/include/gdrapi.h": "struct gdr;\n"})
    succeed(image.apply(NEW, *FABRIC))
    plan = image.plan(NEW, *FABRIC, plugin=OTHER_PLUGIN, **build)
    succeed(image.machine.apply(plan))
    assert image.version_of("libnccl-ofi") == ""
    assert image.machine.failures(plan) == []
    assert image.machine.apply(plan).changed == []
    another = image.plan(NEW, *FABRIC, plugin="1.20.0", **build)
    succeed(image.machine.apply(another))
    assert image.machine.failures(another) == []


def test_a_compiler_error_is_in_the_error_message(
    image: Image, cuda: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build: dict[str, Value] = {"aws_ofi_nccl_policy": "source", "aws_ofi_nccl_cuda": cuda}
    monkeypatch.setattr(aws_ofi_nccl, "FLAW", "#error injected by the test\n")
    plan = image.plan(NEW, *FABRIC, plugin=OTHER_PLUGIN, **build)
    assert "#error injected by the test" in message_of(image.machine.apply(plan))
    # The failed build leaves the plugin of the installer.
    assert image.version_of("libnccl-ofi") != ""
    assert any(line.startswith("aws_ofi_nccl::") for line in image.machine.failures(plan))
    monkeypatch.undo()
    plan = image.plan(NEW, *FABRIC, plugin=OTHER_PLUGIN, **build)
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []


def test_missing_cuda_headers_are_in_the_message(image: Image) -> None:
    play = image.apply(NEW, *FABRIC, aws_ofi_nccl_policy="source", aws_ofi_nccl_cuda="/nowhere")
    assert "requires either CUDA, ROCm, or Neuron" in message_of(play)


# Maps a shell command that breaks jobs on the image to the check of nccl_env that must fail.
DEFECTS = {
    "echo 'export LD_PRELOAD=libnccl.so' > /etc/profile.d/a.sh": "session_sets_no_refused_variable",
    "echo NCCL_PROTO=simple >> /etc/environment": "no_system_file_sets_a_refused_variable",
    "echo /opt/amazon/no-such.so > /etc/ld.so.preload": "ld_so_preload_is_empty",
    "echo 'export LD_LIBRARY_PATH=/opt/x:$NO' > /etc/profile.d/b.sh": "no_path_has_an_empty_element",
    "echo '# BEGIN ANSIBLE MANAGED BLOCK' > /etc/profile.d/c.sh": "no_file_has_the_default_block_marker",
    "echo FI_PROVIDER=efa > /etc/nccl.conf": "nccl_conf_has_the_settings",
}


def test_checks_find_settings_that_break_jobs(image: Image) -> None:
    plan = image.plan(NEW, "nccl_env")
    succeed(image.machine.apply(plan))
    assert image.machine.failures(plan) == []
    image.machine.shell("cp -a /etc/environment /root/environment; " + "; ".join(DEFECTS))
    failed = {line.partition(": ")[0] for line in image.machine.failures(plan)}
    image.machine.shell(
        "mv /root/environment /etc; rm /etc/profile.d/[abc].sh /etc/ld.so.preload /etc/nccl.conf"
    )
    assert failed == {f"nccl_env::test_{name}" for name in DEFECTS.values()}


def test_checks_find_a_second_plugin(image: Image) -> None:
    plan = image.plan(NEW, *FABRIC)
    succeed(image.machine.apply(plan))
    image.machine.shell(
        "install -D -t /opt/aws-ofi-nccl/install/lib /opt/amazon/ofi-nccl/lib/libnccl-net-ofi.so"
    )
    failed = image.machine.failures(plan)
    image.machine.shell("rm -r /opt/aws-ofi-nccl")
    assert [line for line in failed if "no_other_plugin_is_installed" in line]


def test_checks_find_a_package_that_the_installer_recorded_but_did_not_install(image: Image) -> None:
    plan = image.plan(NEW)
    succeed(image.machine.apply(plan))
    image.machine.shell(f"sed -i 's/libfabric1-aws_[^ ]*/libfabric1-aws_99.0_amd64/' {RECORD}")
    assert [
        line for line in image.machine.failures(plan) if "all_packages_of_the_installer_are_installed" in line
    ]
