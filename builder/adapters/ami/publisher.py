"""Publish an AMI: copy it to other regions, share it with accounts, and point SSM parameters at it.

Every step reads the current state first, so an interrupted publication can be resumed. A parameter always
points to an available, shared image: the new image or the previous one.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass

from builder.adapters.ami import journal, parameter_shares
from builder.adapters.ami import steps as steps
from builder.adapters.ami.ownership import builder_id
from builder.adapters.ami.steps import AGAIN, AmiRef, Patience, Sharing
from builder.adapters.aws.account import Account, Resource, calling_aws, specifications, tags_of
from builder.adapters.host.workspace import Run
from builder.errors import BuildError, PublishError
from builder.events import OnBytes, ignore_bytes
from builder.marks import KEY_TAG, SOURCE_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG
from builder.model import Artifact, Plan, Publication
from builder.site import AwsSettings

LATEST = "latest"
_ATTEMPTS = 3  # per region: CopyImage may return a deleted copy that has the same client token


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Names of an image's SSM parameters: `fixed` keeps its value, `moving` follows the newest image."""

    prefix: str
    target: str
    system: str
    arch: str
    version: str

    @classmethod
    def of(cls, prefix: str, tags: Mapping[str, str], arch: str) -> "Names":
        version = f"{tags[STACK_TAG]}-{tags[KEY_TAG][:12]}"
        return cls(
            prefix=prefix, target=tags[TARGET_TAG], system=tags[SYSTEM_TAG], arch=arch, version=version
        )

    @property
    def folder(self) -> str:
        system = self.system if self.arch == "x86_64" else f"{self.system}-{self.arch}"
        return f"{self.prefix}/{self.target}/{system}"

    @property
    def fixed(self) -> str:
        return f"{self.folder}/{self.version}/image_id"

    @property
    def moving(self) -> str:
        return f"{self.folder}/{LATEST}/image_id"


@dataclass(frozen=True, kw_only=True)
class AmiPublisher:
    """Publishes the AMIs of one account as [aws] in site.toml requires."""

    account: Account
    settings: AwsSettings
    patience: Patience
    run: Run | None = None  # needed only to publish
    force: bool = False  # also point parameters at an image older than their current one
    say: Callable[[str], object] = lambda _: None

    @property
    def regions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.account.region, *self.settings.copy_regions)))

    @property
    def sharing(self) -> Sharing:
        return Sharing(accounts=self.settings.share_accounts, organizations=self.settings.share_organizations)

    def holds(self, publication: Publication) -> bool:
        """True if each region's SSM parameters point to the image or to a copy with the required settings."""
        region, _, ami = publication.name.partition("/")
        if region != self.account.region or not publication.tags:
            return False
        return all(self._points_to(region, publication.tags, ami) for region in self.regions)

    def _points_to(self, region: str, names: tuple[str, ...], home: str) -> bool:
        values = steps.read_parameters(self.account, region, names)
        amis = {values.get(name, "") for name in names}
        if len(amis) != 1 or "" in amis or not self._is_readable(region, names):
            return False
        ref = AmiRef(account=self.account, region=region, ami=amis.pop())
        image = ref.find()
        if image is None or home not in (ref.ami, tags_of(image).get(SOURCE_TAG)):
            return False
        return not self._defect(ref, image)

    def publish(self, plan: Plan, artifact: Artifact, on_bytes: OnBytes = ignore_bytes) -> Publication:
        del on_bytes  # EC2 does not say how far a copy is
        known = {
            TARGET_TAG: plan.target.name,
            KEY_TAG: plan.key,
            STACK_TAG: plan.stack.name,
            SYSTEM_TAG: plan.system.name,
            **(plan.system.ami.tags if plan.system.ami else {}),
        }
        return self.publish_image(artifact.reference, known)

    def publish_image(self, ami: str, known: Mapping[str, str]) -> Publication:
        """Publish an AMI; `known` has the tags to set in addition to those that the image has."""
        assert self.run is not None
        home = AmiRef(account=self.account, region=self.account.region, ami=ami)
        with _as_publish_errors(), self.run.locked(f"publish-{known[TARGET_TAG]}-{known[SYSTEM_TAG]}"):
            image = home.load()
            if image["State"] != "available":
                raise PublishError(f"{home} is in state '{image['State']}', not available", hint=AGAIN)
            wanted = {**steps.own_tags(image), **known}
            names = Names.of(self.settings.parameters, wanted, image["Architecture"])
            self._require_newer(home, image, names)
            encrypted = _is_encrypted(image)
            self._require_shareable(image["ImageId"], encrypted=encrypted)
            self.finish(home, wanted)
            refs = [home, *self._copy_all(home, wanted)]
            for ref in refs:
                self._verify(ref)
            self._require_newer(home, image, names)  # again: copies take hours
            for name in (names.fixed, names.moving):
                for ref in refs:
                    self._point(ref, name)
        return Publication(
            name=str(home),
            digest=ami,
            tags=(names.fixed, names.moving),
        )

    @property
    def _shares_parameters(self) -> bool:
        return self.settings.share_parameters and bool(self.sharing)

    def _is_readable(self, region: str, names: Iterable[str]) -> bool:
        """True if the site shares no SSM parameters, or if all accounts in `sharing` can read these."""
        prefix = self.settings.parameters
        return not self._shares_parameters or parameter_shares.is_shared(
            self.account, region, names, self.sharing, prefix=prefix
        )

    def _point(self, ref: AmiRef, name: str) -> None:
        """Point a parameter at an image, then let the accounts that the image is shared with read it."""
        self.say(f"{name} in {ref.region}: {ref.ami}")
        if not self._shares_parameters:
            steps.point(ref, name, self.patience)
            return
        assert self.run is not None
        again = not self._is_readable(ref.region, [name])
        steps.point(ref, name, self.patience, tier="Advanced", again=again)
        shared = parameter_shares.share(
            ref.account,
            ref.region,
            [name],
            self.sharing,
            prefix=self.settings.parameters,
            builder=builder_id(self.run.workspace),
        )
        self.say(f"readable by other accounts: {', '.join(shared)}")

    def _require_newer(self, home: AmiRef, image: Resource, names: Names) -> None:
        """Raise PublishError if an SSM parameter in any region points to a newer image."""
        for region in () if self.force else self.regions:
            values = steps.read_parameters(self.account, region, (names.fixed, names.moving))
            for name, ami in values.items():
                current = self._original(AmiRef(account=self.account, region=region, ami=ami))
                if current and current["CreationDate"] > image["CreationDate"]:
                    raise PublishError(
                        f"{name} in {region} points to {ami} of {current['CreationDate']},"
                        f" and {home} is older ({image['CreationDate']})",
                        hint="publish a newer image, or re-run the command with --force",
                    )

    def _original(self, ref: AmiRef) -> Resource | None:
        """Return the image of which `ref` is a copy, or else the image `ref`; None if it does not exist."""
        found = ref.find()
        source = tags_of(found).get(SOURCE_TAG) if found else None
        return (self.account.image(source) if source else None) or found

    def finish(self, ref: AmiRef, wanted: Mapping[str, str]) -> None:
        """Tag, share, deprecate and protect an image, and require IMDSv2 on its instances."""
        steps.require_tokens(ref)
        steps.tag(ref, wanted)
        steps.share(ref, self.sharing)
        steps.deprecate(ref, after_days=self.settings.deprecate_after_days)
        steps.protect(ref)

    def _defect(self, ref: AmiRef, image: Resource) -> str:
        """Return the reason why an image must not be published; empty if there is none."""
        if image["State"] != "available":
            return f"its state is '{image['State']}'"
        if image.get("ImdsSupport") != "v2.0":
            return "it does not require metadata tokens"
        if not steps.is_shared(ref, image, self.sharing):
            return "it is not shared as [aws] in site.toml requires"
        return ""

    def _verify(self, ref: AmiRef) -> None:
        if defect := self._defect(ref, ref.load()):
            raise PublishError(f"{ref} cannot be published: {defect}", hint=AGAIN)

    def require_publishable(self, plan: Plan) -> None:
        """Fail early if the site's settings make publishing impossible."""
        assert plan.target.ami is not None
        encrypted = self.settings.encrypt and plan.target.ami.encryptable
        self._require_shareable(f"target '{plan.target.name}'", encrypted=encrypted)

    def _require_shareable(self, subject: str, *, encrypted: bool) -> None:
        """Raise PublishError if the encryption key of an image prevents sharing or copying.

        Other accounts cannot use an AWS managed key; a copy needs a key whose alias exists in every region.
        """
        if not encrypted:
            return
        key = self.settings.kms_key
        if self.sharing and not key:
            raise PublishError(
                f"{subject} is encrypted with an AWS managed key and cannot be shared",
                hint="set aws.kms_key in site.toml, then build again",
            )
        if len(self.regions) > 1 and key and not key.startswith("alias/"):
            raise PublishError(
                f"{subject} cannot be copied: other regions do not have the key {key}",
                hint='set aws.kms_key = "alias/…" in site.toml to an alias that exists in every region',
            )

    def _copy_all(self, home: AmiRef, wanted: Mapping[str, str]) -> list[AmiRef]:
        """Copy an image to all other regions in parallel; raise the first error after all have ended."""
        others = [region for region in self.regions if region != home.region]
        if not others:
            return []
        with ThreadPoolExecutor(len(others), thread_name_prefix="copy") as pool:
            futures: list[Future[AmiRef]] = [
                pool.submit(self.copy, home, region, wanted) for region in others
            ]
            wait(futures)
        return [future.result() for future in futures]

    def copy(self, home: AmiRef, region: str, wanted: Mapping[str, str]) -> AmiRef:
        """Find or create an image's copy in another region, wait until it is available, and `finish` it."""
        tags = {**wanted, SOURCE_TAG: home.ami}
        failed: list[str] = []
        for _ in range(_ATTEMPTS):
            ref = self._find_copy(home, region) or self._begin_copy(home, region, tags, failed)
            state = self._wait_for_copy(ref)
            if state == "available":
                self.finish(ref, tags)
                return ref
            failed.append(ref.ami)
            if state == "failed":
                reason = ref.load().get("StateReason", {}).get("Message", "EC2 gave no reason")
                steps.remove(ref, tags)
                raise PublishError(f"the copy of {home} to {region} failed: {reason}", hint=AGAIN)
        raise PublishError(f"copying {home} to {region} failed: each new copy disappeared", hint=AGAIN)

    def _find_copy(self, home: AmiRef, region: str) -> AmiRef | None:
        found = self.account.images({SOURCE_TAG: home.ami}, region=region)
        usable = [image for image in found if image["State"] in ("available", "pending")]
        # Return the oldest copy, so that concurrent publications use the same copy.
        return AmiRef(account=self.account, region=region, ami=usable[-1]["ImageId"]) if usable else None

    def _begin_copy(
        self, home: AmiRef, region: str, tags: Mapping[str, str], failed: Iterable[str]
    ) -> AmiRef:
        assert self.run is not None
        image = home.load()
        key = self.settings.kms_key if _is_encrypted(image) else ""
        token = hashlib.sha256(" ".join((home.ami, region, *failed)).encode()).hexdigest()
        self.say(f"copying {home} to {region}")
        with (
            journal.permanent(self.run, self.account, "copy", image["Name"], region=region) as created,
            calling_aws(f"copying {home} to {region}"),
        ):
            answer = self.account.client("ec2", region).copy_image(
                SourceImageId=home.ami,
                SourceRegion=home.region,
                Name=image["Name"],
                Description=image.get("Description", ""),
                ClientToken=token,
                TagSpecifications=specifications(tags, ["image", "snapshot"]),
                **({"Encrypted": True, "KmsKeyId": key} if key else {}),
            )
            created.id = answer["ImageId"]
        return AmiRef(account=self.account, region=region, ami=created.id)

    def _wait_for_copy(self, ref: AmiRef) -> str:
        """Wait until a copy is no longer pending; return its state, or "gone" if it has disappeared."""
        seen_s = time.monotonic()

        def end_state() -> str:
            nonlocal seen_s
            found = ref.find()
            if found is None:
                return "gone" if time.monotonic() - seen_s > self.patience.appear_s else ""
            seen_s = time.monotonic()
            return "" if found["State"] == "pending" else str(found["State"])

        state = self.patience.until(end_state, timeout_s=self.patience.copy_s)
        if not state:
            raise PublishError(
                f"{ref} is still pending after {self.patience.copy_s / 60:.0f} min",
                hint="re-run the command; it resumes waiting",
            )
        return state


def _is_encrypted(image: Resource) -> bool:
    return any(disk.get("Ebs", {}).get("Encrypted") for disk in image.get("BlockDeviceMappings", ()))


@contextmanager
def _as_publish_errors() -> Iterator[None]:
    """Re-raise a BuildError of any publication step as a PublishError."""
    try:
        yield
    except BuildError as error:
        raise PublishError(error.message, hint=error.hint, details=error.details) from error
