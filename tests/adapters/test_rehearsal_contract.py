"""The private names and signatures of moto that the rehearsal depends on.

If a test fails after an update of moto, read moto's change log, then adapt the rehearsal and this table.
"""

import inspect
from importlib import import_module
from typing import Any

import pytest

# Parameters of each private function of moto that the rehearsal overrides or calls.
SIGNATURES = {
    "core.base_backend:BackendDict._instances": "",
    "core.base_backend:AccountSpecificBackend.__getitem__": "self, region_name",
    "core.responses:BaseResponse._get_param": "self, param_name, if_none",
    "core.responses:BaseResponse.call_action": "self",
    "core.responses:BaseResponse.dispatch": "args, kwargs",
    "core.responses:BaseResponse.serialized": "self, action_result",
    "ec2.models.amis:Ami.__init__": (
        "self, ec2_backend, ami_id, instance, source_ami, name, description, owner_id, owner_alias, public,"
        " virtualization_type, architecture, state, creation_date, platform, image_type, image_location,"
        " hypervisor, root_device_type, root_device_name, sriov, region_name, snapshot_description,"
        " product_codes, boot_mode, tags"
    ),
    "ec2.models.amis:Ami.block_device_mappings": "",
    "ec2.models.amis:AmiBackend.copy_image": "self, source_image_id, source_region, name, description",
    "ec2.models.amis:AmiBackend.create_image": "self, instance_id, name, description, tag_specifications",
    "ec2.models.amis:AmiBackend.deregister_image": "self, ami_id",
    "ec2.models.amis:AmiBackend.describe_images": "self, ami_ids, filters, exec_users, owners",
    "ec2.models.amis:AmiBackend.disable_image": "self, ami_id",
    "ec2.models.amis:AmiBackend.enable_image": "self, ami_id",
    "ec2.models.amis:AmiBackend.modify_image_attribute": (
        "self, ami_id, launch_permissions_to_add, launch_permissions_to_remove"
    ),
    "ec2.models.elastic_block_store:EBSBackend.describe_snapshots": "self, snapshot_ids, filters",
    "ec2.models.amis:AmiBackend.register_image": "self, name, description",
    "ec2.models.elastic_block_store:EBSBackend.delete_snapshot": "self, snapshot_id",
    "ec2.models.elastic_block_store:EBSBackend.get_volume": "self, volume_id",
    "ec2.models.elastic_network_interfaces:NetworkInterface.check_auto_public_ip": "self",
    "ec2.models.elastic_network_interfaces:NetworkInterfaceBackend.create_network_interface": (
        "self, subnet, private_ip_address, private_ip_addresses, group_ids, description, tags,"
        " delete_on_termination, kwargs"
    ),
    "ec2.models.iam_instance_profile:IamInstanceProfileAssociationBackend.associate_iam_instance_profile": (
        "self, instance_id, iam_instance_profile_name, iam_instance_profile_arn"
    ),
    "ec2.models.instances:Instance.prep_nics": (
        "self, nic_spec, private_ip, associate_public_ip, security_groups, ipv6_address_count"
    ),
    "ec2.models.instances:Instance.public_dns_name": "",
    "ec2.models.instances:InstanceBackend.all_reservations": "self, filters",
    "ec2.models.instances:InstanceBackend.get_multi_instances_by_id": "self, instance_ids, filters",
    "ec2.models.instances:InstanceBackend.modify_instance_metadata_options": (
        "self, instance_id, http_tokens, hop_limit, http_endpoint, dry_run, http_protocol, metadata_tags"
    ),
    "ec2.models.instances:InstanceBackend.reboot_instances": "self, instance_ids",
    "ec2.models.instances:InstanceBackend.run_instances": (
        "self, image_id, count, user_data, security_group_names, kwargs"
    ),
    "ec2.models.instances:InstanceBackend.start_instances": "self, instance_ids",
    "ec2.models.instances:InstanceBackend.stop_instances": "self, instance_ids",
    "ec2.models.instances:InstanceBackend.terminate_instances": "self, instance_ids",
    "ec2.models.instance_types:INSTANCE_TYPES": "",
    "ec2.models.internet_gateways:InternetGatewayBackend.attach_internet_gateway": (
        "self, internet_gateway_id, vpc_id"
    ),
    "ec2.models.route_tables:Route.__init__": (
        "self, route_table, destination_cidr_block, destination_ipv6_cidr_block, destination_prefix_list,"
        " local, gateway, instance, nat_gateway, egress_only_igw, transit_gateway, interface, vpc_pcx,"
        " carrier_gateway, vpc_endpoint_id"
    ),
    "ec2.models.route_tables:RouteBackend.describe_route_tables": "self, route_table_ids, filters",
    "ec2.models.tags:TagBackend.describe_tags": "self, filters",
    "ec2.models.tags:TagBackend.create_tags": "self, resource_ids, tags",
    "ec2.models.tags:TagBackend.delete_tags": "self, resource_ids, tags",
    "ec2.responses._base_response:EC2BaseResponse._filters_from_querystring": "self",
    "ec2.responses.instances:InstanceResponse._parse_block_device_mapping": "self",
    "ec2.responses.instances:InstanceResponse._validate_block_device_mapping": "device_mapping",
    "ecr.models:ECRBackend._get_repository": "self, name, registry_id",
    "ecr.models:ECRBackend._resolve_image_tag_mutability": "self, repository, proposed_image_tag",
    "ecr.models:ECRBackend.batch_check_layer_availability": (
        "self, repository_name, layer_digests, registry_id"
    ),
    "ecr.models:ECRBackend.batch_delete_image": "self, repository_name, registry_id, image_ids",
    "ecr.models:ECRBackend.delete_repository": "self, repository_name, registry_id, force",
    "ecr.models:ECRBackend.put_image": (
        "self, repository_name, image_manifest, image_tag, image_manifest_mediatype, digest"
    ),
    "ecr.models:Image.__init__": (
        "self, account_id, tag, manifest, repository, image_manifest_mediatype, digest, registry_id"
    ),
    "ecr.models:Image.get_image_size_in_bytes": "self",
    "ecr.models:Repository._get_image": "self, image_tag, image_digest",
    "ecr.responses:ECRResponse.get_authorization_token": "self",
    "ssm.models:ParameterDict.__init__": "self, account_id, region_name",
    "ssm.models:SimpleSystemManagerBackend.put_parameter": (
        "self, name, description, value, parameter_type, allowed_pattern, keyid, overwrite, tags, data_type,"
        " tier, policies"
    ),
}


def find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = import_module(f"moto.{module}")
    for part in path.split("."):
        found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
    return found


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_private_function_of_moto_has_the_expected_parameters(name: str) -> None:
    found = find(name)
    called = getattr(found, "__func__", found)
    if SIGNATURES[name]:
        parameters = list(inspect.signature(called).parameters)
        if name == "core.responses:BaseResponse.dispatch":
            parameters.remove("cls")
        assert ", ".join(parameters) == SIGNATURES[name]


def test_replaced_attributes_exist_in_moto() -> None:
    from builder.rehearsal.ec2.backends import REPLACED

    for owner, name, value in REPLACED:
        before = inspect.getattr_static(owner, name)
        if name == "backend":
            assert issubclass(value, before), f"{value} does not extend {before}"
        if name == "url_paths":
            assert list(before) == list(value)[: len(before)], f"{owner.__name__} has new routes"


def test_every_override_has_a_method_of_moto_to_override() -> None:
    """If moto renames a method, our override of it would silently have no effect."""
    from builder.rehearsal import identity, sharing
    from builder.rehearsal.ec2 import actions, cloud, images, parameters, sessions, shared_images
    from builder.rehearsal.registry import ecr

    ours = {
        images.Image: {"deregistration_protection", "state", "image_location"},
        images.ImageBackend: {
            *("seed_image", "own_image", "tag_image", "delete_unused", "set_fast_restore"),
            *("deprecate", "protect", "unprotect", "_fixed", "_new_image", "_check_name"),
            *("_capture", "_completion", "_wait_for", "_unlisted"),
        },
        cloud.Cloud: {
            *("once", "_run", "_resolve_parameter", "_launchable_image", "_boot", "_update_metadata"),
            *("every_instance", "finish_starting", "metadata_defaults", "_open_default_vpc"),
            *("_assign_addresses", "_route_of", "_require_quota"),
        },
        parameters.Parameters: {"_new_parameter"},
        shared_images.SharedImages: {"shared_images"},
        sharing.ShareActions: {"associate_resource_share", "_share"},
        identity.Callers: set(),
        sessions.SessionActions: {"start_session", "terminate_session", "_has_agent"},
        ecr.RehearsedEcr: {"record", "is_immutable", "_storage"},
        ecr.StoredImage: set(),
        ecr.EcrActions: set(),
        actions.Actions: {
            *("_refuse", "_flag", "_on_image", "_fast_restores", "_fast_restore"),
            *("enable_image_deprecation", "disable_image_deprecation"),
            *("enable_image_deregistration_protection", "disable_image_deregistration_protection"),
            *("enable_fast_snapshot_restores", "disable_fast_snapshot_restores"),
            *("describe_fast_snapshot_restores", "enable_fast_launch", "disable_fast_launch"),
            *("describe_fast_launch_images", "get_instance_metadata_defaults"),
            *("get_ebs_default_kms_key_id", "describe_capacity_reservations", "_reservation"),
        },
    }
    for kind, own in ours.items():
        (base,) = kind.__bases__
        written = {
            name for name, value in vars(kind).items() if callable(value) or isinstance(value, property)
        }
        removed = {name for name in written - own if not hasattr(base, name)}
        assert removed == set(), f"{kind.__name__} overrides methods that {base.__name__} no longer has"
        known = {name for name in own if hasattr(base, name)} - {"state", "image_location"}
        assert known == set(), f"{base.__name__} now has these methods itself: are ours still needed?"


def test_signature_table_was_written_for_the_installed_version_of_moto() -> None:
    from moto import __version__

    assert __version__.startswith("5.2."), "read moto's change log, then adapt the table above"
