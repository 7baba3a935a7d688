"""`builder launch` checks that the site's registry has the image: found, missing, or no answer."""

import hashlib
from pathlib import Path

import pytest

from builder.app import launch_registry
from builder.app.context import Context
from builder.cli.main import main
from tests.support.launching import create_site, receipt, write_receipt
from tests.support.stub_server import Stub, dripping, serving

MANIFEST = b'{"schemaVersion":2}'
DIGEST = hashlib.sha256(MANIFEST).hexdigest()
WORDS = ("launch", "trainer", "--flavour", "p5", "--on", "slurm", "--instance", "p5.48xlarge")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Context:
    return create_site(tmp_path_factory.mktemp("registry"), root)


class Launch:
    """Runs `builder launch` for an image published to a registry; returns exit code, stdout and stderr."""

    def __init__(self, site: Context, capsys: pytest.CaptureFixture[str]) -> None:
        self._site, self._capsys = site, capsys

    def __call__(self, host: str, *words: str, push: str = "") -> tuple[int, str, str]:
        name = f"{host}/team/trainer@sha256:{DIGEST}"
        table = receipt(self._site, "trainer", "p5", publications=[{"name": name, "digest": name[-71:]}])
        write_receipt(self._site, table, "p5")
        (self._site.root / "site.toml").write_text(f'[registry]\npush = "{push or host + "/team"}"\n')
        self._capsys.readouterr()
        code = main([*WORDS, *words, "--root", str(self._site.root)])
        printed = self._capsys.readouterr()
        return code, printed.out, printed.err


@pytest.fixture
def launch(site: Context, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Launch:
    monkeypatch.setenv("BUILDER_HOME", str(site.workspace.home))
    monkeypatch.setenv("DOCKER_CONFIG", str(site.workspace.home))
    monkeypatch.delenv("BUILDER_SITE", raising=False)
    return Launch(site, capsys)


def _registry(status: int, body: bytes = b"") -> Stub:
    return Stub(answer=lambda _: (status, {}, body))


def test_an_image_that_the_registry_has_is_launched(launch: Launch) -> None:
    with serving(_registry(200, MANIFEST)) as registry:
        code, out, err = launch(registry.host)
    assert code == 0, err
    assert DIGEST in out
    assert [asked.line for asked in registry.asked] == [f"GET /v2/team/trainer/manifests/sha256:{DIGEST}"]


def test_an_image_that_the_registry_lacks_is_refused(launch: Launch) -> None:
    with serving(_registry(404)) as registry:
        code, out, err = launch(registry.host)
        name = f"{registry.host}/team/trainer@sha256:{DIGEST}"
        assert (code, out) == (3, "")
        assert err.startswith(f"error: the registry has no image {name}, so no node can pull it\nhint: ")
        assert "builder build trainer --flavour p5 --publish" in err
        # Nodes read squashfs files and unpacked images from the shared file system, not from the registry.
        assert launch(registry.host, "--image", "squashfs")[0] == 0
        assert launch(registry.host, "--runtime", "none")[0] == 0
    assert len(registry.asked) == 1


def test_launch_sends_no_request_to_a_registry_of_another_site(launch: Launch) -> None:
    with serving(_registry(404)) as registry:
        assert launch(registry.host, push="registry.example.org")[0] == 0
    assert registry.asked == []


def test_launch_prints_a_note_if_the_registry_gives_no_answer(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_registry, "_PATIENCE_S", 0.2)
    with serving(_registry(403)) as registry:
        assert _note(launch, registry.host).endswith("(not logged in)")
    assert "cannot be reached" in _note(launch, registry.host)
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n") as host:
        assert _note(launch, host).endswith("no answer within 0.2 s")


def _note(launch: Launch, host: str) -> str:
    """Run `builder launch` with a registry that gives no answer; return the printed note."""
    code, out, err = launch(host)
    assert (code, DIGEST in out) == (0, True), err
    note = err.splitlines()[0]
    assert note.startswith(f"note: {host} did not say whether it has the image: ")
    return note
