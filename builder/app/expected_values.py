"""Write the values that health checks expect on each EC2 type (python -m builder.app.expected_values)."""

import json
import sys
from pathlib import Path

from builder import catalog
from builder.launch.job import processes_of
from builder.model import Catalog, Instance

PAGE = Path("containers", "gpu-healthcheck", "src", "expected.json")
COLLECTIVES = Path("containers", "nccom-test", "expected.json")
_SHARE = 0.7  # of the links' bandwidth, which a healthy all-reduce of 1 GiB reaches


def expected_values(found: Catalog) -> str:
    """Return the expected values of all EC2 types with NVIDIA GPUs or EFA, as JSON."""
    values = {
        instance.name: _of_type(instance)
        for instance in found.instances.values()
        if instance.efa or (instance.accel == "nvidia" and instance.count)
    }
    return json.dumps(values, indent=1) + "\n"


def expected_collectives(found: Catalog) -> str:
    """Return the nccom-test workers per node and the expected bandwidth of each Neuron type, as JSON."""
    values = {
        instance.name: {
            "workers": processes_of(instance),
            **{key: value for key, value in _of_type(instance).items() if key == "busbw_nodes_gb_s"},
        }
        for instance in found.instances.values()
        if instance.accel == "neuron"
    }
    return json.dumps(values, indent=1) + "\n"


def _of_type(instance: Instance) -> dict[str, float]:
    gpus = instance.count or 0 if instance.accel == "nvidia" else 0
    links = instance.nvlinks if gpus > 1 else 0
    has_fast_network = instance.efa and instance.gbps and instance.gdr and instance.accel != "none"
    values: dict[str, float] = {
        "gpus": gpus,
        "nvlinks": links,
        "efa": instance.efa or 0,
        "busbw_one_node_gb_s": round(_SHARE * links * instance.nvlink_gb_s) if links else 0,
        "busbw_nodes_gb_s": round(_SHARE * instance.gbps / 8) if has_fast_network and instance.gbps else 0,
    }
    return {name: value for name, value in values.items() if value}


def main() -> int:
    found = catalog.load(Path.cwd())
    PAGE.write_text(expected_values(found), encoding="utf-8")
    COLLECTIVES.write_text(expected_collectives(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
