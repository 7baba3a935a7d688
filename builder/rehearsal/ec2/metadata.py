"""Generate the content of an instance's metadata service from the rehearsed EC2's data."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.core.types import Base64EncodedString
from moto.ec2.models import EC2Backend
from moto.ec2.models.instances import Instance
from moto.ec2.models.key_pairs import KeyPair

_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_PARTITION_DOMAIN = "amazonaws.com"


def describe(backend: EC2Backend, instance: Instance) -> dict[str, Any]:
    """Return the document that `imds` serves for an instance."""
    options = instance.metadata_options
    return {
        "options": {"HttpTokens": options.http_tokens, "HttpEndpoint": options.http_endpoint},
        "user_data": base64.b64encode(decoded(instance.user_data)).decode(),
        "paths": {
            "meta-data": _meta_data(backend, instance),
            "dynamic": {"instance-identity": {"document": _identity(backend, instance)}},
        },
    }


def decoded(user_data: Base64EncodedString | None) -> bytes:
    return base64.b64decode(user_data.as_bytes()) if user_data else b""


def key_pair(backend: EC2Backend, instance: Instance) -> KeyPair | None:
    return backend.key_pairs.get(str(instance.key_name)) if instance.key_name else None


def _meta_data(backend: EC2Backend, instance: Instance) -> dict[str, Any]:
    address, zone = str(instance.private_ip_address), str(instance.availability_zone)
    found: dict[str, Any] = {
        "ami-id": instance.image_id,
        "ami-launch-index": instance.ami_launch_index,
        "block-device-mapping": {"ami": instance.root_device_name, "root": instance.root_device_name},
        "hostname": instance.private_dns_name,
        "instance-action": "none",
        "instance-id": instance.id,
        "instance-life-cycle": instance.lifecycle or "on-demand",
        "instance-type": instance.instance_type,
        "local-hostname": instance.private_dns_name,
        "local-ipv4": address,
        "mac": instance.nics[0].mac_address,
        "network": {"interfaces": {"macs": {instance.nics[0].mac_address: _interface(instance)}}},
        "placement": {"availability-zone": zone, "region": backend.region_name},
        "profile": "default-hvm",
        "security-groups": "\n".join(sorted(str(group.name) for group in instance.security_groups)),
        "services": {"domain": _PARTITION_DOMAIN, "partition": backend.partition},
    }
    if instance.public_ip_address:
        found["public-ipv4"] = instance.public_ip_address
    if key := key_pair(backend, instance):
        found["public-keys"] = {"": f"0={key.key_name}", "0": {"openssh-key": key.public_key}}
    if instance.metadata_options.instance_metadata_tags == "enabled":
        tags = {tag["key"]: tag["value"] for tag in instance.get_tags()}
        found["tags"] = {"instance": tags}
    if profile := backend.iam_instance_profile_associations.get(instance.id):
        found["iam"] = _iam(profile.iam_instance_profile)
    return found


def _interface(instance: Instance) -> dict[str, Any]:
    nic = instance.nics[0]
    return {
        "device-number": 0,
        "interface-id": nic.id,
        "local-ipv4s": str(instance.private_ip_address),
        "mac": nic.mac_address,
        "owner-id": nic.owner_id,
        "subnet-id": str(instance.subnet_id),
        "vpc-id": str(instance.vpc_id),
    }


def _iam(profile: Any) -> dict[str, Any]:
    """Return fake credentials for the instance's role."""
    role = profile.roles[0].name if profile.roles else profile.name
    now = datetime.now(UTC)
    credentials = {
        "Code": "Success",
        "LastUpdated": now.strftime(_FORMAT),
        "Type": "AWS-HMAC",
        "AccessKeyId": "ASIAREHEARSALINSTANC",
        "SecretAccessKey": "rehearsal",
        "Token": "rehearsal",
        "Expiration": (now + timedelta(hours=6)).strftime(_FORMAT),
    }
    info = {
        "Code": "Success",
        "LastUpdated": now.strftime(_FORMAT),
        "InstanceProfileArn": profile.arn,
        "InstanceProfileId": profile.id,
    }
    return {
        "info": json.dumps(info, indent=2),
        "security-credentials": {role: json.dumps(credentials, indent=2)},
    }


def _identity(backend: EC2Backend, instance: Instance) -> str:
    document = {
        "accountId": backend.account_id,
        "architecture": instance.architecture,
        "availabilityZone": instance.availability_zone,
        "imageId": instance.image_id,
        "instanceId": instance.id,
        "instanceType": instance.instance_type,
        "pendingTime": instance.launch_time.strftime(_FORMAT),
        "privateIp": instance.private_ip_address,
        "region": backend.region_name,
        "version": "2017-09-30",
    }
    return json.dumps(document, indent=2)
