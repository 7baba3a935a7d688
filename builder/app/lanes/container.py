"""The lane of container images: builds layers in the engine, checks images in containers, pushes images.

A build with nothing to do imports only this module; makers and publishers are imported when needed.
"""

import shlex
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from builder.adapters.container.finder import EngineFinder, missing_layers
from builder.adapters.engine.client import Engine
from builder.app.context import Context
from builder.app.lanes.lane import Lane, Request, Work, require_layers
from builder.errors import UsageError
from builder.launch.section import flavour_option
from builder.lock import ACCOUNT, LOCAL
from builder.model import Plan, Receipt
from builder.pipeline import Search, Tools
from builder.plan import to_rebuild
from builder.ports import Ledger, Publisher
from builder.site import ECR


class ContainerLane(Lane):
    """The lane of targets of kind `container`."""

    def __init__(self, context: Context, cancelled: threading.Event) -> None:
        self._context = context
        self._cancelled = cancelled
        self._engine = Engine()
        self._finder = EngineFinder(self._engine)

    def require_buildable(self, plan: Plan) -> None:
        registry = self._context.site.registry
        if self._context.site_name == ACCOUNT and not registry.is_ecr:
            found = f"is '{registry.push}'" if registry.push else "is not set"
            raise UsageError(
                f"target '{plan.target.name}': site '{ACCOUNT}' publishes containers to ECR,"
                f" and registry.push in site.toml {found}",
                hint=f'set registry.push = "{ECR}" in site.toml, or pass --site {LOCAL}',
            )

    def require_supported(self, plans: Sequence[Plan], request: Request) -> None:
        require_layers(plans, request.rebuild)

    def prepare(self, plans: Sequence[Plan], *, publish: bool) -> None:
        del publish
        self._finder.expect(plans)

    def search(self, ledger: Ledger, *, publish: bool) -> Search:
        publisher = self._publisher if publish else None
        return Search(finder=self._finder, ledger=ledger, publisher=publisher)

    def missing_layers(self, plan: Plan, request: Request) -> Sequence[str]:
        return missing_layers(self._finder.images, plan, to_rebuild(plan, request.rebuild))

    def reuse(self, receipt: Receipt) -> None:
        """Set the target's tag again if it was removed or is on another image."""
        plan = receipt.plan
        if not self._finder.is_tagged(plan):
            self._engine.tag(receipt.artifact.reference, plan.target.name, plan.stack.name)

    def begin(self, work: Work) -> Tools:
        from builder.app.lanes.container_work import ContainerWork

        search = self.search(work.ledger, publish=work.request.publish)
        if search.publisher and work.request.force:
            search = replace(search, publisher=self._open_publisher(force=True))
        self._work = ContainerWork(self._context, self._engine, search, work)
        return self._work.tools

    def stop(self) -> None:
        self._work.stop()

    def end(self) -> None:
        self._work.end()

    def base_source(self, plan: Plan) -> Sequence[tuple[str, str]]:
        return [(plan.base_image, "its registry")] if plan.base_image else []

    def next_command(self, receipt: Receipt) -> str:
        plan = receipt.plan
        if plan.target.launch is None:
            return f"docker run --rm {receipt.artifact.reference}"
        arguments = shlex.join(plan.target.launch.first_run)
        command = f"builder run {plan.target.name}{flavour_option(plan)}"
        return f"{command} -- {arguments}" if arguments else command

    @cached_property
    def _publisher(self) -> Publisher:
        return self._open_publisher(force=False)

    def _open_publisher(self, *, force: bool) -> Publisher:
        from builder.app.lanes.publishing import open_publisher

        return open_publisher(self._context, self._engine, self._cancelled, force=force)
