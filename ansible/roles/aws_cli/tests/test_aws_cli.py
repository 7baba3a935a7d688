"""Checks of the AWS CLI: the pinned version, usable by all users, without configuration."""

from pathlib import Path

import yaml

COMPONENT = Path(__file__).resolve().parents[2] / "aws_cli"


def test_version_matches_the_pin(host, expected):
    output = host.check_output("aws --version").split()[0]
    assert output == f"aws-cli/{expected.versions['aws_cli']}"


def test_every_user_can_run_aws(host, expected):
    run = host.run("su -s /bin/sh nobody -c 'HOME=/ aws --version'")
    assert (run.rc, run.stdout.split()[0]) == (0, f"aws-cli/{expected.versions['aws_cli']}")


def test_links_point_to_the_pinned_version(host, expected):
    variables = expected.variables
    folder = f"{variables['aws_cli_folder']}/v2/{expected.versions['aws_cli']}/"
    for program in ("aws", "aws_completer"):
        real = host.check_output("readlink -e %s", f"{variables['aws_cli_programs']}/{program}")
        assert real.startswith(folder)


def test_only_the_pinned_version_is_installed(host, expected):
    found = host.check_output("ls %s/v2", expected.variables["aws_cli_folder"]).split()
    assert sorted(found) == sorted([expected.versions["aws_cli"], "current"])


def test_path_has_only_one_aws_program(host, expected):
    found = host.check_output("which -a aws").split()
    assert {host.check_output("readlink -e %s", path) for path in found} == {
        host.check_output("readlink -e %s/aws", expected.variables["aws_cli_programs"])
    }


def test_no_user_has_aws_configuration(host):
    # The AWS CLI needs no configuration on instances; a file in a home folder would affect only its user.
    found = host.check_output("find /root /home /etc/skel -path '*/.aws/*' -type f").split()
    assert found == []


def test_installer_is_removed(host):
    assert host.check_output("find / -xdev -name 'awscli*.zip' -o -xdev -path '*/aws/install'") == ""


def test_installer_runs_with_the_update_option():
    # Without --update the installer fails if a version is already installed.
    steps = yaml.safe_load((COMPONENT / "tasks" / "install.yml").read_text(encoding="utf-8"))
    [argv] = [step["ansible.builtin.command"]["argv"] for step in steps if "ansible.builtin.command" in step]
    assert "--update" in argv
