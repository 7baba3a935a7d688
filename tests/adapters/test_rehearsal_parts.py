"""Parts of the rehearsal in isolation: allocated addresses, the fenced environment, the seeded images."""

import ipaddress
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from builder import catalog
from builder.adapters.host.workspace import Workspace
from builder.errors import BuildError, CatalogError, MissingError, UsageError
from builder.model import System
from builder.rehearsal import addresses, session
from builder.rehearsal.addresses import Addresses, require_loopback
from builder.rehearsal.ec2 import machine, seeds
from builder.rehearsal.fence import fence
from tests.support.rehearsal import KEY, ROOT, Clients

# Addresses that an allocator can take. OTHERS are reserved for rehearsals of tests that run concurrently.
FIRST, LAST = ipaddress.ip_address("127.0.2.2"), ipaddress.ip_address("127.0.250.254")
ALL = {str(ipaddress.ip_address(number)) for number in range(int(FIRST), int(LAST) + 1)}
OTHERS = {str(FIRST + number) for number in range(10_000)}


def test_two_allocators_never_take_the_same_address() -> None:
    first, second = Addresses(22), Addresses(22)
    taken = [allocator.take(OTHERS) for allocator in (first, second, first, second)]
    assert len(set(taken) - OTHERS) == 4
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network("127.0.0.0/8") for address in taken)
    first.release(taken[0])
    assert second.take(OTHERS) == taken[0], "a released address can be taken again"
    with pytest.raises(MissingError, match="all addresses of the rehearsal are taken"):
        first.take(ALL - {taken[1]})
    for allocator in (first, second):
        for address in taken:
            allocator.release(address)


def test_addresses_are_released_when_their_process_ends() -> None:
    code = (
        "from tests.adapters.test_rehearsal_parts import ALL\n"
        "from builder.rehearsal.addresses import Addresses\n"
        "Addresses(22).take(ALL - {'127.0.249.7'})"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "54.214.1.2", "0.0.0.0", "::1", "localhost", "", "128.0.0.1", "127.0.0.1.example.com"),
        *("https://ec2.us-east-1.amazonaws.com", "http://localhost:5000", "http://127.0.0.1@example.com/"),
    ],
)
def test_refuses_addresses_outside_loopback(address: str) -> None:
    with pytest.raises(UsageError, match="a rehearsal stays on this machine"):
        require_loopback(address)


def test_accepts_loopback_addresses() -> None:
    for address in ("127.0.0.1", "127.9.8.7", "http://127.0.0.1:4566", "https://127.0.0.1"):
        assert require_loopback(address) == address


def test_the_ssh_port_is_22_unless_a_daemon_uses_it_on_all_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr\n"
    table = tmp_path / "tcp"

    def listening(*local: str) -> None:
        rows = [f"   0: {address} 00000000:0000 0A 00000000:00000000 00:00000000\n" for address in local]
        table.write_text(head + "".join(rows))

    real = addresses.listeners
    monkeypatch.setattr(addresses, "listeners", lambda: real((table, tmp_path / "none")))
    listening()
    assert addresses.find_ssh_port() == 22
    listening("0100007F:0016")
    assert addresses.find_ssh_port() == 22, "a daemon on a single address does not matter"
    listening("00000000:0016")
    assert addresses.find_ssh_port() == 2222
    listening("00000000000000000000000000000000:0016", "00000000:08AE")
    with pytest.raises(MissingError, match="22 and 2222"):
        addresses.find_ssh_port()


# Tests of the fence, which isolates tools from the user's environment.


def test_the_fence_hides_credentials_and_settings_of_the_user(tmp_path: Path) -> None:
    inherited = {
        "PATH": "/bin",
        "AWS_PROFILE": "production",
        "AWS_SESSION_TOKEN": "secret",
        "AWS_ENDPOINT_URL_EC2": "https://somewhere",
        "HTTPS_PROXY": "http://proxy.example.com",
        "no_proxy": "*",
        "PKR_VAR_region": "x",
        "PACKER_LOG": "1",
    }
    fenced = fence(
        "http://127.0.0.1:4566",
        key=KEY,
        region="eu-west-1",
        refusing_port=9,
        scratch=tmp_path,
        inherited=inherited,
    )
    found = fenced.environment
    assert (found["PATH"], found["AWS_ENDPOINT_URL"]) == ("/bin", "http://127.0.0.1:4566")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_EC2", "PKR_VAR_region", "PACKER_LOG"):
        assert name not in found
    for name in ("http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        assert found[name] == "http://127.0.0.1:9"
    assert found["no_proxy"] == found["NO_PROXY"] == "127.0.0.1,localhost"
    assert found["AWS_EC2_METADATA_DISABLED"] == "true"
    for name in ("TMPDIR", "DOCKER_CONFIG"):
        assert Path(found[name]).is_relative_to(tmp_path)
        assert Path(found[name]).stat().st_mode & 0o777 == 0o700


def test_the_fence_refuses_an_endpoint_outside_loopback(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        fence("https://aws.example.com", key=KEY, region="x", refusing_port=9, scratch=tmp_path, inherited={})


def test_a_tool_that_ignores_the_endpoint_is_refused_by_the_proxy(tmp_path: Path, aws: Clients) -> None:
    fenced = fence(
        aws.endpoint, key=KEY, region="us-east-1", refusing_port=1, scratch=tmp_path, inherited=os.environ
    )
    code = (
        "import boto3, botocore.config\n"
        "config = botocore.config.Config(retries={'total_max_attempts': 1}, connect_timeout=5)\n"
        "client = boto3.client('ec2', config=config)\n"
        "print(client.describe_regions()['Regions'][0]['RegionName'])\n"
    )

    def run(environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    inside = run(fenced.environment)
    assert inside.returncode == 0, inside.stderr
    without = {name: value for name, value in fenced.environment.items() if name != "AWS_ENDPOINT_URL"}
    outside = run(without)
    assert outside.returncode != 0
    assert "ProxyConnectionError" in outside.stderr


# Tests of the seeds, the initial images and parameters of an account.


def test_seeds_have_unique_names_parameters_and_ids() -> None:
    account = seeds.load(ROOT, catalog.load(ROOT), arch="x86_64")
    assert [seed.system for seed in account.seeds if seed.starts] == ["debian-12", "debian-13"]
    names = [(seed.owner, seed.name) for seed in account.seeds]
    assert len(set(names)) == len(names)
    parameters = [name for seed in account.seeds for name in seed.parameters]
    assert len(set(parameters)) == len(parameters)
    ids = {seed.id_in(region) for seed in account.seeds for region in account.regions}
    assert len(ids) == len(account.seeds) * len(account.regions)
    assert seeds.Account.from_table(json.loads(json.dumps(account.as_table()))) == account


def test_seeds_with_an_unknown_key_are_refused(tmp_path: Path) -> None:
    text = (ROOT / "catalog/rehearsal.toml").read_text()
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog/rehearsal.toml").write_text(text.replace('arch = "x86_64"', 'arc = "x86_64"', 1))
    with pytest.raises(CatalogError) as caught:
        seeds.load(tmp_path, catalog.load(ROOT), arch="x86_64")
    message = "images[0].arc: unknown key (did you mean 'arch'?)"
    assert any(message in problem for problem in caught.value.problems)


def test_the_folder_of_an_older_builder_counts_as_a_dead_rehearsal(tmp_path: Path) -> None:
    workspace = Workspace(home=tmp_path / "home", out=tmp_path / "out")
    files = session.files_of(workspace, "old")
    files.folder.mkdir(parents=True)
    files.alive.touch()
    (files.folder / "state").write_bytes(b"moto 5.1.0, Python 3.11\n")
    assert session.dead(workspace) == ["old"]


def test_the_command_line_does_not_import_moto_or_boto3() -> None:
    code = (
        "import sys\n"
        "from builder.cli.main import main\n"
        "main(['--help'])\n"
        "import builder.app.rehearsal, builder.rehearsal.session\n"
        "print([name for name in ('moto', 'boto3', 'docker', 'flask', 'urllib3') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


# Login users in the distributions' published images; the rehearsal takes them from the catalog.
PUBLISHED_USERS = {"debian": "admin", "ubuntu": "ubuntu", "amazon": "ec2-user"}


def test_the_login_user_of_a_system_is_that_of_its_distribution() -> None:
    systems = [system for system in catalog.load(ROOT).systems.values() if system.ami]
    assert {system.name: machine.login_user(system) for system in systems} == {
        system.name: PUBLISHED_USERS[system.distribution] for system in systems
    }


def test_the_error_for_a_missing_login_user_names_system_and_file() -> None:
    bare = System(
        name="bare", summary="", distribution="debian", family="debian", release="12", arches=(), python=""
    )
    with pytest.raises(BuildError, match="system 'bare' has no login user for SSH") as caught:
        machine.login_user(bare)
    assert "catalog/systems/bare.toml" in caught.value.hint
