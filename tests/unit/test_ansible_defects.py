"""Tests that known defects of image roles are caught by a lint rule or by a check."""

from pathlib import Path

import pytest
import yaml

from tests.unit.ansible_rules import EXPLANATION, TEXT_RULES, check

ROLES = Path(__file__).resolve().parents[2] / "ansible" / "roles"


@pytest.mark.parametrize("role", sorted(ROLES.iterdir()), ids=lambda path: path.name)
def test_role_passes_all_lint_rules(role: Path) -> None:
    assert [found.text for found in check(role)] == []


@pytest.mark.parametrize("file", sorted((ROLES.parent / "tasks").iterdir()), ids=lambda path: path.name)
def test_shared_tasks_check_signatures(file: Path) -> None:
    pattern, why = TEXT_RULES["unsigned packages"]
    assert not pattern.search(EXPLANATION.sub("", file.read_text(encoding="utf-8"))), why


def make_role(folder: Path, name: str, files: dict[str, str]) -> Path:
    role = folder / name
    for name_in_role, content in files.items():
        path = role / name_in_role
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return role


def task(action: str, value: object, **more: object) -> str:
    return yaml.safe_dump([{"name": "Probe", action: value, **more}])


# Maps the name of a defect to a file, its content, and the lint rule that must find the defect.
DEFECTS = {
    "blocks with the same marker": (
        "tasks/main.yml",
        task("ansible.builtin.blockinfile", {"path": "/etc/profile.d/nccl.sh", "block": "x"}),
        "blockinfile",
    ),
    "a preload for all programs": (
        "templates/nccl.sh.j2",
        "export LD_PRELOAD=/opt/nccl/build/lib/libnccl.so\n",
        "preload",
    ),
    "an empty element in the library path": (
        "templates/cuda.sh.j2",
        "export LD_LIBRARY_PATH=/usr/local/cuda/lib64:$LD_LIBRARY_PATH\n",
        "empty path element",
    ),
    "a trailing colon in a path": (
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
    "a download without a checksum": (
        "tasks/main.yml",
        task("ansible.builtin.get_url", {"url": "{{ probe_url }}", "dest": "/tmp/x"}),
        "get_url",
    ),
    "an archive unpacked from the network": (
        "tasks/main.yml",
        task("ansible.builtin.unarchive", {"src": "https://vendor.example/x.tgz", "remote_src": True}),
        "fetch",
    ),
    "a package from a URL": (
        "tasks/main.yml",
        task("ansible.builtin.apt", {"deb": "http://vendor.example/x.deb"}),
        "fetch",
    ),
    "a package installed without the shared task": (
        "tasks/main.yml",
        task("ansible.builtin.apt", {"name": "git", "state": "present"}),
        "apt",
    ),
    "packages removed without the shared task": (
        "tasks/main.yml",
        task("ansible.builtin.dnf", {"name": "git", "state": "absent"}),
        "dnf",
    ),
    "a URL outside the catalog": (
        "defaults/main.yml",
        "probe_url: http://mirror.centos.org/centos/7/extras/fuse.rpm\n",
        "URL outside the catalog",
    ),
    "a build that runs programs in /tmp": (
        "tasks/main.yml",
        task("ansible.builtin.command", {"argv": ["make", "exes"]}, changed_when=True),
        "TMPDIR",
    ),
    "a configure script that runs programs in /tmp": (
        "tasks/main.yml",
        task("ansible.builtin.command", {"argv": "{{ ['./configure'] + probe }}"}, changed_when=True),
        "TMPDIR",
    ),
    "wget in a command": (
        "tasks/main.yml",
        task("ansible.builtin.command", "wget {{ probe_url }}", changed_when=True),
        "wget",
    ),
    "a multi-line shell command without set -e": (
        "tasks/main.yml",
        task("ansible.builtin.shell", "cd /tmp/x\nmake\nmv a b\n"),
        "shell",
    ),
    "a hidden failure": (
        "tasks/main.yml",
        task("ansible.builtin.command", "insmod.sh", changed_when=True, ignore_errors=True),
        "hidden failure",
    ),
    "headers of the running kernel": (
        "tasks/main.yml",
        task("ansible.builtin.dnf", {"name": "kernel-devel-{{ ansible_kernel }}"}),
        "running kernel",
    ),
    "a repository tool of Amazon Linux 2": (
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
    "a role that changes the user": (
        "tasks/main.yml",
        task("ansible.builtin.command", "x", become=True, changed_when=True),
        "become",
    ),
    "a command that reports a change in every run": (
        "tasks/main.yml",
        task("ansible.builtin.command", "./efa_installer.sh -y"),
        "silent",
    ),
    "a kernel module loaded during the build": (
        "tasks/main.yml",
        task("ansible.builtin.command", "modprobe tcp_bbr", changed_when=True),
        "modprobe",
    ),
    "settings applied to the kernel of the build machine": (
        "tasks/main.yml",
        task("ansible.posix.sysctl", {"name": "net.core.rmem_max", "value": 1, "sysctl_set": True}),
        "sysctl",
    ),
    "dependencies in defaults": (
        "defaults/main.yml",
        "dependencies: [nvidia_fabric]\n",
        "dependencies",
    ),
    "dependencies in meta": ("meta/main.yml", "dependencies: [nvidia_driver]\n", "dependencies"),
    "all packages upgraded": (
        "tasks/main.yml",
        task("ansible.builtin.apt", {"name": "*", "upgrade": "dist"}),
        "upgrade of all packages",
    ),
    "unsigned packages of a repository": (
        "templates/neuron.repo.j2",
        "[neuron]\nbaseurl={{ probe_url }}\ngpgcheck=0\n",
        "unsigned packages",
    ),
    "a repository without a locked key": (
        "tasks/main.yml",
        task("ansible.builtin.yum_repository", {"name": "neuron", "baseurl": "x", "description": "x"}),
        "yum_repository",
    ),
    "a key from a URL": (
        "tasks/main.yml",
        task("ansible.builtin.rpm_key", {"key": "{{ probe_url }}"}),
        "rpm_key",
    ),
    "pip into the system's Python": (
        "tasks/main.yml",
        task("ansible.builtin.pip", {"name": "docker", "executable": "pip3"}),
        "pip",
    ),
    "shared tasks included by a path of the play": (
        "tasks/main.yml",
        task("ansible.builtin.include_tasks", "{{ playbook_dir }}/tasks/download.yml"),
        "address",
    ),
    "shared tasks included by a path of the play, with arguments": (
        "tasks/main.yml",
        task("ansible.builtin.include_tasks", {"file": "{{ playbook_dir }}/tasks/kernel_module.yml"}),
        "address",
    ),
    "make without a job limit": (
        "tasks/main.yml",
        task("ansible.builtin.command", "make -j src.build", changed_when=True),
        "unbounded make",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_lint_finds_the_defect(tmp_path: Path, defect: str) -> None:
    file, content, rule = DEFECTS[defect]
    assert rule in {found.rule for found in check(make_role(tmp_path, "probe", {file: content}))}


@pytest.mark.parametrize(
    "content",
    [
        "export PATH=/opt/amazon/efa/bin:$PATH\n",
        'export LD_LIBRARY_PATH="/x${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n',
        "# LD_PRELOAD would be forced on every program.\n",
        "Documentation=https://docs.vendor.example/\n",
    ],
)
def test_role_lint_accepts_valid_content(tmp_path: Path, content: str) -> None:
    assert check(make_role(tmp_path, "probe", {"templates/probe.j2": content})) == []


@pytest.mark.parametrize("file", ["build.yml", "../../../tasks/install_{{ system_family }}.yml"])
def test_lint_accepts_includes_of_own_and_shared_tasks(tmp_path: Path, file: str) -> None:
    content = task("ansible.builtin.include_tasks", file)
    assert check(make_role(tmp_path, "probe", {"tasks/main.yml": content})) == []


def test_only_the_kernel_role_may_restart_the_machine(tmp_path: Path) -> None:
    files = {"tasks/main.yml": task("ansible.builtin.reboot", {})}
    assert check(make_role(tmp_path, "kernel", files)) == []
    assert check(make_role(tmp_path, "nvidia_driver", files)) != []


# Maps a defect of an older image factory to the lint rules and checks (role::check) that find the defect.
KNOWN = {
    "base: misspelled congestion control stops the play": ("sysctl::congestion_control_is_available",),
    "base: module of the congestion control is never loaded": (
        "sysctl::modules_are_loaded_before_the_settings",
    ),
    "base: TCP timestamps off": ("sysctl::tcp_timestamps_are_on",),
    "base: IP forwarding enabled on every machine": ("sysctl::ip_forwarding_is_not_enabled",),
    "base: no limits, no neighbour table sizes, no huge pages": (
        "limits::memory_may_be_locked_without_limit",
        "sysctl::neighbour_thresholds_increase",
        "sysctl::transparent_hugepages_match_the_setting",
    ),
    "base: no time sync": ("time_sync::service_is_enabled_at_boot",),
    "packages: newest kernel installed with modules for the old one": (
        "upgrade of all packages",
        "moving version",
        "kernel::only_one_kernel_is_installed",
        "kernel::no_kernel_metapackage_is_installed",
    ),
    "packages: security upgrade in check mode, without effect": (
        "packages::tasks_that_always_run_in_check_mode_register_their_result",
    ),
    "packages: machine restarted in every run": ("reboot", "kernel::machine_is_restarted_only_if_needed"),
    "aws_cli: no version pin, no signature check": ("get_url", "aws_cli::version_matches_the_pin"),
    "aws_cli: second run fails": ("aws_cli::installer_runs_with_the_update_option", "silent"),
    "aws_cli: configuration of root that slows transfers": ("aws_cli::no_user_has_aws_configuration",),
    "docker: repository tool of Amazon Linux 2": ("amazon-linux-extras", "shell"),
    "docker: service restarted during the build": (
        "started",
        "docker::daemon_json_has_the_settings_of_the_role",
    ),
    "docker: logs without size limit": ("docker::logs_are_rotated",),
    "efa: files of two versions mixed": (
        "efa::installer_has_the_pinned_version",
        "efa::no_files_of_an_older_installer_remain",
    ),
    "efa: installer run always and not verified": (
        "silent",
        "efa::all_packages_of_the_installer_are_installed",
    ),
    "efa: installed before the driver, so without peer memory": (
        "efa::peer_memory_module_requires_the_nvidia_driver",
    ),
    "efa: distribution's MPI not removed": ("efa::distribution_mpi_is_removed",),
    "driver: headers of the kernel that ran before the restart": (
        "running kernel",
        "nvidia_driver::module_matches_the_kernel",
    ),
    "driver: nouveau in the initramfs": ("nvidia_driver::initramfs_has_the_blacklist_and_no_nouveau",),
    "driver: .run installer without checksum and without dkms, proprietary": (
        "sudo",
        "nvidia_driver::driver_is_installed_from_packages",
        "nvidia_driver::all_dkms_modules_are_installed",
        "nvidia_driver::module_has_the_selected_flavor",
    ),
    "driver: drop-in installed as a unit, which never starts": (
        "nvidia_persistence::unit_is_complete",
        "nvidia_persistence::service_is_enabled_at_boot",
    ),
    "fabric manager: archive unpacked into /usr": ("nvidia_fabric_manager::no_stray_files_in_usr",),
    "fabric manager: not the version of the driver": ("nvidia_fabric_manager::version_matches_the_driver",),
    "fabric manager: started without NVSwitches": ("nvidia_fabric_manager::service_requires_nvswitches",),
    "container toolkit: deprecated package, never configured": (
        "nvidia_container_toolkit::nvidia_docker2_is_not_installed",
        "nvidia_container_toolkit::docker_has_the_nvidia_runtime",
    ),
    "cuda: repository added by a command": ("yum_repository", "unsigned packages of a repository"),
    "cuda: current directory in the library path": (
        "empty path element",
        "cuda::no_library_search_path_is_set",
        "nccl_env::no_search_path_has_an_empty_element",
    ),
    "cuda: architecture-specific paths": (
        "cuda::no_environment_file_has_an_architecture_specific_cuda_path",
    ),
    "dependencies declared in defaults": ("dependencies",),
    "gdrcopy: clone of the default branch, module loaded only during the build": (
        "git",
        "modprobe",
        "gdrcopy::module_matches_the_kernel",
        "gdrcopy::module_is_loaded_by_the_path_unit",
    ),
    "gdrcopy: programs not in PATH": ("gdrcopy::program_finds_its_libraries",),
    "nccl: make without a job limit": ("unbounded make",),
    "nccl: blocks with the same marker": (
        "blockinfile",
        "nccl_env::no_environment_file_has_the_default_blockinfile_marker",
    ),
    "nccl: preload that overrides the NCCL of frameworks": (
        "preload",
        "nccl_env::ld_so_preload_is_empty",
    ),
    "nccl: protocol and provider forced": (
        "forced choice",
        "nccl_env::session_sets_no_refused_variable",
        "libfabric::no_provider_is_forced",
    ),
    "nccl_tests: newest commit": ("moving version", "nccl_tests::programs_are_built_from_the_locked_commit"),
    "plugin: version in the tasks, built in every run": (
        "silent",
        "aws_ofi_nccl::plugin_has_the_pinned_version",
    ),
    "plugin: library folders of another distribution": ("aws_ofi_nccl::loader_folders_exist",),
    "enroot: configuration moved from a path that does not exist": (
        "shell",
        "enroot::configuration_lines_are_valid",
    ),
    "enroot: packages from a mirror that no longer exists": ("URL outside the catalog", "wget"),
    "enroot: version variable without effect": ("enroot::package_is_pinned_and_held",),
    "enroot: cache shared by all users": ("enroot::each_user_has_separate_folders",),
    "pyxis: list of other plugins overwritten": ("pyxis::listed_plugins_exist",),
    "pyxis: not built for the installed Slurm": ("pyxis::each_slurm_has_a_plugin_for_its_release",),
    "pyxis: hooks not installed": ("enroot::slurm_hooks_are_linked",),
    "lustre: client not built for the kernel": ("lustre_client::module_matches_the_kernel",),
    "lustre: mounts that stop the play": ("lustre_client::fstab_has_no_lustre_mount",),
    "neuron: a repository without signatures": ("unsigned packages", "neuron_driver::repository_is_signed"),
    "neuron: key added by a shell command": ("rpm_key", "shell"),
    "neuron: headers of the running kernel": (
        "running kernel",
        "neuron_driver::module_matches_the_kernel",
    ),
    "neuron: wildcards in versions": ("moving version", "neuron_tools::package_is_pinned_and_held"),
    "neuron: Python environment owned by root only, without pins": (
        "pip",
        "neuron_framework::only_the_locked_packages_are_installed",
        "neuron_framework::all_users_can_read_and_only_root_can_write",
    ),
    "observability: container started during the build": (
        "started",
        "dcgm_exporter::service_stays_inactive_without_a_gpu",
    ),
}


def find_check(name: str) -> bool:
    role, _, check_name = name.partition("::")
    file = ROLES / role / "tests" / f"test_{role}.py"
    return file.is_file() and f"def test_{check_name}(" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("defect", KNOWN)
def test_rules_and_checks_for_the_known_defect_exist(defect: str) -> None:
    rules = {rule for _, _, rule in DEFECTS.values()} | set(DEFECTS)
    missing = [name for name in KNOWN[defect] if name not in rules and not find_check(name)]
    assert missing == []
