"""What all tests share: a small repository of their own, and what becomes of images that tests make."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.factory import Factory
from tests.support.repository import Repository

# Tests of many seconds that share nothing: workers take them one by one, all others by the file.
_ONE_BY_ONE = ("tests/e2e/", "tests/images/test_caching.py")


class Shares(LoadScopeScheduling):
    """How tests are shared out among workers (`pytest -n`).

    `--dist loadgroup` would do it publicly, but xdist 3.8 puts the group into `item._nodeid`, which pytest
    9.2 does not read any more.
    """

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(_ONE_BY_ONE) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return Shares(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-artifacts",
        nargs="?",
        const="t",
        default="f",
        choices=["t", "f"],
        help="t: keep the images and containers that tests make",
    )


@pytest.fixture(scope="session")
def keep_artifacts(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--keep-artifacts") == "t")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A whole small factory in a folder: two components, one stack, one system, one target."""
    return Repository.create(tmp_path / "repository")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout under test."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches that all builds of a test session share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def factory(tmp_path: Path, home: Path, root: Path, keep_artifacts: bool) -> Iterator[Factory]:
    """A small factory of its own; what it built goes when the test is over, unless artifacts are kept.

    The base image stays for the next test: it is what every build of this system begins with.
    """
    made = Factory.create(tmp_path, home=home, root=root)
    base = made.repository.keys()["base"]
    yield made
    if not keep_artifacts:
        made.remove_images([name for name in made.run_names() if not _made_base(made, name, base)])
        shutil.rmtree(made.out, ignore_errors=True)


def _made_base(factory: Factory, run: str, base: str) -> bool:
    image = factory.engine.layers().get(base)
    return image is not None and image.labels.get("factory.run") == run
