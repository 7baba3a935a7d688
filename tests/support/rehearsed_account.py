"""An account of a test with images in it, seen as the builder sees it: through a proxy that can disturb."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from builder.adapters.ami.publisher import AmiPublisher
from builder.adapters.ami.steps import Patience
from builder.adapters.aws.account import Account, tags_of
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.marks import KEY_TAG, RUN_TAG, SOURCE_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG
from builder.model import Publication
from builder.rehearsal.fence import ACCESS_KEY, SECRET_KEY
from builder.rehearsal.proxy import Proxy
from builder.site import AwsSettings
from tests.support.rehearsal import EAST, IRELAND, WEST, Clients

OTHER_ACCOUNT = "111122223333"
ORGANIZATION = "arn:aws:organizations::123456789012:organization/o-abc1234567"


def environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": EAST,
        "AWS_DEFAULT_REGION": EAST,
    }


@dataclass(frozen=True)
class AmiAccount:
    """One builder at work in the account; `aws` looks past the proxy."""

    aws: Clients
    proxy: Proxy
    workspace: Workspace
    target: str  # a name of its own for every test: they share the account

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

    def tags(self, *, key: str = "", run: str = "a-run") -> dict[str, str]:
        return {
            TARGET_TAG: self.target,
            KEY_TAG: key or f"key-of-{self.target}",
            STACK_TAG: "stack-1",
            SYSTEM_TAG: "debian-12",
            RUN_TAG: run,
        }

    def image(self, *, key: str = "", run: str = "a-run", name: str = "") -> str:
        """An image as Packer leaves it."""
        instance = self.aws.run()["InstanceId"]
        tags = [{"Key": name, "Value": value} for name, value in self.tags(key=key, run=run).items()]
        made = self.aws.ready_image(
            instance,
            Name=name or f"{self.target}-{uuid.uuid4().hex[:6]}",
            TagSpecifications=[{"ResourceType": "image", "Tags": tags}],
        )
        self.aws.ec2.terminate_instances(InstanceIds=[instance])
        return made

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
        """Where a parameter leads; "" if there is none."""
        answer = self.aws("ssm", region).get_parameters(Names=[name or self.latest])
        return next((str(one["Value"]) for one in answer["Parameters"]), "")

    def copies(self, home: str, region: str) -> list[dict[str, Any]]:
        filters = [{"Name": f"tag:{SOURCE_TAG}", "Values": [home]}]
        found = self.aws("ec2", region).describe_images(Owners=["self"], Filters=filters)
        return list(found["Images"])

    def family(self, home: str) -> dict[str, str]:
        """region → id, where there is exactly one."""
        found = {EAST: home}
        for region in (WEST, IRELAND):
            (one,) = self.copies(home, region)
            found[region] = one["ImageId"]
        return found

    def lacks(self, region: str, ami: str, *, by_name: bool = True) -> str:
        """What somebody who is led to the image would complain about."""
        found = self.aws("ec2", region).describe_images(Filters=[{"Name": "image-id", "Values": [ami]}])
        if not found["Images"]:
            return "is missing"
        (image,) = found["Images"]
        if image["State"] != "available":
            return f"is {image['State']}"
        if image.get("ImdsSupport") != "v2.0":
            return "answers without tokens"
        attribute = self.aws("ec2", region).describe_image_attribute(
            ImageId=ami, Attribute="launchPermission"
        )
        wanted = [{"UserId": OTHER_ACCOUNT}, {"OrganizationArn": ORGANIZATION}]
        return "" if all(one in attribute["LaunchPermissions"] for one in wanted) else "is not shared"

    def tags_of(self, region: str, ami: str) -> dict[str, str]:
        return tags_of(self.aws.describe(ami, region))
