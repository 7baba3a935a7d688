"""Fixtures that all tests share, and the distribution of tests among xdist workers."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.factory import Factory
from tests.support.repository import Repository

# Slow tests that share no fixture are distributed one by one, all other tests by file.
_DISTRIBUTED_BY_TEST = ("tests/e2e/", "tests/images/test_caching.py")


class PerFileScheduling(LoadScopeScheduling):
    """Scheduler for `pytest -n` that keeps the tests of a file together, except for _DISTRIBUTED_BY_TEST.

    `--dist loadgroup` does not work: xdist 3.8 writes the group to `item._nodeid`, which pytest 9.2 no
    longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(_DISTRIBUTED_BY_TEST) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return PerFileScheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-artifacts",
        nargs="?",
        const="t",
        default="f",
        choices=["t", "f"],
        help="t: keep the images and containers that tests create",
    )


@pytest.fixture(scope="session")
def keep_artifacts(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--keep-artifacts") == "t")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Repository with a small catalog: two components, a stack, a system, a target."""
    return Repository.create(tmp_path / "repository")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout under test."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache folder of all builds in this test session."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def factory(tmp_path: Path, home: Path, root: Path, keep_artifacts: bool) -> Iterator[Factory]:
    """Factory with its own repository; its images are deleted after the test unless --keep-artifacts is set.

    The base image is kept because every test builds on it.
    """
    created = Factory.create(tmp_path, home=home, root=root)
    base = created.repository.keys()["base"]
    yield created
    if not keep_artifacts:
        created.remove_images([name for name in created.run_names() if not _built_base(created, name, base)])
        shutil.rmtree(created.out, ignore_errors=True)


def _built_base(factory: Factory, run: str, base: str) -> bool:
    image = factory.engine.layers().get(base)
    return image is not None and image.labels.get("factory.run") == run
