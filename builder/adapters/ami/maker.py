"""Find or build the AMI of a plan: Packer starts an instance, Ansible applies roles, EC2 captures the image.

A build starts from the deepest checkpoint of the plan, and makes the checkpoints that are missing.

Every resource is created with the run's name in its name and in its tags. The account may be real or
rehearsed; this module does not distinguish them.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from builder.adapters.ami import journal, kept, packer, spot
from builder.adapters.ami.access import Access, ssh_access
from builder.adapters.ami.capacity import (
    Attempt,
    NoCapacityError,
    build_attempts,
    first_with_capacity,
    lacks_capacity,
)
from builder.adapters.ami.failed import FailedInstances
from builder.adapters.ami.finder import AmiFinder, artifact, checkpoint_result, tags
from builder.adapters.ami.jobs import Job, Start, checkpoint_job, checkpointed, image_job, source
from builder.adapters.ami.kept import Kept
from builder.adapters.ami.ownership import ownership
from builder.adapters.ami.packer import Packer
from builder.adapters.ami.packer_log import Event, LogLine, PackerLog, PlayLine, Started, Task
from builder.adapters.ami.plugins import SEARCH_PATH
from builder.adapters.ami.template import render, template_variables
from builder.adapters.ansible import kernel_modules, playbook
from builder.adapters.ansible.controller import make_program
from builder.adapters.ansible.failures import failure
from builder.adapters.aws.account import Account, Resource, calling_aws
from builder.adapters.host import private
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.checkpoints import Checkpoint, checkpoints, without_rebuilt
from builder.errors import BuildError
from builder.events import Stream
from builder.model import Artifact, LayerResult, Plan
from builder.plan import to_rebuild
from builder.site import AwsSettings
from builder.sources import require_unchanged
from builder.wait import until

_START_S = 600.0  # EC2 refuses to change the metadata options of a pending instance
_WORK_S = 4 * 3600.0  # timeout of all steps before EC2 captures the image
# Path of the site's CA bundle on the build instance; the play removes the file at its end.
_CA = "/var/cache/factory-ca.pem"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AmiMaker:
    """Builds AMIs, with one instance at a time per plan; thread-safe."""

    account: Account
    settings: AwsSettings
    run: Run
    root: Path
    events: Stream
    commit: str
    mirror: Callable[[Plan], Mirror]
    source: Callable[[Plan], Resource]  # the locked source image, as EC2 describes it
    use_checkpoints: bool = True
    rebuild: tuple[str, ...] = ()  # names of layers that no checkpoint may provide
    ssh_port: int = 22
    polling_s: int = 15
    plugins: Path | None = None  # folder of Packer's plugins; None: built into Packer
    keep_failed: bool = False  # keep the instance of a failed build
    # Limits the number of concurrent instances; shared with MachineChecker.
    working: AbstractContextManager[object] = dataclasses.field(default_factory=nullcontext)

    def make(self, plan: Plan) -> Artifact:
        with self.working:
            self.run.stop_if_cancelled()
            return self._make(plan)

    def _make(self, plan: Plan) -> Artifact:
        due = to_rebuild(plan, self.rebuild)
        if not due and (found := AmiFinder(self.account).find(plan)):
            with self._step(plan, "image", plan.key, plan.components) as end:
                end.update(text=f"{found.reference}, in this account", outcome="reused")
            return found
        first = source(self.source(plan))
        self._prepare_modules(plan)
        with ssh_access(
            self.run,
            self.account,
            self.settings,
            self.events,
            name=f"{plan.target.name}-{self.run.name}",
            folder=self._folder(plan, "access"),
            tags=tags(plan, self.run, self.commit),
        ) as access:
            start, below = self._start(plan, first, access, due)
            job = image_job(
                plan,
                start,
                run=self.run.name,
                tags=tags(plan, self.run, self.commit),
                folder=self._folder(plan, "image"),
                access=access,
            )
            image, seconds = self._capture(job, finish=lambda _: None)
        reason = f"from {start.text}"
        return artifact(plan, image, outcome="built", reason=reason, seconds=seconds, below=below)

    def _start(
        self, plan: Plan, start: Start, access: Access, due: Collection[str]
    ) -> tuple[Start, tuple[LayerResult, ...]]:
        """Return the image that the last step starts from, and the results of the checkpoints below it.

        Makes the missing checkpoints. Returns `start`, the source image, for a plan without checkpoints.
        """
        wanted = checkpoints(plan) if self.use_checkpoints else ()
        results: list[LayerResult] = []
        if found := kept.deepest(self.account, plan, without_rebuilt(wanted, due), self.settings):
            start, result = self._reuse(plan, found)
            results.append(result)
        for checkpoint in wanted:
            if len(checkpoint.layers) > start.depth:
                start, result = self._continue(plan, checkpoint, start, access, due)
                results.append(result)
        return start, tuple(results)

    def _continue(
        self, plan: Plan, checkpoint: Checkpoint, start: Start, access: Access, due: Collection[str]
    ) -> tuple[Start, LayerResult]:
        """Make a checkpoint, unless another build has made it while this build waited for it."""

        def report(holder: str) -> None:
            text = f"{plan.target.name}: run {holder} makes the checkpoint {checkpoint.name}; waiting for it"
            self.events.emit("note", text=text)

        with self.run.locked(f"checkpoint-{checkpoint.key[:16]}", waiting=report) as has_waited:
            usable = without_rebuilt([checkpoint], due) if has_waited else ()
            if found := kept.deepest(self.account, plan, usable, self.settings):
                return self._reuse(plan, found)
            return self._make_checkpoint(plan, checkpoint, start, access)

    def _make_checkpoint(
        self, plan: Plan, checkpoint: Checkpoint, start: Start, access: Access
    ) -> tuple[Start, LayerResult]:
        began = time.monotonic()
        job = checkpoint_job(
            plan,
            checkpoint,
            start,
            run=self.run.name,
            tags=kept.tags_for(plan, checkpoint, tags(plan, self.run, self.commit), self.settings),
            folder=self._folder(plan, checkpoint.name),
            access=access,
        )

        def complete(ami: str) -> None:
            seconds = start.seconds + time.monotonic() - began
            kept.complete(self.account, ami, checkpoint, seconds=seconds)

        image, seconds = self._capture(job, finish=complete)
        made = Kept(checkpoint=checkpoint, image=image)
        result = checkpoint_result(made, outcome="built", reason=f"from {start.text}", seconds=seconds)
        return checkpointed(made, seconds=start.seconds + seconds), result

    def _reuse(self, plan: Plan, found: Kept) -> tuple[Start, LayerResult]:
        """Report that the build starts from an existing checkpoint, and return its result."""
        checkpoint = found.checkpoint
        with self._step(plan, checkpoint.name, checkpoint.key, checkpoint.components) as end:
            end.update(text=f"{found.ami}, a checkpoint in this account", outcome="reused")
        result = checkpoint_result(found, outcome="reused", reason="a checkpoint in this account")
        return checkpointed(found, seconds=found.saves_s), result

    def _step(
        self, plan: Plan, name: str, key: str, components: Sequence[str]
    ) -> AbstractContextManager[dict[str, Any]]:
        title = f"{len(components)} components on {plan.system.name}"
        return self.events.step(f"{plan.target.name}/{name}", title, target=plan.target.name, key=key)

    def _capture(self, job: Job, finish: Callable[[str], None]) -> tuple[Resource, float]:
        """Build an image, record it in the journal and call `finish`; return the image and the build time."""
        with (
            self._step(job.plan, job.name, job.key, job.components) as end,
            journal.permanent(self.run, self.account, job.kind, job.image_name) as created,
        ):
            ami = self._build(job)
            # After an error here, the journal entry has no id, so the end of the run deletes the image.
            require_unchanged(self.root, job.plan.layers)
            image = self.account.image(ami)
            if image is None or image["State"] != "available":
                state = image["State"] if image else "missing"
                raise BuildError(
                    f"{ami} was created but is in state '{state}'", hint="builder clean, then build again"
                )
            finish(ami)
            created.id = ami
            end.update(text=ami, outcome="built")
        return image, end["seconds"]

    def _folder(self, plan: Plan, name: str) -> Path:
        """Create a folder for keys or variables of a build, below the run's scratch folder."""
        folder = self.run.scratch / plan.key[:16] / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _build(self, job: Job) -> str:
        """Build the image and return its id; with `keep_failed`, keep the instance of a failed build."""
        if not self.keep_failed:
            return self._run_with_capacity(job)
        failed = FailedInstances(
            account=self.account, settings=self.settings, run=self.run, ssh_port=self.ssh_port
        )
        with failed.kept(job.plan, job.access, job.tags):
            return self._run_with_capacity(job)

    def _run_with_capacity(self, job: Job) -> str:
        """Run Packer with the first instance type and subnet for which EC2 has capacity."""
        shape, table = job.plan.target.ami, self._variables(job)
        assert shape is not None

        def run(attempt: Attempt) -> str:
            network = {**table["network"], "subnet": attempt.settings.subnet}
            own = {**table, "instance_type": attempt.instance_type, "network": network}
            if attempt.spot_types:
                return self._run_on_spot(job, {**own, "spot_types": attempt.spot_types})
            return self._run_packer(job, own)

        return first_with_capacity(
            build_attempts(self.settings, shape.build_on[job.plan.arch]),
            run,
            say=lambda text: self.events.emit("note", text=text),
        )

    def _run_on_spot(self, job: Job, table: Mapping[str, Any]) -> str:
        """Run Packer with a spot instance; delete its launch template and fleet, unless the build fails."""
        lack, ami = None, ""
        with journal.temporary(self.run, self.account, spot.KINDS, job.image_name):
            try:
                ami = self._run_packer(job, table)
            except NoCapacityError as error:
                lack = error
            # Delete only the fleets of this job: other targets of the run may be building on spot instances.
            own = {**ownership(self.run.workspace, self.run.name).tags, "Name": job.image_name}
            spot.delete_all(self.account, self.account.region, [job.access.key.name], own)
        if lack:
            raise lack
        return ami

    def _run_packer(self, job: Job, table: Mapping[str, Any]) -> str:
        plan = job.plan
        variables = job.folder / "packer.json"
        private.write(variables, json.dumps(table))
        program = Packer(self._template(job), variables=variables)
        listener = playbook.Listener(self.events, job.step)
        log = PackerLog()

        def on_line(line: str) -> None:
            for event in log.read(line):
                self._act(event, job.step, listener)

        done = program.build(
            environment=self._environment(),
            timeout_s=_WORK_S + self.settings.wait_minutes * 60,
            cancelled=self.run.cancelled,
            on_line=on_line,
            cwd=job.folder,
            on_error="abort" if self.keep_failed else "cleanup",
        )
        self.run.stop_if_cancelled()
        if done.code != 0 and (lack := self._lack(job, log, is_spot="spot_types" in table)):
            raise NoCapacityError(lack)
        if listener.failure is not None:
            raise failure(f"target '{plan.target.name}'", plan, listener, done.code, self.mirror(plan))
        found = packer.built_amis(job.manifest, self.run.name)
        if done.code != 0 or self.account.region not in found:
            raise BuildError(
                f"Packer did not create an image of '{plan.target.name}': {log.error or 'no error message'}",
                hint=_hint_for(log.error, plan),
                details="\n".join(log.tail[-20:]),
            )
        return found[self.account.region]

    def _lack(self, job: Job, log: PackerLog, *, is_spot: bool) -> str:
        """Return why the build may succeed on another instance; "" if it would fail there as well.

        Any failure to start a spot instance counts: on-demand instances give better error messages.
        """
        if not log.is_started:
            return (log.error or "Packer gave no reason") if is_spot or lacks_capacity(log.error) else ""
        reclaimed = spot.reclaimed(self.account, job.tags) if is_spot else ""
        return f"EC2 reclaimed {reclaimed}" if reclaimed else ""

    def _template(self, job: Job) -> Path:
        """Return the template's folder; current.hcl is added only if Packer's plugins are not built in."""
        template = self.root / "packer" / "ami"
        return render(template, job.folder / "template") if self.plugins else template

    def _act(self, event: Event, step: str, listener: playbook.Listener) -> None:
        """Report an event of Packer's log; require IMDSv2 on a started instance if the template cannot."""
        match event:
            case PlayLine(text):
                listener.line(text)
            case LogLine(text):
                self.events.emit("step.log", step=step, text=text)
            case Task(text):
                self.events.emit("step.task", step=step, text=text)
            case Started(instance) if self.plugins is None:
                self._require_tokens(instance)

    def _environment(self) -> dict[str, str]:
        # Packer puts the sockets of its plugins into TMPDIR, and paths of sockets have a length limit.
        path = {SEARCH_PATH: str(self.plugins)} if self.plugins else {}
        return {**self.account.tool_environment, "TMPDIR": str(self.run.socket_dir), **path}

    def _variables(self, job: Job) -> dict[str, Any]:
        """Return the Packer template's variables; each attempt sets its own instance types and subnet."""
        return template_variables(
            job,
            self.account,
            self.settings,
            ssh_port=self.ssh_port,
            polling_s=self.polling_s,
            ansible={
                "command": str(make_program(self.run, self.root, job.folder)),
                "playbook": str(self.root / "ansible" / "image.yml"),
                "variables_file": str(self._role_variables(job)),
            },
        )

    def _prepare_modules(self, plan: Plan) -> None:
        kernel_modules.prepare(
            self.run,
            modules_folder(self.run, plan),
            cache=kernel_modules.BUILDS,
            note=lambda text: self.events.emit("note", text=text),
        )

    def _role_variables(self, job: Job) -> Path:
        plan = job.plan
        mirror, modules = self.mirror(plan), modules_folder(self.run, plan)
        bundle = mirror.ca_bundle
        table = {
            **playbook.role_variables(plan, plan.layers, mirrors=playbook.remote_mirrors(mirror)),
            "image_components": list(job.components),
            "factory_environment": playbook.remote_environment(mirror, _CA if bundle else ""),
            "factory_module_cache": str(kernel_modules.cached(modules)),
            "factory_made_modules": str(kernel_modules.made(modules)),
        }
        if bundle:
            table["factory_ca_bundle"] = {"here": str(bundle.resolve()), "there": _CA}
        path = job.folder / "variables.json"
        # URLs of indexes and proxies may contain passwords.
        private.write(path, playbook.to_variables(table))
        return path

    def _require_tokens(self, instance: str) -> None:
        """Require IMDSv2 on the build instance; Packer 1.6 has no option for it."""
        own = ownership(self.run.workspace, self.run.name)
        if not until(
            lambda: own.has_running(self.account, instance),
            timeout_s=_START_S,
            every_s=self.account.polling,
            cancelled=self.run.cancelled,
        ):
            raise BuildError(
                f"Packer logged {instance} in {self.account.region} as started, but it is not running with"
                " the tags of this run",
                hint="compare run_tags in packer/ami/source.pkr.hcl with Packer's output in the run's log",
            )
        with calling_aws(f"requiring metadata tokens on {instance}"):
            self.account.client("ec2").modify_instance_metadata_options(
                InstanceId=instance, HttpTokens="required", HttpPutResponseHopLimit=1
            )


def modules_folder(run: Run, plan: Plan) -> Path:
    """Return the folder of a build's kernel modules, below the run's scratch folder."""
    return run.scratch / f"modules-{plan.key[:16]}"


def _hint_for(error: str, plan: Plan) -> str:
    """Return a hint for an error message of Packer."""
    assert plan.system.ami is not None
    if "SSH" in error:
        return (
            f"check that '{plan.system.ami.user}' is the login user of {plan.system.name} and that this host"
            " can reach the instance: subnet, security_group, source_cidrs, public_address and ssh_interface"
            " in [aws] of site.toml"
        )
    if "waiting for AMI" in error:
        return "raise [aws] wait_minutes in site.toml (large volumes take long), then build again"
    return "see the run's log, or run: builder doctor"
