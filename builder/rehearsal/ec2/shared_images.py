"""Let an account of a rehearsal find and start images that other accounts share with it, as in EC2."""

from collections.abc import Iterable, Mapping
from typing import Any

from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.amis import Ami
from moto.ec2.models.elastic_block_store import Snapshot
from moto.ec2.utils import generic_filter


class SharedImages(EC2Backend):
    """EC2 in one region of an account, with the images that launch permissions let it start."""

    __module__ = "moto.ec2.models"  # moto derives the service from it

    def shared_images(self) -> dict[str, Ami]:
        """Return the images of other accounts that this account may start, by id."""
        backends = [
            dict.get(regions, self.region_name)  # does not create the backend, as indexing would
            for account, regions in list(ec2_backends.items())
            if account != self.account_id
        ]
        return {
            image.id: image
            for backend in backends
            if backend is not None
            for image in list(backend.amis.values())
            if {"UserId": self.account_id} in image.launch_permissions
        }

    def get_snapshot(self, snapshot_id: str) -> Snapshot:
        """Return a snapshot of this account, or of an image that another account shares with it."""
        for image in self.shared_images().values():
            if image.ebs_snapshot.id == snapshot_id:
                found: Snapshot = image.ebs_snapshot
                return found
        return super().get_snapshot(snapshot_id)

    def describe_images(  # type: ignore[override]
        self, ami_ids: list[str] | None = None, **selectors: Any
    ) -> list[Ami]:
        shared = self.shared_images()
        own = [ami for ami in ami_ids or () if ami not in shared]
        found = super().describe_images(ami_ids=own, **selectors) if own or not ami_ids else []
        return [*found, *_selected(shared, ami_ids, self.account_id, **selectors)]


def _selected(
    shared: Mapping[str, Ami],
    ami_ids: list[str] | None,
    account: str,
    *,
    filters: Any = None,
    owners: Iterable[str] | None = None,
    exec_users: Iterable[str] | None = None,
) -> list[Ami]:
    """Return the images that other accounts share with an account and that a request selects."""
    if ami_ids:
        return [shared[ami] for ami in ami_ids if ami in shared]
    found = [
        image
        for image in shared.values()
        if (not owners or image.owner_id in owners) and (not exec_users or {"self", account} & {*exec_users})
    ]
    return list(generic_filter(filters, found)) if filters else found
