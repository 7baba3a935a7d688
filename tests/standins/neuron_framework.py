"""Stand-in for Neuron's Python index: wheels with the real names and versions, each with an empty module."""

import tomllib
from pathlib import Path

from tests.standins.site import Site

INDEX = "https://pip.repos.neuron.amazonaws.com"
CATALOG = Path(__file__).resolve().parents[2] / "catalog"
# Each wheel has a distribution name, a module name and a component name in the catalog.
WHEELS = (
    ("neuronx-cc", "neuronxcc", "neuronx_cc"),
    ("neuronx-distributed", "neuronx_distributed", "nxd_core"),
    ("torch-neuronx", "torch_neuronx", "torch_neuronx"),
)
# Local part of every version in the vendor's index. PyPI rejects versions with a local part.
BUILD = "+0123abcd"


def build(site: Site) -> None:
    versions = newest_release()
    wheels = [
        site.wheel(name, versions[component] + BUILD, {f"{module}/__init__.py": ""})
        for name, module, component in WHEELS
    ]
    site.python_index(INDEX, wheels)


def newest_release() -> dict[str, str]:
    """Return the component versions of the newest Neuron SDK release that includes all wheels."""
    table = tomllib.loads((CATALOG / "versions/neuron_sdk.toml").read_text(encoding="utf-8"))
    components = {component for _, _, component in WHEELS}
    releases = (release["brings"] for release in table["release"])
    return next(brings for brings in releases if components <= set(brings))
