"""The command line interface of AWS: the pinned version, for everybody, whole, and with nobody's settings."""

from pathlib import Path

import yaml

COMPONENT = Path(__file__).resolve().parents[2] / "aws_cli"


def test_version_is_the_pinned_one(host, expected):
    said = host.check_output("aws --version").split()[0]
    assert said == f"aws-cli/{expected.versions['aws_cli']}"


def test_everybody_can_use_it(host, expected):
    run = host.run("su -s /bin/sh nobody -c 'HOME=/ aws --version'")
    assert (run.rc, run.stdout.split()[0]) == (0, f"aws-cli/{expected.versions['aws_cli']}")


def test_programs_are_of_the_version_in_use(host, expected):
    variables = expected.variables
    folder = f"{variables['aws_cli_folder']}/v2/{expected.versions['aws_cli']}/"
    for program in ("aws", "aws_completer"):
        real = host.check_output("readlink -e %s", f"{variables['aws_cli_programs']}/{program}")
        assert real.startswith(folder)


def test_there_is_one_version(host, expected):
    found = host.check_output("ls %s/v2", expected.variables["aws_cli_folder"]).split()
    assert sorted(found) == sorted([expected.versions["aws_cli"], "current"])


def test_there_is_one_interface(host, expected):
    found = host.check_output("which -a aws").split()
    assert {host.check_output("readlink -e %s", path) for path in found} == {
        host.check_output("readlink -e %s/aws", expected.variables["aws_cli_programs"])
    }


def test_no_account_has_settings(host):
    # The interface copies in parallel by itself; one account's limit would be found by that account alone.
    found = host.check_output("find /root /home /etc/skel -path '*/.aws/*' -type f").split()
    assert found == []


def test_nothing_of_the_installer_remains(host):
    assert host.check_output("find / -xdev -name 'awscli*.zip' -o -xdev -path '*/aws/install'") == ""


def test_a_second_run_is_possible():
    # The installer refuses where a version is installed, unless it is told that this is an update.
    steps = yaml.safe_load((COMPONENT / "tasks" / "install.yml").read_text(encoding="utf-8"))
    [argv] = [step["ansible.builtin.command"]["argv"] for step in steps if "ansible.builtin.command" in step]
    assert "--update" in argv
