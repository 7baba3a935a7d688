"""Checks of the AWS PCS agent."""

RECORD = "/opt/aws/pcs/version"


def test_version_matches_the_pin(host, expected):
    version, release = expected.versions["pcs_agent"].split("-")
    lines = host.file(RECORD).content_string.splitlines()
    assert {f"AGENT_VERSION='{version}'", f"AGENT_RELEASE='{release}'"} <= set(lines)


def test_image_belongs_to_no_cluster(host):
    # The agent gets the key of its cluster when an instance starts.
    assert host.run("ls -A /etc/slurm/slurm.key /etc/aws/pcs/cluster-id").stdout == ""


def test_installer_is_removed(host):
    assert host.check_output("find / -xdev -name 'aws-pcs-agent*.tar.gz'") == ""
