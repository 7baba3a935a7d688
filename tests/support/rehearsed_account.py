"""A rehearsed account for tests of AMIs, reached through a proxy that can inject faults."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from builder.adapters.ami.ownership import builder_id
from builder.adapters.ami.publisher import AmiPublisher
from builder.adapters.ami.steps import Patience
from builder.adapters.aws.account import Account, specifications, tags_of
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.marks import BUILDER_TAG, KEY_TAG, RUN_TAG, SOURCE_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG
from builder.model import Publication
from builder.rehearsal.gate import Key as Credentials
from builder.rehearsal.proxy import Proxy
from builder.site import AwsSettings
from tests.support.rehearsal import EAST, IRELAND, KEY, WEST, Clients

OTHER_ACCOUNT = "111122223333"
ORGANIZATION = "arn:aws:organizations::123456789012:organization/o-abc1234567"


def environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY.access,
        "AWS_SECRET_ACCESS_KEY": KEY.secret,
        "AWS_REGION": EAST,
        "AWS_DEFAULT_REGION": EAST,
    }


def in_account(aws: Clients, account: str) -> Clients:
    """Return clients with the credentials of a role in another account."""
    role = f"arn:aws:iam::{account}:role/consumer"
    given = aws("sts").assume_role(RoleArn=role, RoleSessionName="consumer")["Credentials"]
    key = Credentials(
        access=given["AccessKeyId"], secret=given["SecretAccessKey"], token=given["SessionToken"]
    )
    return Clients(aws.endpoint, key)


@dataclass(frozen=True)
class AmiAccount:
    """Rehearsed account behind a proxy that can inject faults; the clients in `aws` bypass the proxy."""

    aws: Clients
    proxy: Proxy
    workspace: Workspace
    target: str  # unique for each test, because tests share the account

    @classmethod
    def open(cls, aws: Clients, proxy: Proxy, folder: Path) -> "AmiAccount":
        workspace = Workspace(home=folder / "home", out=folder / "out")
        return cls(aws, proxy, workspace, f"image-{uuid.uuid4().hex[:8]}")

    @property
    def settings(self) -> AwsSettings:
        return AwsSettings(
            copy_regions=(WEST, IRELAND),
            share_accounts=(OTHER_ACCOUNT,),
            share_organizations=(ORGANIZATION,),
            deprecate_after_days=400,
        )

    @cached_property
    def account(self) -> Account:
        return Account(environment(self.proxy.endpoint), region=EAST)

    @property
    def builder(self) -> str:
        return builder_id(self.workspace)

    def tags(self, *, key: str = "", run: str = "a-run") -> dict[str, str]:
        return {
            TARGET_TAG: self.target,
            KEY_TAG: key or f"key-of-{self.target}",
            STACK_TAG: "stack-1",
            SYSTEM_TAG: "debian-12",
            RUN_TAG: run,
            BUILDER_TAG: self.builder,
        }

    def image(self, *, key: str = "", run: str = "a-run", name: str = "") -> str:
        """Create an AMI with the tags that Packer sets; return the AMI id."""
        instance = self.aws.run()["InstanceId"]
        image = self.aws.ready_image(
            instance,
            Name=name or f"{self.target}-{uuid.uuid4().hex[:6]}",
            TagSpecifications=specifications(self.tags(key=key, run=run), ["image", "snapshot"]),
        )
        self.aws.ec2.terminate_instances(InstanceIds=[instance])
        return image

    @contextmanager
    def run(self, label: str = "test") -> Iterator[Run]:
        with open_run(self.workspace, label) as run:
            yield run

    def publisher(self, run: Run | None, *, copy_s: float = 20.0) -> AmiPublisher:
        cancelled = run.cancelled if run else threading.Event()
        patience = Patience(every_s=0.02, copy_s=copy_s, appear_s=0.1, cancelled=cancelled)
        return AmiPublisher(account=self.account, settings=self.settings, run=run, patience=patience)

    def publish(self, ami: str, *, key: str = "", copy_s: float = 20.0) -> Publication:
        with self.run() as run:
            publisher = self.publisher(run, copy_s=copy_s)
            tags = {name: value for name, value in self.tags(key=key).items() if name != RUN_TAG}
            return publisher.publish_image(ami, tags)

    @property
    def latest(self) -> str:
        return f"/image-factory/{self.target}/debian-12/latest/image_id"

    def pointer(self, region: str, name: str = "") -> str:
        """Return the value of an SSM parameter; "" if it does not exist."""
        answer = self.aws("ssm", region).get_parameters(Names=[name or self.latest])
        return next((str(parameter["Value"]) for parameter in answer["Parameters"]), "")

    def copies(self, home: str, region: str) -> list[dict[str, Any]]:
        filters = [{"Name": f"tag:{SOURCE_TAG}", "Values": [home]}]
        found = self.aws("ec2", region).describe_images(Owners=["self"], Filters=filters)
        return list(found["Images"])

    def family(self, home: str) -> dict[str, str]:
        """Return the ids of an AMI and its copies by region; fail unless each region has exactly one copy."""
        found = {EAST: home}
        for region in (WEST, IRELAND):
            (copy,) = self.copies(home, region)
            found[region] = copy["ImageId"]
        return found

    def lacks(self, region: str, ami: str, *, by_name: bool = True) -> str:
        """Return the first defect of a published AMI: "is missing", "is pending", …; "" without defects."""
        found = self.aws("ec2", region).describe_images(Filters=[{"Name": "image-id", "Values": [ami]}])
        if not found["Images"]:
            return "is missing"
        (image,) = found["Images"]
        if image["State"] != "available":
            return f"is {image['State']}"
        if image.get("ImdsSupport") != "v2.0":
            return "accepts IMDSv1 requests"
        attribute = self.aws("ec2", region).describe_image_attribute(
            ImageId=ami, Attribute="launchPermission"
        )
        wanted = [{"UserId": OTHER_ACCOUNT}, {"OrganizationArn": ORGANIZATION}]
        permissions = attribute["LaunchPermissions"]
        return "" if all(permission in permissions for permission in wanted) else "is not shared"

    def tags_of(self, region: str, ami: str) -> dict[str, str]:
        return tags_of(self.aws.describe(ami, region))
