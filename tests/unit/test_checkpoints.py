"""Checkpoints of AMI builds: layers with a checkpoint, keys, and text in `builder plan` and the summary."""

import dataclasses
from pathlib import Path

import pytest

from builder import catalog
from builder.app.context import Context
from builder.app.outlook import Outlook
from builder.checkpoints import checkpoints, without_rebuilt
from builder.errors import CatalogError
from builder.plan import to_rebuild
from builder.screen.attempt import attempt_of, layers_of
from builder.screen.summary import summary
from tests.support.repository import AMI, Repository, flavour
from tests.unit.test_screen_attempt import a_receipt


@pytest.fixture
def machine(repository: Repository) -> Repository:
    """Repository with an AMI target whose layers are system, driver (a checkpoint) and final."""
    repository.write("catalog/layers.toml", 'order = ["system", "driver", "final"]\n')
    repository.replace("catalog/components/fabric.toml", '"system"', '"driver"\ncheckpoint = true')
    for name in ("cleanup", "limits"):
        text = f'summary = "{name}"\nlayer = "final"\nrequires = ["base"]\n'
        repository.write(f"catalog/components/{name}.toml", text)
        repository.write(f"ansible/roles/{name}/tasks/main.yml", "[]\n")
    head = 'summary = "a machine"\nkind = "ami"\ncomponents = ["fabric", "limits", "cleanup"]\n'
    repository.write("catalog/targets/machine.toml", head + AMI + flavour("tiny-1", "plain-1"))
    repository.relock()
    return repository


def test_an_ami_build_has_a_checkpoint_after_each_marked_layer(machine: Repository) -> None:
    (found,) = checkpoints(machine.plan("machine"))
    assert found.name == "driver"
    assert [layer.name for layer in found.layers] == ["base", "system", "driver"]
    assert found.components == ("base", "fabric")
    assert checkpoints(machine.plan("hello")) == (), "the engine has the layers of containers"


@pytest.mark.parametrize(
    ("file", "old", "new", "is_changed"),
    [
        ("ansible/roles/fabric/tasks/main.yml", "[]", "[ ]", True),
        ("ansible/roles/base/tasks/main.yml", "[]", "[ ]", True),
        ("catalog/stacks/plain-1.toml", "1.2-3", "1.2-4", True),
        ("ansible/image.yml", "[]", "[ ]", True),
        ("ansible/roles/cleanup/tasks/main.yml", "[]", "[ ]", True),
        ("ansible/roles/limits/tasks/main.yml", "[]", "[ ]", False),
        ("catalog/targets/machine.toml", "a machine", "a computer", False),
        ("catalog/targets/machine.toml", "minutes = 5", "minutes = 6", False),
    ],
)
def test_checkpoint_key_changes_if_and_only_if_its_layers_or_the_cleanup_change(
    machine: Repository, file: str, old: str, new: str, is_changed: bool
) -> None:
    (before,) = checkpoints(machine.plan("machine"))
    machine.replace(file, old, new)
    (after,) = checkpoints(machine.plan("machine"))
    assert (before.key != after.key) is is_changed
    assert before.key not in {layer.key for layer in machine.plan("machine").layers}


def test_key_of_the_ami_does_not_depend_on_checkpoints(machine: Repository) -> None:
    before = machine.plan("machine").key
    machine.replace("catalog/components/fabric.toml", "checkpoint = true", "checkpoint = false")
    after = machine.plan("machine")
    assert (after.key, checkpoints(after)) == (before, ())


def test_no_checkpoint_without_the_role_cleanup_or_after_the_last_layer(machine: Repository) -> None:
    machine.replace("catalog/targets/machine.toml", ', "limits", "cleanup"', "")
    assert checkpoints(machine.plan("machine")) == (), "its instances would share keys and a machine ID"
    machine.replace("catalog/targets/machine.toml", '"fabric"', '"cleanup"')
    machine.replace("catalog/components/cleanup.toml", '"final"', '"final"\ncheckpoint = true')
    assert checkpoints(machine.plan("machine")) == (), "the last layer is the AMI"


def test_a_checkpoint_that_contains_a_layer_to_rebuild_is_not_used(machine: Repository) -> None:
    plan = machine.plan("machine")
    found = checkpoints(plan)
    assert without_rebuilt(found, to_rebuild(plan, ["final"])) == found
    assert without_rebuilt(found, to_rebuild(plan, ["driver"])) == ()
    assert without_rebuilt(found, to_rebuild(plan, ["system"])) == ()


def test_only_components_of_amis_may_have_checkpoints(machine: Repository) -> None:
    machine.replace("catalog/components/limits.toml", '"final"', '"final"\ncheckpoint = true')
    machine.replace("catalog/components/limits.toml", '"limits"', '"limits"\nkinds = ["container"]')
    with pytest.raises(CatalogError) as caught:
        catalog.load(machine.root)
    assert "limits.toml: checkpoint: only AMIs have checkpoints" in caught.value.details


def test_each_ami_target_has_at_most_one_checkpoint(root: Path) -> None:
    context = Context(root, site_name="aws", arch="x86_64")
    found = {
        (target.name, flavour.name): [each.name for each in checkpoints(plan)]
        for target in context.catalog.targets.values()
        for flavour in target.flavours.values()
        if (plan := context.plan_flavour(target, flavour))
    }
    assert found["ami-gpu", "debian-12"] == found["ami-gpu", "ubuntu-24.04"] == ["cuda"]
    assert found["ami-neuron", "ubuntu-24.04"] == ["driver"]
    assert found["ami-cpu", "debian-12"] == []
    assert max(map(len, found.values())) == 1


@pytest.mark.parametrize(
    ("outlook", "text"),
    [
        (Outlook(), ""),
        (Outlook(image="ami-1", layer="final", is_complete=True, size_gib=8), ""),
        (
            Outlook(image="ami-1", layer="cuda", saves_s=900, size_gib=80, dollars_per_month=4.0),
            "starts from ami-1 after layer cuda, saves about 15 min;"
            " keeping one costs 80 GiB of snapshot, at most 4.00 $ a month in an account",
        ),
        (
            Outlook(image="ami-1", layer="driver", makes=("cuda",), size_gib=80, dollars_per_month=4.0),
            "starts from ami-1 after layer driver, time saved: unknown; a build keeps one after layer cuda;"
            " keeping one costs 80 GiB of snapshot, at most 4.00 $ a month in an account",
        ),
        (
            Outlook(makes=("driver", "cuda"), size_gib=40, dollars_per_month=2.0),
            "none exists; a build keeps one after layer driver and layer cuda;"
            " keeping one costs 40 GiB of snapshot, at most 2.00 $ a month in an account",
        ),
        (
            Outlook(makes=("cuda",), size_gib=40, dollars_per_month=2.0, unknown="no AWS credentials found"),
            "unknown (no AWS credentials found); a build keeps one after layer cuda;"
            " keeping one costs 40 GiB of snapshot, at most 2.00 $ a month in an account",
        ),
    ],
)
def test_plan_names_the_checkpoint_from_which_a_build_starts(outlook: Outlook, text: str) -> None:
    assert outlook.text == text


def test_price_of_snapshots_comes_from_the_catalog(root: Path, machine: Repository) -> None:
    assert Context(root).catalog.snapshot_dollars == pytest.approx(0.05)
    assert machine.load().snapshot_dollars == 0
    path = "catalog/instances.toml"
    machine.write(path, (machine.root / path).read_text() + '[ebs]\nsnapshot_dollars_per_month = "x"\n')
    with pytest.raises(CatalogError) as caught:
        machine.load()
    assert "instances.toml: ebs.snapshot_dollars_per_month: must be a price" in caught.value.details


@pytest.mark.parametrize(
    ("outcomes", "words"), [(("built", "built"), "2 built"), (("reused", "built"), "1 built, 1 reused")]
)
def test_summary_counts_a_checkpoint_that_the_run_used(
    machine: Repository, outcomes: tuple[str, ...], words: str
) -> None:
    receipt = a_receipt()
    plan = machine.plan("machine")
    results = tuple(
        dataclasses.replace(receipt.artifact.layers[0], name=layer.name, key=layer.key, outcome=outcome)
        for layer, outcome in zip(layers_of(plan), outcomes, strict=True)
    )
    artifact = dataclasses.replace(receipt.artifact, kind="ami", layers=results)
    whole = dataclasses.replace(receipt, plan=plan, artifact=artifact)
    assert [layer.name for layer in attempt_of(whole).expected] == ["driver", "image"]
    assert words in summary(whole)
    assert "not reached" not in summary(whole)
    alone = dataclasses.replace(whole, artifact=dataclasses.replace(artifact, layers=results[1:]))
    assert "not reached" not in summary(alone), "a build without checkpoints lacks none"
