"""Find or build the AMI of a plan: Packer starts an instance, Ansible applies roles, EC2 captures the image.

Every resource is created with the run's name in its name and in its tags. The account may be real or
rehearsed; this module does not distinguish them.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from builder.adapters.ami import journal, packer
from builder.adapters.ami.access import Access, interface, ssh_access
from builder.adapters.ami.failed import FailedInstances
from builder.adapters.ami.ownership import builder_id, ownership
from builder.adapters.ami.packer import Packer
from builder.adapters.ami.packer_log import Event, LogLine, PackerLog, PlayLine, Started, Task
from builder.adapters.ami.plugins import SEARCH_PATH
from builder.adapters.ami.template import render
from builder.adapters.ansible import kernel_modules, playbook
from builder.adapters.ansible.controller import make_program
from builder.adapters.ansible.failures import failure
from builder.adapters.aws.account import Account, Resource, calling_aws
from builder.adapters.host import private
from builder.adapters.host.workspace import Run
from builder.adapters.upstream.mirror import Mirror
from builder.errors import BuildError
from builder.events import Stream
from builder.marks import BUILDER_TAG, COMMIT_TAG, KEY_TAG, RUN_TAG, STACK_TAG, SYSTEM_TAG, TARGET_TAG
from builder.model import Artifact, LayerResult, Plan
from builder.site import AwsSettings
from builder.sources import require_unchanged
from builder.wait import until

_START_S = 600.0  # EC2 refuses to change the metadata options of a pending instance
_WORK_S = 4 * 3600.0  # timeout of all steps before EC2 captures the image
# Path of the site's CA bundle on the build instance; the play removes the file at its end.
_CA = "/var/cache/factory-ca.pem"


def tags(plan: Plan, run: Run, commit: str) -> dict[str, str]:
    return {
        TARGET_TAG: plan.target.name,
        KEY_TAG: plan.key,
        RUN_TAG: run.name,
        BUILDER_TAG: builder_id(run.workspace),
        STACK_TAG: plan.stack.name,
        SYSTEM_TAG: plan.system.name,
        COMMIT_TAG: commit,
    }


def artifact(plan: Plan, image: Mapping[str, Any], *, outcome: str, reason: str, seconds: float) -> Artifact:
    """Return the Artifact of an image that EC2 has described, without a size: EC2 knows that of its disk."""
    result = LayerResult(
        name="image",
        key=plan.key,
        outcome=outcome,
        reason=reason,
        image=image["ImageId"],
        seconds=seconds,
        components=plan.components,
    )
    return Artifact(
        kind="ami", target=plan.target.name, reference=image["ImageId"], key=plan.key, layers=(result,)
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Inputs of one image build: plan, source image, names, tags, working folder and SSH access."""

    plan: Plan
    step: str
    image_name: str
    source: Resource
    tags: Mapping[str, str]
    folder: Path
    access: Access

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.json"


class AmiFinder:
    """Finds existing AMIs by the plan key in their tags."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def find(self, plan: Plan) -> Artifact | None:
        for image in self._account.images({KEY_TAG: plan.key}):
            if image["State"] == "available":
                return artifact(plan, image, outcome="reused", reason="in this account", seconds=0.0)
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class AmiMaker:
    """Builds AMIs, with one instance per plan; thread-safe."""

    account: Account
    settings: AwsSettings
    run: Run
    root: Path
    events: Stream
    commit: str
    mirror: Callable[[Plan], Mirror]
    source: Callable[[Plan], Resource]  # the locked source image, as EC2 describes it
    ssh_port: int = 22
    polling_s: int = 15
    plugins: Path | None = None  # folder of Packer's plugins; None: they are part of the program
    keep_failed: bool = False  # keep the instance of a failed build
    # Limits the number of concurrent instances; shared with MachineChecker.
    working: AbstractContextManager[object] = dataclasses.field(default_factory=nullcontext)

    def make(self, plan: Plan) -> Artifact:
        with self.working:
            self.run.stop_if_cancelled()
            return self._make(plan)

    def _make(self, plan: Plan) -> Artifact:
        step = f"{plan.target.name}/image"
        title = f"{len(plan.components)} components on {plan.system.name}"
        with self.events.step(step, title, target=plan.target.name, key=plan.key) as end:
            if found := AmiFinder(self.account).find(plan):
                end.update(text=f"{found.reference}, in this account", outcome="reused")
                return found
            source, folder = self.source(plan), self._folder(plan)
            name = f"{plan.target.name}-{self.run.name}"
            run_tags, ami_name = tags(plan, self.run, self.commit), image_name(plan, self.run.name)
            with (
                journal.permanent(self.run, self.account, "image", ami_name) as created,
                ssh_access(
                    self.run,
                    self.account,
                    self.settings,
                    self.events,
                    name=name,
                    folder=folder,
                    tags=run_tags,
                ) as access,
            ):
                job = Job(
                    plan=plan,
                    step=step,
                    image_name=ami_name,
                    source=source,
                    tags=run_tags,
                    folder=folder,
                    access=access,
                )
                ami = self._build(job)
                # The end of the run deletes an image whose journal entry has no id.
                require_unchanged(self.root, plan.layers)
                created.id = ami
            image = self.account.image(ami)
            if image is None or image["State"] != "available":
                state = image["State"] if image else "missing"
                raise BuildError(
                    f"{ami} was created but is in state '{state}'", hint="builder clean, then build again"
                )
            reason = f"from {source['ImageId']} ({source.get('Name', '')})"
            end.update(text=ami, outcome="built")
        return artifact(plan, image, outcome="built", reason=reason, seconds=end["seconds"])

    def _folder(self, plan: Plan) -> Path:
        """Create the folder for the keys and variables of a build, below the run's scratch folder."""
        folder = self.run.scratch / plan.key[:16]
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def _build(self, job: Job) -> str:
        """Build the image and return its id; with `keep_failed`, keep the instance of a failed build."""
        if not self.keep_failed:
            return self._run_packer(job)
        failed = FailedInstances(
            account=self.account, settings=self.settings, run=self.run, ssh_port=self.ssh_port
        )
        with failed.kept(job.plan, job.access, job.tags):
            return self._run_packer(job)

    def _run_packer(self, job: Job) -> str:
        plan = job.plan
        variables = job.folder / "packer.json"
        table = self._variables(job)
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

    def _template(self, job: Job) -> Path:
        """Return the template's folder; plugins that are part of the program do not know all blocks."""
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
        """Return the variables of the Packer template."""
        plan = job.plan
        shape, site = plan.target.ami, self.settings
        assert shape is not None
        assert plan.system.ami is not None
        return {
            "run": self.run.name,
            "region": self.account.region,
            "endpoint": self.account.endpoint,
            "source_ami": job.source["ImageId"],
            "instance_type": shape.build_on[plan.arch],
            "ami_name": job.image_name,
            "ami_description": f"{plan.target.summary}; {plan.system.name}, {plan.stack.name}",
            "tags": {**job.tags, "Name": job.image_name},
            "volume": {
                "device": job.source["RootDeviceName"],
                "size_gib": shape.volume_gib,
                "iops": 3000,
                "throughput": 500,
                "encrypted": site.encrypt and shape.encryptable,
                "kms_key": site.kms_key if shape.encryptable else "",
            },
            "ssh": {
                "user": plan.system.ami.user,
                "keypair": job.access.key.name,
                "key_file": str(job.access.key.file),
                "port": self.ssh_port,
                # Rehearsed instances answer at once, so a wrong address fails quickly.
                "timeout": "30s" if self.account.is_on_this_machine else "10m",
                "interface": interface(site),
            },
            "network": {
                "subnet": site.subnet,
                "security_group": job.access.group,
                "public_address": site.public_address,
                "iam_instance_profile": site.instance_profile,
            },
            "polling": {
                "delay_s": self.polling_s,
                "attempts": max(1, site.wait_minutes * 60 // self.polling_s),
            },
            "ansible": {
                "command": str(make_program(self.run, self.root, job.folder)),
                "playbook": str(self.root / "ansible" / "image.yml"),
                "variables_file": str(self._role_variables(plan, job.folder)),
            },
            "manifest": str(job.manifest),
        }

    def _role_variables(self, plan: Plan, folder: Path) -> Path:
        mirror = self.mirror(plan)
        bundle = mirror.ca_bundle
        modules = modules_folder(self.run, plan)
        kernel_modules.prepare(
            self.run,
            modules,
            cache=kernel_modules.BUILDS,
            note=lambda text: self.events.emit("note", text=text),
        )
        table = {
            **playbook.role_variables(plan, plan.layers, mirrors=playbook.remote_mirrors(mirror)),
            "factory_environment": playbook.remote_environment(mirror, _CA if bundle else ""),
            "factory_module_cache": str(kernel_modules.cached(modules)),
            "factory_made_modules": str(kernel_modules.made(modules)),
        }
        if bundle:
            table["factory_ca_bundle"] = {"here": str(bundle.resolve()), "there": _CA}
        path = folder / "variables.json"
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
                f"{instance} in {self.account.region}, which Packer's output names, is not running with the"
                " tags of this run",
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


def image_name(plan: Plan, run: str) -> str:
    """Return a unique name that sorts by time within a target and fits EC2's limit of 128 characters."""
    return f"{plan.target.name}-{plan.system.name}-{plan.stack.name}"[: 127 - len(run)] + f"-{run}"
