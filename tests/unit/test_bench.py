"""The inputs of the benchmark, without running it."""

from pathlib import Path

from bench import bed, checks, figures
from builder import catalog
from builder.adapters.engine.client import Engine


def test_the_repository_of_the_benchmark_has_a_catalog_without_problems(tmp_path: Path) -> None:
    made = bed.Bed(work=tmp_path, engine=Engine())
    bed.make_repository(made)
    targets = catalog.load(made.repository).targets
    assert {"measured", "shared", *bed.BRANCHES} == set(targets)
    assert set(made.plan("measured").components) == set(bed.ROLES)
    inputs = made.repository.glob("catalog/stacks/cpu-debian-12.requirements.in")
    assert not list(inputs)  # `builder lock` would compile it, which needs PyTorch's index


def test_every_aim_compares_measured_cases() -> None:
    cases = {*figures.CASES, "size"}
    assert {case for aim in figures.AIMS for case, _ in (aim.over, aim.under)} <= cases
    assert set(checks.WAYS) <= cases
