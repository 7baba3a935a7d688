"""Every defect that roles of this kind had elsewhere, put into a role again: something here finds it."""

from pathlib import Path

import pytest
import yaml

from tests.unit.ansible_rules import check

ROLES = Path(__file__).resolve().parents[2] / "ansible" / "roles"


@pytest.mark.parametrize("role", sorted(ROLES.iterdir()), ids=lambda path: path.name)
def test_role_does_nothing_that_no_role_may(role: Path) -> None:
    assert [found.text for found in check(role)] == []


def make_role(folder: Path, name: str, files: dict[str, str]) -> Path:
    role = folder / name
    for place, content in files.items():
        path = role / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return role


def task(action: str, value: object, **more: object) -> str:
    return yaml.safe_dump([{"name": "Probe", action: value, **more}])


# What was done → the file it is in, its content, the rule that finds it.
DEFECTS = {
    "three blocks under one marker": (
        "tasks/main.yml",
        task("ansible.builtin.blockinfile", {"path": "/etc/profile.d/nccl.sh", "block": "x"}),
        "blockinfile",
    ),
    "a preload for everybody": (
        "templates/nccl.sh.j2",
        "export LD_PRELOAD=/opt/nccl/build/lib/libnccl.so\n",
        "preload",
    ),
    "an empty element in the loader's path": (
        "templates/cuda.sh.j2",
        "export LD_LIBRARY_PATH=/usr/local/cuda/lib64:$LD_LIBRARY_PATH\n",
        "empty path element",
    ),
    "an empty element at the end": (
        "templates/cuda.sh.j2",
        'export CPATH="/usr/local/cuda/include:"\n',
        "empty path element",
    ),
    "a protocol forced on NCCL": ("templates/nccl.sh.j2", "export NCCL_PROTO=simple\n", "forced choice"),
    "a provider forced on libfabric": ("templates/efa.sh.j2", "export FI_PROVIDER=efa\n", "forced choice"),
    "a clone of the default branch": (
        "tasks/main.yml",
        task("ansible.builtin.git", {"repo": "https://github.com/NVIDIA/gdrcopy", "dest": "/tmp/g"}),
        "git",
    ),
    "a version named latest": (
        "tasks/main.yml",
        task("ansible.builtin.apt", {"name": "docker-ce", "state": "latest"}),
        "moving version",
    ),
    "wildcards in versions": (
        "tasks/main.yml",
        task("ansible.builtin.apt", {"name": "aws-neuronx-tools=2.*"}),
        "moving version",
    ),
    "a download without a sum": (
        "tasks/main.yml",
        task("ansible.builtin.get_url", {"url": "{{ probe_url }}", "dest": "/tmp/x"}),
        "get_url",
    ),
    "an archive unpacked from the network": (
        "tasks/main.yml",
        task("ansible.builtin.unarchive", {"src": "https://vendor.example/x.tgz", "remote_src": True}),
        "fetch",
    ),
    "a package from an address": (
        "tasks/main.yml",
        task("ansible.builtin.apt", {"deb": "http://vendor.example/x.deb"}),
        "fetch",
    ),
    "a package past the shared task": (
        "tasks/main.yml",
        task("ansible.builtin.apt", {"name": "git", "state": "present"}),
        "apt",
    ),
    "packages removed past the shared task": (
        "tasks/main.yml",
        task("ansible.builtin.dnf", {"name": "git", "state": "absent"}),
        "dnf",
    ),
    "an address past the lock": (
        "defaults/main.yml",
        "probe_url: http://mirror.centos.org/centos/7/extras/fuse.rpm\n",
        "address past the lock",
    ),
    "wget in a command": (
        "tasks/main.yml",
        task("ansible.builtin.command", "wget {{ probe_url }}", changed_when=True),
        "wget",
    ),
    "many lines of shell without set -e": (
        "tasks/main.yml",
        task("ansible.builtin.shell", "cd /tmp/x\nmake\nmv a b\n"),
        "shell",
    ),
    "a failure that is hidden": (
        "tasks/main.yml",
        task("ansible.builtin.command", "insmod.sh", changed_when=True, ignore_errors=True),
        "hidden failure",
    ),
    "headers of the kernel that runs": (
        "tasks/main.yml",
        task("ansible.builtin.dnf", {"name": "kernel-devel-{{ ansible_kernel }}"}),
        "running kernel",
    ),
    "a repository of a system that is gone": (
        "tasks/main.yml",
        task("ansible.builtin.command", "amazon-linux-extras install docker", changed_when=True),
        "amazon-linux-extras",
    ),
    "uname in a command": (
        "tasks/main.yml",
        task("ansible.builtin.command", "uname -r", changed_when=False),
        "uname",
    ),
    "a reboot in every run": ("tasks/main.yml", task("ansible.builtin.reboot", {}), "reboot"),
    "a service that is started": (
        "tasks/main.yml",
        task("ansible.builtin.systemd_service", {"name": "docker", "state": "started", "enabled": True}),
        "started",
    ),
    "a handler that restarts a service": (
        "handlers/main.yml",
        task("ansible.builtin.service", {"name": "docker", "state": "restarted"}),
        "started",
    ),
    "a service that is started by a command": (
        "handlers/main.yml",
        task("ansible.builtin.command", {"argv": ["systemctl", "restart", "docker"]}, changed_when=True),
        "started",
    ),
    "sudo inside of become": (
        "tasks/main.yml",
        task("ansible.builtin.command", "sudo sh NVIDIA.run", changed_when=True),
        "sudo",
    ),
    "a role that becomes somebody": (
        "tasks/main.yml",
        task("ansible.builtin.command", "x", become=True, changed_when=True),
        "become",
    ),
    "a command that changes something in every run": (
        "tasks/main.yml",
        task("ansible.builtin.command", "./efa_installer.sh -y"),
        "silent",
    ),
    "a module loaded in the build": (
        "tasks/main.yml",
        task("ansible.builtin.command", "modprobe tcp_bbr", changed_when=True),
        "modprobe",
    ),
    "settings applied to the builder's kernel": (
        "tasks/main.yml",
        task("ansible.posix.sysctl", {"name": "net.core.rmem_max", "value": 1, "sysctl_set": True}),
        "sysctl",
    ),
    "dependencies that nobody reads": (
        "defaults/main.yml",
        "dependencies: [nvidia_fabric]\n",
        "dependencies",
    ),
    "dependencies past the catalog": ("meta/main.yml", "dependencies: [nvidia_driver]\n", "dependencies"),
    "everything upgraded": (
        "tasks/main.yml",
        task("ansible.builtin.apt", {"name": "*", "upgrade": "dist"}),
        "upgrade of everything",
    ),
    "packages that nobody signed": (
        "templates/neuron.repo.j2",
        "[neuron]\nbaseurl={{ probe_url }}\ngpgcheck=0\n",
        "unsigned packages",
    ),
    "a repository without the lock's key": (
        "tasks/main.yml",
        task("ansible.builtin.yum_repository", {"name": "neuron", "baseurl": "x", "description": "x"}),
        "yum_repository",
    ),
    "a key from an address": (
        "tasks/main.yml",
        task("ansible.builtin.rpm_key", {"key": "{{ probe_url }}"}),
        "rpm_key",
    ),
    "pip into the system's Python": (
        "tasks/main.yml",
        task("ansible.builtin.pip", {"name": "docker", "executable": "pip3"}),
        "pip",
    ),
    "shared tasks under an address of the play": (
        "tasks/main.yml",
        task("ansible.builtin.include_tasks", "{{ playbook_dir }}/tasks/download.yml"),
        "address",
    ),
    "shared tasks under an address of the play, with arguments": (
        "tasks/main.yml",
        task("ansible.builtin.include_tasks", {"file": "{{ playbook_dir }}/tasks/kernel_module.yml"}),
        "address",
    ),
    "make on as many cores as there are processes": (
        "tasks/main.yml",
        task("ansible.builtin.command", "make -j src.build", changed_when=True),
        "unbounded make",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_role_with_a_defect_is_found(tmp_path: Path, defect: str) -> None:
    place, content, rule = DEFECTS[defect]
    assert rule in {found.rule for found in check(make_role(tmp_path, "probe", {place: content}))}


@pytest.mark.parametrize(
    "content",
    [
        "export PATH=/opt/amazon/efa/bin:$PATH\n",
        'export LD_LIBRARY_PATH="/x${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n',
        "# LD_PRELOAD would be forced on every program.\n",
        "Documentation=https://docs.vendor.example/\n",
    ],
)
def test_what_is_right_is_not_found(tmp_path: Path, content: str) -> None:
    assert check(make_role(tmp_path, "probe", {"templates/probe.j2": content})) == []


@pytest.mark.parametrize("file", ["build.yml", "../../../tasks/install_{{ system_family }}.yml"])
def test_own_and_shared_task_files_may_be_included(tmp_path: Path, file: str) -> None:
    content = task("ansible.builtin.include_tasks", file)
    assert check(make_role(tmp_path, "probe", {"tasks/main.yml": content})) == []


def test_only_the_kernel_may_boot_the_machine(tmp_path: Path) -> None:
    files = {"tasks/main.yml": task("ansible.builtin.reboot", {})}
    assert check(make_role(tmp_path, "kernel", files)) == []
    assert check(make_role(tmp_path, "nvidia_driver", files)) != []


# Every defect that the roles of an older image factory had, and what finds it here: a rule, by its name, or
# a check of a role, as role::check.
KNOWN = {
    "base: congestion control misspelt, so the play stops": ("sysctl::congestion_control_is_available",),
    "base: its module is never loaded": ("sysctl::modules_are_loaded_before_the_settings",),
    "base: TCP timestamps off": ("sysctl::timestamps_stay_on",),
    "base: every machine a router": ("sysctl::machine_is_no_router",),
    "base: no limits, neighbour tables, large pages": (
        "limits::memory_may_be_locked_without_limit",
        "sysctl::neighbour_table_grows_step_by_step",
        "sysctl::large_pages_are_made_as_asked",
    ),
    "base: no time sync": ("time_sync::service_starts_with_the_machine",),
    "packages: newest kernel beside modules for the old one": (
        "upgrade of everything",
        "moving version",
        "kernel::there_is_one_kernel",
        "kernel::no_package_follows_the_newest_kernel",
    ),
    "packages: a security upgrade in check mode": ("packages::no_step_only_pretends",),
    "packages: a restart in every run": ("reboot", "kernel::a_restart_needs_a_reason"),
    "aws_cli: one architecture, no pin, no signature": ("get_url", "aws_cli::version_is_the_pinned_one"),
    "aws_cli: the second run fails": ("aws_cli::a_second_run_is_possible", "silent"),
    "aws_cli: settings for root that slow transfers": ("aws_cli::no_account_has_settings",),
    "docker: repositories of a system that is gone": ("amazon-linux-extras", "shell"),
    "docker: restarted instead of configured": ("started", "docker::settings_are_those_of_the_image"),
    "docker: logs without limit": ("docker::logs_do_not_fill_the_disk",),
    "efa: another version in the tree of the old one": (
        "efa::installer_is_the_pinned_one",
        "efa::nothing_of_an_older_installer_remains",
    ),
    "efa: runs always, verifies nothing": ("silent", "efa::every_package_of_the_installer_is_there"),
    "efa: before the driver, so without peer memory": (
        "efa::peer_memory_module_goes_with_the_driver_of_nvidia",
    ),
    "efa: MPI of the distribution left beside it": ("efa::mpi_of_the_distribution_is_gone",),
    "driver: headers of the kernel that ran before the restart": (
        "running kernel",
        "nvidia_driver::module_fits_the_kernel_of_the_image",
    ),
    "driver: nouveau in the first file system": (
        "nvidia_driver::nouveau_is_kept_out_from_the_first_moment_on",
    ),
    "driver: run file without a sum, without dkms, proprietary": (
        "sudo",
        "nvidia_driver::driver_comes_from_packages",
        "nvidia_driver::every_module_is_installed",
        "nvidia_driver::module_is_of_the_wanted_flavor",
    ),
    "driver: a unit like a drop-in, which never starts": (
        "nvidia_persistence::unit_is_whole",
        "nvidia_persistence::starts_at_boot",
    ),
    "fabric manager: a tarball spilled into /usr": (
        "nvidia_fabric_manager::nothing_is_spilled_beside_the_packages",
    ),
    "fabric manager: of any version": ("nvidia_fabric_manager::version_is_that_of_the_driver",),
    "fabric manager: started where there are no switches": (
        "nvidia_fabric_manager::starts_only_where_there_are_switches",
    ),
    "container toolkit: the old one, never configured": (
        "nvidia_container_toolkit::old_toolkit_is_gone",
        "nvidia_container_toolkit::docker_knows_the_runtime",
    ),
    "cuda: a repository by command": ("yum_repository", "packages that nobody signed"),
    "cuda: the current folder in the loader's path": (
        "empty path element",
        "cuda::no_search_path_is_set",
        "nccl_env::no_path_has_an_empty_element",
    ),
    "cuda: one architecture in its paths": ("cuda::no_path_is_of_one_architecture",),
    "dependencies where nobody reads them": ("dependencies",),
    "gdrcopy: a clone of the default branch, loaded once": (
        "git",
        "modprobe",
        "gdrcopy::module_fits_the_kernel_of_the_image",
        "gdrcopy::loading_is_left_to_the_device",
    ),
    "gdrcopy: where no check looks for it": ("gdrcopy::program_is_found_with_its_libraries",),
    "nccl: make without bound": ("unbounded make",),
    "nccl: three blocks under one marker": ("blockinfile", "nccl_env::no_block_has_the_marker_of_another"),
    "nccl: a preload that overrides every framework": (
        "preload",
        "nccl_env::nothing_is_loaded_into_every_program",
    ),
    "nccl: protocol and provider forced": (
        "forced choice",
        "nccl_env::no_session_takes_a_choice_from_nccl",
        "libfabric::no_provider_is_forced",
    ),
    "nccl_tests: at whatever was newest": ("moving version", "nccl_tests::programs_are_of_the_locked_commit"),
    "plugin: a version in the tasks, built always": (
        "silent",
        "aws_ofi_nccl::plugin_is_of_the_pinned_version",
    ),
    "plugin: folders of another distribution": ("aws_ofi_nccl::loader_looks_only_where_something_is",),
    "enroot: settings moved from where nobody put them": (
        "shell",
        "enroot::packages_settings_are_the_only_ones",
    ),
    "enroot: packages from a mirror that is gone": ("address past the lock", "wget"),
    "enroot: a version that nobody reads": ("enroot::packages_are_of_that_version_and_held",),
    "enroot: one cache for all users": ("enroot::every_user_has_folders_of_their_own",),
    "pyxis: the settings of others overwritten": ("pyxis::plugins_that_are_named_are_there",),
    "pyxis: built for no Slurm in particular": ("pyxis::every_slurm_has_a_plugin_of_its_release",),
    "pyxis: hooks not installed": ("enroot::hooks_for_jobs_are_linked",),
    "lustre: a client of no kernel": ("lustre_client::module_is_for_the_kernel_of_the_image",),
    "lustre: mounts that stop the play": ("lustre_client::nothing_is_mounted_at_boot",),
    "neuron: a repository without signatures": ("unsigned packages", "neuron_driver::repository_is_signed"),
    "neuron: a key by shell": ("rpm_key", "shell"),
    "neuron: headers of the kernel that runs": (
        "running kernel",
        "neuron_driver::module_is_for_the_kernel_of_the_image",
    ),
    "neuron: wildcards for versions": ("moving version", "neuron_tools::package_is_pinned_and_held"),
    "neuron: an environment of root, without pins": (
        "pip",
        "neuron_framework::exactly_what_was_locked",
        "neuron_framework::everybody_may_use_it_and_nobody_change_it",
    ),
    "observability: a container started while the image is made": (
        "started",
        "dcgm_exporter::without_a_gpu_it_stays_down",
    ),
}


def find_check(place: str) -> bool:
    role, _, check_name = place.partition("::")
    file = ROLES / role / "tests" / f"test_{role}.py"
    return file.is_file() and f"def test_{check_name}(" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("defect", KNOWN)
def test_what_finds_a_known_defect_is_there(defect: str) -> None:
    rules = {rule for _, _, rule in DEFECTS.values()} | set(DEFECTS)
    missing = [place for place in KNOWN[defect] if place not in rules and not find_check(place)]
    assert missing == []
