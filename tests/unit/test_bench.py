"""Inputs of the benchmark in bench/; the tests do not run the benchmark."""

import re
from pathlib import Path

from bench import amis, bed, checks, figures
from builder import catalog
from builder.adapters.engine.client import Engine
from builder.app.context import Context
from builder.checkpoints import checkpoints


def test_the_repository_of_the_benchmark_has_a_catalog_without_problems(tmp_path: Path) -> None:
    made = bed.Bed(work=tmp_path, engine=Engine())
    bed.make_repository(made)
    targets = catalog.load(made.repository).targets
    assert {"measured", "shared", *bed.BRANCHES} == set(targets)
    assert made.plan("measured").components == bed.ROLES
    inputs = made.repository.glob("catalog/stacks/cpu-debian-12.requirements.in")
    assert not list(inputs)  # `builder lock` would compile it, which needs PyTorch's index


def test_every_performance_goal_of_the_benchmark_compares_measured_cases() -> None:
    cases = {*figures.CASES, "size"}
    assert {case for aim in figures.AIMS for case, _ in (aim.over, aim.under)} <= cases
    assert {*checks.WAYS, *amis.WAYS} <= cases


def test_amis_of_the_benchmark_have_a_checkpoint_below_the_changed_role(tmp_path: Path) -> None:
    made = amis.Amis(bed.Bed(work=tmp_path, engine=Engine()))
    made.make_repository()
    plan = Context(made.root).plan(amis.TARGET)
    (checkpoint,) = checkpoints(plan)
    assert plan.unlocked == ()
    assert amis.CHANGED in plan.components
    assert amis.CHANGED not in checkpoint.components


def test_the_dockerfile_of_the_benchmark_applies_roles_in_layer_order() -> None:
    text = (Path(bed.__file__).parent / "Dockerfile").read_text(encoding="utf-8")
    assert tuple(re.findall(r"run/role (\w+)", text)) == bed.ROLES
