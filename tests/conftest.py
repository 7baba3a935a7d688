"""Fixtures that all tests share, and the distribution of tests among xdist workers."""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.factory import Factory
from tests.support.repository import Repository

# Slow tests that share no fixture are distributed one by one, all other tests by file.
_DISTRIBUTED_BY_TEST = ("tests/e2e/", "tests/images/test_caching.py")

# The longest tests start first, so that all xdist workers finish at about the same time.
_STARTED_FIRST = (
    "tests/images/test_targets.py",
    "tests/e2e/test_ami_build.py::test_ami_is_built_once",
    "tests/adapters/test_ami_publisher.py",  # needs neither the base nor the machine image
    "tests/e2e/test_ami",
    "tests/e2e/",
    "tests/images/",
    "tests/adapters/",
)

FirstWorkerOnly = Callable[[str, Callable[[], bool]], AbstractContextManager[None]]

# Property tests have no time limit: the duration of one example says nothing on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class PerFileScheduling(LoadScopeScheduling):
    """Scheduler for `pytest -n` that keeps the tests of a file together, except for _DISTRIBUTED_BY_TEST.

    `--dist loadgroup` does not work: xdist 3.8 writes the group to `item._nodeid`, which pytest 9.2 no
    longer reads.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(_DISTRIBUTED_BY_TEST) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    config.option.loadscopereorder = False  # it would start the files with the most tests first
    return PerFileScheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests of a worker by _STARTED_FIRST; the scheduler distributes them in this order."""

    def rank(item: pytest.Item) -> int:
        matching = (n for n, prefix in enumerate(_STARTED_FIRST) if item.nodeid.startswith(prefix))
        return next(matching, len(_STARTED_FIRST))

    if hasattr(config, "workerinput"):
        items.sort(key=rank)


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


@pytest.fixture(scope="session")
def first_worker_only(tmp_path_factory: pytest.TempPathFactory) -> FirstWorkerOnly:
    """Function that returns a context: while the named image is missing, one worker at a time runs the block.

    Workers share the engine, so the first worker builds the image for all.
    """

    @contextmanager
    def entered(name: str, is_missing: Callable[[], bool]) -> Iterator[None]:
        with (tmp_path_factory.getbasetemp().parent / f"{name}.lock").open("w") as lock:
            if is_missing():
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    return entered


@pytest.fixture(scope="session")
def built_once(
    tmp_path_factory: pytest.TempPathFactory,
    home: Path,
    root: Path,
    keep_artifacts: bool,
    first_worker_only: FirstWorkerOnly,
) -> Iterator[Factory]:
    """Factory whose target is built once per worker; the first worker makes the base image for all.

    The base image is kept after the tests, as every test builds on it.
    """
    folder = tmp_path_factory.mktemp("built")
    created = Factory.create(folder, home=home, root=root)
    with first_worker_only("base", lambda: created.repository.keys()["base"] not in created.engine.layers()):
        build = created.build()
    assert build.code == 0, build.stderr
    yield created
    if not keep_artifacts:
        created.remove_images(created.run_names(), keep=created.repository.keys()["base"])


@pytest.fixture
def factory(tmp_path: Path, built_once: Factory, root: Path, keep_artifacts: bool) -> Iterator[Factory]:
    """Factory whose layers are not built yet, on the shared base image.

    Its images are deleted after the test unless --keep-artifacts is set.
    """
    created = Factory.create(tmp_path, home=built_once.home, root=root)
    yield created
    if not keep_artifacts:
        created.remove_images(created.run_names())
        shutil.rmtree(created.out, ignore_errors=True)


@pytest.fixture
def one_layer(factory: Factory) -> None:
    """Reduce the target of `factory` to one layer of components, for faults that can happen in any layer."""
    target = "catalog/targets/hello.toml"
    factory.repository.replace(target, '"fabric", ', "")
    factory.repository.replace(target, "fabric_tools = true", "")
    factory.repository.replace("catalog/components/workload_env.toml", "final", "system")
    factory.repository.relock()


@pytest.fixture
def built(tmp_path: Path, built_once: Factory, keep_artifacts: bool) -> Iterator[Factory]:
    """Copy of a factory with a built target. Tests must not delete its layers, which other tests share."""
    copied = built_once.copy(tmp_path)
    before = set(copied.run_names())
    yield copied
    if not keep_artifacts:
        copied.remove_images([name for name in copied.run_names() if name not in before])
