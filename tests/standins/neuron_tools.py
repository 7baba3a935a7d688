"""Stand-in for the Neuron tools: programs that find no device."""

from tests.standins.neuron_packages import archive_version, publish
from tests.standins.site import Site

PROGRAM = """\
#!/bin/sh
echo "%s: no Neuron device found" >&2
exit 1
"""
PROGRAMS = ("nccom-test", "neuron-ls", "neuron-monitor", "neuron-monitor-prometheus.py", "neuron-top")


def build(site: Site) -> None:
    version = archive_version(site, "neuron_tools")
    files = {f"/opt/aws/neuron/bin/{name}": PROGRAM % name for name in PROGRAMS}
    publish(site, site.deb("aws-neuronx-tools", version, files))
