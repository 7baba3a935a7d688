"""Render the Packer template of AMI builds for current plugins, and compute its variables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.adapters.ami import kept
from builder.adapters.ami.access import interface
from builder.adapters.ami.capacity import reservation
from builder.adapters.ami.jobs import Job
from builder.adapters.aws.account import Account
from builder.marks import RUN_TAG
from builder.site import AwsSettings

# Template line that `render` replaces: an HCL comment, so that Packer 1.6 accepts it unchanged.
_MARK = "  # Current plugins only: current.hcl\n"
_ADDITION = "current.hcl"


def render(template: Path, folder: Path) -> Path:
    """Write the template for current plugins of Packer to `folder`; return the folder."""
    addition = (template / _ADDITION).read_text(encoding="utf-8")
    folder.mkdir(exist_ok=True)
    for path in sorted(template.glob("*.pkr.hcl")):
        text = path.read_text(encoding="utf-8").replace(_MARK, addition)
        (folder / path.name).write_text(text, encoding="utf-8")
    return folder


def template_variables(
    job: Job,
    account: Account,
    site: AwsSettings,
    *,
    ssh_port: int,
    polling_s: int,
    ansible: Mapping[str, str],
) -> dict[str, Any]:
    """Return the template's variables; each attempt sets its own instance types and subnet."""
    shape, system = job.plan.target.ami, job.plan.system.ami
    assert shape is not None
    assert system is not None
    is_encrypted = kept.is_encrypted(job.plan, site)
    return {
        "run": job.tags[RUN_TAG],
        "region": account.region,
        "endpoint": account.endpoint,
        "source_ami": job.start.image["ImageId"],
        "capacity": reservation(site.capacity),
        "ami_name": job.image_name,
        "ami_description": job.description,
        "tags": {**job.tags, "Name": job.image_name},
        "volume": {
            "device": job.start.image["RootDeviceName"],
            "size_gib": shape.volume_gib,
            "iops": 3000,
            "throughput": 500,
            "encrypted": is_encrypted,
            "kms_key": site.kms_key if is_encrypted else "",  # Packer refuses a key without encryption
        },
        "ssh": {
            "user": system.user,
            "keypair": job.access.key.name,
            "key_file": str(job.access.key.file),
            "port": ssh_port,
            # Rehearsed instances accept SSH at once; a short timeout reports a wrong address early.
            "timeout": "30s" if account.is_on_this_machine else "10m",
            "interface": interface(site),
        },
        "network": {
            "security_group": job.access.group,
            "public_address": site.public_address,
            "iam_instance_profile": site.instance_profile,
        },
        "polling": {
            "delay_s": polling_s,
            "attempts": max(1, site.wait_minutes * 60 // polling_s),
        },
        "ansible": dict(ansible),
        "manifest": str(job.manifest),
    }
