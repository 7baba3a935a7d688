"""Stand-in for Neuron's Python index: wheels with its names and versions, and an empty module in each."""

import tomllib
from pathlib import Path

from tests.standins.site import Site

INDEX = "https://pip.repos.neuron.amazonaws.com"
CATALOG = Path(__file__).resolve().parents[2] / "catalog"
# Distribution, its module, and what the catalog calls it.
WHEELS = (
    ("neuronx-cc", "neuronxcc", "neuronx_cc"),
    ("neuronx-distributed", "neuronx_distributed", "nxd_core"),
    ("torch-neuronx", "torch_neuronx", "torch_neuronx"),
)
# Every version of the vendor ends like this, and no version on the index of Python can.
BUILD = "+0123abcd"


def build(site: Site) -> None:
    versions = newest_release()
    wheels = [
        site.wheel(name, versions[component] + BUILD, {f"{module}/__init__.py": ""})
        for name, module, component in WHEELS
    ]
    site.python_index(INDEX, wheels)


def newest_release() -> dict[str, str]:
    """What the newest release brings that has a framework at all."""
    table = tomllib.loads((CATALOG / "versions/neuron_sdk.toml").read_text(encoding="utf-8"))
    components = {component for _, _, component in WHEELS}
    releases = (release["brings"] for release in table["release"])
    return next(brings for brings in releases if components <= set(brings))
