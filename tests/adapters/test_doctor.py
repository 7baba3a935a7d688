"""`builder doctor` checks every server, file and folder that the effective settings name."""

import json
import socket
from pathlib import Path

import pytest

from builder.cli import doctor
from tests.support.output import result_of
from tests.support.repository import Repository
from tests.support.stub_server import Asked, Serve, Stub

Capture = pytest.CaptureFixture[str]
IN_RELEASE = b"-----BEGIN PGP SIGNED MESSAGE-----\nOrigin: x\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n"


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    for name in ("BUILDER_SITE_FILE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def findings(repository: Repository, site: str, capsys: Capture) -> dict[str, dict[str, str]]:
    """Run the doctor with a site file; return the findings by name."""
    repository.write("site.toml", site)
    doctor.run(["--root", str(repository.root), "--json"])
    return {finding["about"]: finding for finding in result_of(capsys.readouterr().out)}


@pytest.mark.parametrize(("status", "state"), [(200, "ok"), (401, "ok"), (503, "failed")])
def test_reports_the_status_of_a_registry_that_answers(
    repository: Repository, serve: Serve, capsys: Capture, status: int, state: str
) -> None:
    stub = serve(Stub(answer=lambda _: (status, {}, b"")))
    found = findings(repository, f'[registry]\npush = "{stub.host}/team"\n', capsys)["registry.push"]
    assert (found["state"], found["text"]) == (state, f"{stub.host}/team: answers {status}")
    assert [asked.line for asked in stub.asked] == ["GET /v2/"]


def test_server_that_does_not_answer_in_time_is_reported_as_failed(
    repository: Repository, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        found = findings(repository, f'[registry]\npush = "{host}/team"\n', capsys)["registry.push"]
    assert found["state"] == "failed"
    assert "no answer within 0.2 s" in found["text"] or "no data for 0.2 s" in found["text"]


# Settings with an unreachable server or a missing file, each with a part of the reported reason.
DEAD = [
    ("mirror.apt", 'apt = "http://127.0.0.1:1/debian"', "127.0.0.1:1 cannot be reached: Connection refused"),
    ("mirror.pip_index", 'pip_index = "http://127.0.0.1:1/simple"', "127.0.0.1:1 cannot be reached"),
    ("mirror.pip_extra_indexes", 'pip_extra_indexes = ["http://127.0.0.1:1/x"]', "127.0.0.1:1 cannot be"),
    ("mirror.pip_find_links", 'pip_find_links = ["/nonexistent"]', "no folder /nonexistent"),
    ("mirror.proxy", 'proxy = "http://127.0.0.1:1"', "Connection refused"),
    ("mirror.ca_bundle", 'ca_bundle = "/nonexistent"', "no such file"),
    (
        'mirror.prefixes."https://a.example/"',
        'prefixes = { "https://a.example/" = "http://127.0.0.1:1/", "https://b.example/" = "file:///none/",'
        ' "https://c.example/" = "file:///none" }',
        "127.0.0.1:1 cannot be reached",
    ),
    ("mirror.snapshot", 'snapshot = "http://127.0.0.1:1/{archive}/{stamp}"', "127.0.0.1:1 cannot be reached"),
]


def test_every_unusable_setting_is_reported_as_failed_with_a_fix(
    repository: Repository, capsys: Capture
) -> None:
    lines = {key: line for key, line, _ in DEAD}
    found = findings(repository, "\n".join(["[mirror]", *lines.values()]), capsys)
    for key, _, reason in DEAD:
        assert found[key]["state"] == "failed", key
        assert f": {reason}" in found[key]["text"]
        setting = ".".join(key.split(".")[:2])
        assert found[key]["fix"] == f"correct {setting} in {repository.root}/site.toml"
        assert found[key]["origin"] == f"{repository.root}/site.toml"
    assert found['mirror.prefixes."https://b.example/"']["text"] == "file:///none/: no folder /none"
    text = "file:///none: no file or folder begins with /none"
    assert found['mirror.prefixes."https://c.example/"']["text"] == text


def test_ca_bundle_without_certificates_is_a_failure(repository: Repository, capsys: Capture) -> None:
    found = findings(repository, '[mirror]\nca_bundle = "/etc/hostname"\n', capsys)["mirror.ca_bundle"]
    assert (found["state"], found["text"]) == ("failed", "/etc/hostname: contains no certificates")


def test_requests_the_files_that_a_build_needs_from_each_server(
    repository: Repository, serve: Serve, capsys: Capture, tmp_path: Path
) -> None:
    repository.write("catalog/stacks/plain.requirements.lock", f"greet==1.0 --hash=sha256:{'0' * 64}\n")
    repository.replace(
        "catalog/stacks/plain-1.toml", "[pins]", 'requirements = "plain.requirements.lock"\n[pins]'
    )

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        path = asked.line.split()[1]
        if path.endswith("/InRelease"):
            return 200, {}, IN_RELEASE
        return (200 if path in ("/simple/greet/", "/more/", "/v2/") else 404), {}, b""

    stub = serve(Stub(answer=answer))
    found = findings(
        repository,
        f"""
        [mirror]
        apt = "http://{stub.host}/debian"
        pip_index = "http://user:secret@{stub.host}/simple"
        pip_extra_indexes = ["http://{stub.host}/more", "http://{stub.host}/typo"]
        pip_find_links = ["{tmp_path}"]
        snapshot = "http://{stub.host}/{{archive}}/{{stamp}}"
        prefixes = {{ "https://a.example/" = "http://{stub.host}/a/", "docker.io/" = "{stub.host}/hub/" }}
        [registry]
        cache = "{stub.host}/layers"
        """,
        capsys,
    )
    texts = {name: (finding["state"], finding["text"].partition(": ")[2]) for name, finding in found.items()}
    assert texts["mirror.apt"] == ("ok", "answers, has tiny")
    assert texts["mirror.apt_security"] == ("ok", "answers, has tiny-security")
    assert texts["mirror.snapshot"] == ("ok", "answers, has tiny")
    assert texts["mirror.pip_index"] == ("ok", "answers, has greet")
    assert texts["mirror.pip_extra_indexes[0]"] == ("note", "answers, but lacks greet")
    assert texts["mirror.pip_extra_indexes[1]"] == ("failed", "answers 404")
    assert texts["mirror.pip_find_links"] == ("ok", "folder")
    assert texts['mirror.prefixes."https://a.example/"'] == ("ok", "answers 404")
    assert texts['mirror.prefixes."docker.io/"'] == ("ok", "answers 200")
    assert texts["registry.cache"] == ("ok", "answers 200")
    assert "secret" not in json.dumps(found)
    logins = {asked.authorization for asked in stub.asked if "/simple/" in asked.line}
    assert logins == {"Basic dXNlcjpzZWNyZXQ="}


def test_unreachable_index_of_a_stack_is_reported_as_a_note(repository: Repository, capsys: Capture) -> None:
    repository.replace(
        "catalog/stacks/plain-1.toml", "[pins]", 'wheel_index = "https://127.0.0.1:1/whl"\n[pins]'
    )
    found = findings(repository, '[mirror]\npip_find_links = ["/tmp"]\n', capsys)["wheel_index"]
    assert (found["state"], found["origin"]) == ("note", "stack plain-1, asked last")
    assert "127.0.0.1:1 cannot be reached" in found["text"]


def test_package_archive_without_a_valid_inrelease_file_is_reported_as_failed(
    repository: Repository, serve: Serve, capsys: Capture
) -> None:
    stub = serve(Stub(answer=lambda _: (200, {}, b"<html>Please log in</html>")))
    found = findings(repository, f'[mirror]\napt = "http://{stub.host}/debian"\n', capsys)["mirror.apt"]
    assert found["text"].endswith("/debian/dists/tiny/InRelease is not an InRelease file")


def test_names_the_environment_variable_that_sets_a_value(
    repository: Repository, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    found = findings(repository, "", capsys)
    assert found["mirror.proxy"]["origin"] == "environment variable https_proxy"
    assert found["mirror.pip_index"]["origin"] == "environment variable PIP_INDEX_URL"


@pytest.mark.parametrize(
    ("bytes_", "words"), [(b"\xff\xfe", "is not UTF-8 text"), (b"[mirrors]\n", "unknown section")]
)
def test_invalid_site_file_is_reported_once(
    repository: Repository, capsys: Capture, bytes_: bytes, words: str
) -> None:
    (repository.root / "site.toml").write_bytes(bytes_)
    assert doctor.run(["--root", str(repository.root)]) == 3
    output = capsys.readouterr().out
    assert output.count(words) == 1
    assert f"fix: correct {repository.root}/site.toml" in output


def test_shows_urls_without_credentials(repository: Repository, capsys: Capture) -> None:
    repository.write("site.toml", '[mirror]\napt = "http://user:secret@127.0.0.1:1/debian"\n')
    doctor.run(["--root", str(repository.root)])
    output = capsys.readouterr().out
    assert "http://***@127.0.0.1:1/debian" in output
    assert "secret" not in output


def test_names_the_package_of_a_missing_docker_registry(
    repository: Repository, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    doctor.run(["--root", str(repository.root)])
    output = capsys.readouterr().out
    assert (
        "not installed: docker-registry (the registry for --publish unless site.toml names another)" in output
    )
    assert "fix: apt-get install docker-registry" in output


def test_builder_home_that_is_a_file_is_reported_with_the_other_findings(
    repository: Repository, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = repository.root / "catalog/layers.toml"
    monkeypatch.setenv("BUILDER_HOME", str(path))
    assert doctor.run(["--root", str(repository.root)]) == 3
    printed = capsys.readouterr().out
    assert f"{path} is not a folder" in printed
    assert "fix: set BUILDER_HOME to a folder of your own" in printed
    assert "mmdebstrap" in printed
