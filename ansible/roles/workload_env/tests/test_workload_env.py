"""Check of the workload's packages in the virtual environment of the stack."""

import json
import re

INVENTORY = """
import importlib.metadata as metadata, json, re
tidy = lambda name: re.sub(r"[-_.]+", "-", name).lower()
print(json.dumps({tidy(item.metadata["Name"]): item.version for item in metadata.distributions()}))
"""


def test_packages_have_the_locked_versions(host, expected):
    python = expected.variables["workload_env_path"] + "/bin/python"
    installed = json.loads(host.check_output("%s -I -c %s", python, INVENTORY))
    for line in expected.variables["workload_env_requirements"]:
        name, version = line.split()[0].split("==")
        assert installed.get(re.sub(r"[-_.]+", "-", name).lower()) == version
