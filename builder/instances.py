"""Load `catalog/instances.toml`: properties of EC2 instance types, for compatibility rules and prices."""

from pathlib import Path

from builder.model import Instance
from builder.reading import shortened
from builder.tables import FLAG, LIST, NUMBER, PRICE, TABLE, TEXT, Problems, Shape, fits, read_toml

_FILE = "instances.toml"
_FAMILY: Shape = {
    "accelerator": (TEXT, True),
    "accel": (TEXT, True),
    "arch": (TEXT, True),
    "gdr": (FLAG, True),
    "nvswitch": (TEXT, True),
    "family": (TEXT, False),
    "gpu_sm": (NUMBER, False),
    "memory_gib": (NUMBER, False),
    "threads": (NUMBER, False),
    "cores_per_process": (NUMBER, False),
    "nvlinks": (NUMBER, False),
    "nvlink_gb_s": (NUMBER, False),
    "in_hyperpod": (FLAG, False),
    "boot_modes": (LIST, False),
    "source": (TEXT, True),
    "note": (TEXT, False),
    "sizes": (TABLE, True),
}
_EBS: Shape = {"snapshot_dollars_per_month": (PRICE, False)}
_SIZE: Shape = {
    "count": (NUMBER, False),
    "vcpus": (NUMBER, False),
    "ram_gib": (NUMBER, False),
    "nvme_gb": (NUMBER, False),
    "neuron_cores": (NUMBER, False),
    "efa": (NUMBER, False),
    "efa_from": (NUMBER, False),
    "cards": (NUMBER, False),
    "gbps": (NUMBER, False),
    "nvswitch": (TEXT, False),
    "gdr": (FLAG, False),
    "in_hyperpod": (FLAG, False),
    "dollars_per_hour": (PRICE, False),
}


def read_instances(folder: Path, problems: Problems) -> tuple[dict[str, Instance], float]:
    """Return the EC2 types by name, and the snapshot price per GiB and month (0 if unknown)."""
    families = dict(read_toml(folder, _FILE, problems) or {})
    disks, price = families.pop("ebs", {}), 0.0
    if not isinstance(disks, dict):
        problems.add(_FILE, "ebs", f"must be a table, not {shortened(disks)}")
    elif fits(disks, _EBS, _FILE, "ebs.", problems):
        price = float(disks.get("snapshot_dollars_per_month", 0))
    found = {}
    for prefix, table in families.items():
        if not isinstance(table, dict) or not fits(table, _FAMILY, _FILE, f"{prefix}.", problems):
            continue
        common = {
            key: value for key, value in table.items() if key not in ("sizes", "source", "note", "boot_modes")
        }
        common.setdefault("family", prefix)
        for size, own in table["sizes"].items():
            if not isinstance(own, dict):
                problems.add(_FILE, f"{prefix}.sizes.{size}", f"must be a table, not {shortened(own)}")
            elif fits(own, _SIZE, _FILE, f"{prefix}.sizes.{size}.", problems):
                name = f"{prefix}.{size}"
                modes = tuple(table.get("boot_modes", ()))
                found[name] = Instance(name=name, boot_modes=modes, **{**common, **own})
    return found, price
