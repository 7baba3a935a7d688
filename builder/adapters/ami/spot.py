"""Find and delete the launch template and the fleet that Packer creates for a spot instance.

Packer's launch template has a random name and no tags, but its data contain the run's key pair name. With
`spot_tags`, Packer would tag the template, but would crash if EC2 does not yet report the spot request.
"""

from collections.abc import Collection, Iterator, Mapping

from builder.adapters.aws.account import Account, Resource, calling_aws, ignoring, tags_of
from builder.errors import BuildError
from builder.marks import BUILDER_TAG, RUN_TAG

TEMPLATE, FLEET = KINDS = ("launch-template", "fleet")  # kinds of journal entries
_PREFIX = "packer-fleet-launch-template-"
_ABSENT = "fleetIdDoesNotExist"
_RECLAIMED = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")


def reclaimed(account: Account, tags: Mapping[str, str]) -> str:
    """Return the id of a spot instance with these tags that EC2 has reclaimed, or ""."""
    filters = [{"Name": f"tag:{name}", "Values": [value]} for name, value in tags.items() if value]
    with calling_aws("describing the spot instance"):
        found = account.client("ec2").describe_instances(Filters=filters)["Reservations"]
    for instance in (each for reservation in found for each in reservation["Instances"]):
        if instance.get("StateReason", {}).get("Code") in _RECLAIMED:
            return str(instance["InstanceId"])
    return ""


def templates(account: Account, region: str) -> Iterator[tuple[str, Resource]]:
    """Yield (id, data) of the launch templates of Packer."""
    pages = account.client("ec2", region).get_paginator("describe_launch_template_versions")
    with calling_aws(f"listing launch templates in {region}"):
        for page in pages.paginate(Versions=["$Latest"]):
            for version in page["LaunchTemplateVersions"]:
                if str(version["LaunchTemplateName"]).startswith(_PREFIX):
                    yield str(version["LaunchTemplateId"]), version["LaunchTemplateData"]


def fleets(account: Account, region: str, tags: Mapping[str, str]) -> list[str]:
    """Return the ids of existing fleets with these tags; "*" matches any value."""
    ec2 = account.client("ec2", region)
    filters = [{"Name": "resource-type", "Values": [FLEET]}, {"Name": "key", "Values": list(tags)}]
    found: dict[str, dict[str, str]] = {}
    with calling_aws(f"listing fleets in {region}"):
        for page in ec2.get_paginator("describe_tags").paginate(Filters=filters):
            for tag in page["Tags"]:
                found.setdefault(tag["ResourceId"], {})[tag["Key"]] = tag["Value"]
        own = [
            fleet
            for fleet, given in found.items()
            if given.keys() == tags.keys() and all(tags[key] in ("*", given[key]) for key in tags)
        ]
        # EC2 lists an instant fleet only in a request with its id, and a deleted fleet for hours.
        listed = ec2.describe_fleets(FleetIds=own)["Fleets"] if own else []
    return [each["FleetId"] for each in listed if not str(each["FleetState"]).startswith("deleted")]


def delete_template(account: Account, region: str, template: str) -> None:
    with calling_aws(f"deleting {template}"), ignoring("InvalidLaunchTemplateId.NotFound"):
        account.client("ec2", region).delete_launch_template(LaunchTemplateId=template)


def delete_fleet(account: Account, region: str, fleet: str) -> None:
    """Delete a fleet; EC2 also terminates its instances."""
    with calling_aws(f"deleting {fleet}"):
        answer = account.client("ec2", region).delete_fleets(FleetIds=[fleet], TerminateInstances=True)
    for failed in answer.get("UnsuccessfulFleetDeletions", ()):
        error = failed["Error"]
        if error["Code"] != _ABSENT:
            raise BuildError(f"deleting {fleet}: {error['Code']}: {error['Message']}", hint="builder clean")


def delete_all(account: Account, region: str, keys: Collection[str], tags: Mapping[str, str]) -> list[str]:
    """Delete launch templates with a key pair in `keys`, and fleets with `tags`; return the deleted ids.

    A launch template whose instances get tags of another run or builder stays.
    """
    found = [
        template
        for template, data in templates(account, region)
        if data.get("KeyName") in keys and _has_no_foreign_tags(data, tags)
    ]
    for template in found:
        delete_template(account, region, template)
    ended = fleets(account, region, tags)
    for fleet in ended:
        delete_fleet(account, region, fleet)
    return [*found, *ended]


def _has_no_foreign_tags(data: Resource, tags: Mapping[str, str]) -> bool:
    """True if all tags in a launch template name the run and the builder in `tags`, or if it has none."""
    given = map(tags_of, data.get("TagSpecifications", ()))
    return all(found.get(name) == tags[name] for found in given for name in (RUN_TAG, BUILDER_TAG))


def is_of_factory(data: Resource) -> bool:
    """True if the instances of a launch template get the tags of a run and of a builder."""
    return any(
        {RUN_TAG, BUILDER_TAG} <= {*tags_of(specification)}
        for specification in data.get("TagSpecifications", ())
    )
