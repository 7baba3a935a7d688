"""Queries about a host for use in several check files. They return facts and assert nothing."""

import json
import re

_VERSIONS = {
    "dpkg-query": "dpkg-query --show --showformat '${Version}' %s",
    "rpm": "rpm --query --queryformat '%%{VERSION}-%%{RELEASE}' %s",
}
_SESSION_FILES = (
    "/etc/environment",
    "/etc/environment.d",
    "/etc/profile",
    "/etc/profile.d",
    "/etc/bash.bashrc",
    "/etc/bashrc",
    "/etc/security/pam_env.conf",
    "/etc/systemd/system.conf.d",
    "/etc/ld.so.preload",
)

# Python program that prints the name and version of every distribution that an interpreter finds.
_INVENTORY = """
import importlib.metadata as metadata, json
print(json.dumps({item.metadata["Name"]: item.version for item in metadata.distributions()}))
"""


def package_version(host, name):
    """Return the full version of a package, or "" if it is not installed."""
    manager = "rpm" if host.exists("dnf") else "dpkg-query"
    run = host.run(_VERSIONS[manager], name)
    return run.stdout.strip() if run.rc == 0 else ""


def held(host, name):
    """Return True if a package is held at its version, so that upgrades do not change it."""
    if not host.exists("dnf"):
        return name in host.check_output("apt-mark showhold").split()
    locks = host.file("/etc/dnf/plugins/versionlock.list")
    return locks.exists and bool(
        re.search(rf"^(\d+:)?{re.escape(name)}-\d", locks.content_string, re.MULTILINE)
    )


def module_info(host, kernel, module):
    """Return the fields that modinfo prints for a kernel module (first value of each), or {} if it fails."""
    run = host.run("modinfo -k %s %s", kernel, module)
    found = {}
    for line in run.stdout.splitlines() if run.rc == 0 else ():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def environment_files(host):
    """Return the contents, by path, of all files that set environment variables for sessions or services."""
    paths = " ".join(_SESSION_FILES)
    found = host.run(f"find -L {paths} -type f 2>/dev/null").stdout.split()
    return {path: host.file(path).content_string for path in found}


def session_environment(host):
    """Return the environment of a login session."""
    entries = host.check_output("env -i bash -lc 'env -0'").split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def distributions(host, interpreter):
    """Return the versions of all Python distributions that an interpreter finds, by normalized name."""
    found = json.loads(host.check_output("%s -I -c %s", interpreter, _INVENTORY))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found.items()}
