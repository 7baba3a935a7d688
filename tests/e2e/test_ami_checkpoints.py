"""Build AMIs from checkpoints in a rehearsal, and kill builds that create a checkpoint."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.marks import CHECKPOINT_TAG
from builder.rehearsal.calls import Disturbance
from tests.e2e.test_ami_build import check_disk, environment_with_canaries
from tests.support.ami_factory import AmiFactory, site
from tests.support.factory import BOUND_S
from tests.support.output import result_of
from tests.support.rehearsal import EAST

pytestmark = [pytest.mark.engine, pytest.mark.e2e, pytest.mark.boundaries]


@pytest.fixture
def checkpointed(ami_factory: AmiFactory, tmp_path: Path) -> Iterator[AmiFactory]:
    """Factory whose AMI has a checkpoint after the role `fabric` and the role `late` in the last layer."""
    repository = ami_factory.factory.repository
    repository.replace("catalog/components/fabric.toml", "pinned = true", "pinned = true\ncheckpoint = true")
    repository.write(
        "catalog/components/late.toml", 'summary = "late"\nlayer = "final"\nrequires = ["base"]\n'
    )
    repository.replace("catalog/components/cleanup.toml", 'requires = ["base"]', 'requires = ["late"]')
    write_late(ami_factory, "first")
    repository.relock()
    yield ami_factory
    none = site(tmp_path, "[checkpoints]\nkeep_last = 0\n")
    assert ami_factory.factory.call("clean", "--yes", **none).code == 0


def write_late(ami_factory: AmiFactory, text: str) -> None:
    ami_factory.factory.repository.write(
        "ansible/roles/late/tasks/main.yml",
        f"""
        - name: Write a text
          ansible.builtin.copy:
            content: {text}
            dest: /etc/late
            mode: "0644"
        """,
    )


def kept(ami_factory: AmiFactory) -> list[str]:
    """Return the ids of the checkpoint images that the test has created in the account."""
    filters = [{"Name": "tag-key", "Values": [CHECKPOINT_TAG]}]
    images = ami_factory.aws.ec2.describe_images(Owners=["self"], Filters=filters)["Images"]
    return [image["ImageId"] for image in images if image["ImageId"] not in ami_factory.before[EAST]]


def test_ami_is_built_from_a_checkpoint_without_secrets_that_builder_clean_removes(
    checkpointed: AmiFactory, tmp_path: Path
) -> None:
    canaries = environment_with_canaries(tmp_path)
    first = checkpointed.build(**canaries)
    assert first.outcomes == {"fabric": "built", "image": "built", "checks": "passed"}
    (checkpoint,) = kept(checkpointed)
    check_disk(checkpointed, checkpoint)
    write_late(checkpointed, "second")
    (planned,) = result_of(checkpointed.factory.call("plan", "machine", "--json").stdout)
    assert planned["checkpoint"]["image"] == checkpoint
    assert planned["checkpoint"]["saves_s"] > 0
    assert [layer["state"] for layer in planned["layers"]] == ["reuse", "reuse", "reuse", "build"]
    second = checkpointed.build(**canaries)
    assert second.outcomes == {"fabric": "reused", "image": "built", "checks": "passed"}
    (image,) = [event["text"] for event in second.events if is_end(event, "machine/image")]
    disk = checkpointed.disk(image)
    assert checkpointed.factory.in_image(disk, "cat", "/etc/late", "/etc/fabric-a").strip() == "seconda"
    refused = checkpointed.factory.call("ami", "retire", checkpoint, "--force", "--yes")
    assert refused.code == 2
    assert f"{checkpoint} is a checkpoint of machine/fabric" in refused.stderr
    none = site(tmp_path, "[checkpoints]\nkeep_last = 0\n")
    assert f"checkpoint {checkpoint} of machine/fabric" in checkpointed.factory.call("clean", **none).stdout
    assert checkpointed.factory.call("clean", "--yes", **none).code == 0
    assert kept(checkpointed) == []


def is_end(event: dict[str, object], step: str) -> bool:
    return event["name"] == "step.end" and event["step"] == step


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_mutating_call_leaves_at_most_a_complete_checkpoint(
    checkpointed: AmiFactory, tmp_path: Path, when: str
) -> None:
    """Kill a build at its first mutating API call, the next at its second, until a build succeeds."""
    none = site(tmp_path, "[checkpoints]\nkeep_last = 0\n")
    left_one = 0
    for call in itertools.count(1):
        with checkpointed.started_alone() as process:
            checkpointed.rehearsal.disturb(Disturbance(mutating=True, first=call, kill=when, pid=process.pid))
            process.wait(BOUND_S)
        checkpointed.rehearsal.clear_disturbances()
        if process.returncode == 0:
            break
        checkpointed.clean_up()
        complete = kept(checkpointed)
        snapshots = {
            mapping["Ebs"]["SnapshotId"]
            for ami in complete
            for mapping in checkpointed.aws.describe(ami)["BlockDeviceMappings"]
        }
        assert {name.partition(" ")[2] for name in checkpointed.left()} == {*complete, *snapshots}, call
        left_one += len(complete)
        # Without the checkpoint, the next build makes all API calls again.
        assert checkpointed.factory.call("clean", "--yes", **none).code == 0
        assert checkpointed.left() == [], f"killed {when} call {call}"
    assert call > 20
    assert left_one > 0
