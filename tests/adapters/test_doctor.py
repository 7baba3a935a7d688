"""`builder doctor` reports on the site's registry: reachable, silent or unreachable."""

import socket
from pathlib import Path

import pytest

from builder.cli import doctor
from tests.support.repository import Repository
from tests.support.stub_server import Serve, Stub


def registry_line(repository: Repository, host: str, capsys: pytest.CaptureFixture[str]) -> str:
    repository.write("site.toml", f'[registry]\npush = "{host}/team"\n')
    doctor.run(["--root", str(repository.root)])
    lines = capsys.readouterr().out.splitlines()
    return next(line for line in lines if "registry " in line)


@pytest.mark.parametrize("status", [200, 401, 503])
def test_reports_the_status_of_a_registry_that_answers(
    repository: Repository, serve: Serve, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    stub = serve(Stub(answer=lambda _: (status, {}, b"")))
    assert f"{stub.host} answers {status}" in registry_line(repository, stub.host, capsys)
    assert [asked.line for asked in stub.asked] == ["GET /v2/"]


def test_reports_a_silent_and_an_unreachable_registry(
    repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        assert f"{host} does not answer: no data for 0.2 s" in registry_line(repository, host, capsys)
    assert f"{host} cannot be reached: Connection refused" in registry_line(repository, host, capsys)


def test_shows_package_urls_without_credentials(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.write(
        "site.toml",
        """
        [mirror]
        apt = "http://user:secret@apt.example/debian"
        pip_index = "https://user:secret@pypi.example/simple"
        """,
    )
    doctor.run(["--root", str(repository.root)])
    output = capsys.readouterr().out
    expected = "packages of tiny-1 from http://apt.example/debian, wheels from https://pypi.example/simple"
    assert expected in output
    assert "secret" not in output


def test_names_the_package_of_a_missing_docker_registry(
    repository: Repository,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path))
    doctor.run(["--root", str(repository.root)])
    output = capsys.readouterr().out
    assert (
        "not installed: docker-registry (the registry for --publish unless site.toml names another)" in output
    )
    assert "fix: apt-get install docker-registry" in output
