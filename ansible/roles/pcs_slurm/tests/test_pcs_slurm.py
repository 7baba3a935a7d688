"""Checks of the Slurm of AWS PCS."""


def test_version_matches_the_pin(host, expected):
    version, release = expected.versions["pcs_slurm"].split("-")
    lines = host.file(f"{expected.variables['pcs_slurm_folder']}/version").content_string.splitlines()
    assert {f"SLURM_VERSION='{version}'", f"PCS_SLURM_RELEASE='{release}'"} <= set(lines)


def test_programs_are_in_the_path_of_login_shells(host, expected):
    found = host.check_output("bash --login -c 'command -v sinfo'")
    assert found == f"{expected.variables['pcs_slurm_folder']}/bin/sinfo"


def test_libraries_are_found(host, expected):
    folder = f"{expected.variables['pcs_slurm_folder']}/lib"
    assert folder in host.check_output("ldconfig -v -N 2>/dev/null").replace(":", " ").split()


def test_installer_is_removed(host):
    assert host.check_output("find / -xdev -name 'aws-pcs-slurm*.tar.gz'") == ""
