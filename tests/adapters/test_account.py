"""AWS clients use the proxy and the CAs of the site for every call; rehearsals use neither."""

import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import certifi
import pytest

from builder import lock
from builder.adapters.aws.account import Account
from builder.adapters.engine.client import Engine
from builder.adapters.host.network import Network
from builder.app.account import SiteAccount
from builder.app.context import Context
from builder.app.lanes.publishing import open_publisher
from builder.cli.main import main
from builder.errors import MissingError
from builder.model import Publication
from tests.support.rehearsal import EAST, RehearsedAccount
from tests.support.rehearsed_account import environment
from tests.support.repository import AMI, Repository, flavour
from tests.support.stub_server import Asked, Serve, Stub
from tests.support.tunnel import Tunnel, tunnel_to

EC2, STS = "ec2.us-east-1.amazonaws.com:443", "sts.us-east-1.amazonaws.com:443"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}
IMAGE = "ami-0fedcba9876543210"
ANSWERS = {
    "GetCallerIdentity": "<GetCallerIdentityResponse><GetCallerIdentityResult><Account>123456789012</Account>"
    "</GetCallerIdentityResult></GetCallerIdentityResponse>",
    "DescribeImages": "<DescribeImagesResponse><imagesSet><item>"
    f"<imageId>{IMAGE}</imageId><imageOwnerId>123456789012</imageOwnerId><name>tiny-1</name>"
    "<creationDate>2026-01-01T00:00:00.000Z</creationDate></item></imagesSet></DescribeImagesResponse>",
}


def as_aws(asked: Asked) -> tuple[int, dict[str, str], bytes]:
    action = next(action for action in ANSWERS if f"Action={action}" in asked.body)
    return 200, {"Content-Type": "text/xml"}, ANSWERS[action].encode()


@dataclass(frozen=True)
class Site:
    """Repository whose site.toml sets a proxy and a private CA for AWS."""

    repository: Repository
    tunnel: Tunnel

    def write(self, *lines: str) -> None:
        self.repository.write("site.toml", "\n".join(["[mirror]", *lines]) + "\n")


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Set test keys, and hide the user's own settings for AWS and proxies."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def site(repository: Repository, serve: Serve, certificate: Path, credentials: None) -> Iterator[Site]:
    with tunnel_to(serve(Stub(answer=as_aws), tls(certificate)).host) as tunnel:
        found = Site(repository, tunnel)
        found.write(f'proxy = "{tunnel.url}"', f'ca_bundle = "{certificate}"')
        yield found


def build(site: Site) -> str:
    """Look up an image in the account, which is the first AWS call of a build."""
    account = SiteAccount(Context(site.repository.root, site_name="aws")).account
    found = account.image(IMAGE)
    assert found is not None
    return str(found["ImageId"])


def lock_images(site: Site) -> str:
    path = site.repository.root / "catalog/systems/tiny-1.toml"
    source = 'user = "admin"\nregions = ["us-east-1"]\nowner = "123456789012"\nname = "tiny-*"\n'
    path.write_text(f"{path.read_text()}\n[ami]\n{source}")
    site.repository.write(
        "catalog/targets/ami-hello.toml",
        'summary = "an AMI"\nkind = "ami"\ncomponents = ["base"]\n' + flavour("tiny-1", "plain-1") + AMI,
    )
    assert main(["lock", "--root", str(site.repository.root)]) == 0
    subject = "us-east-1 x86_64 123456789012/tiny-*"
    return lock.read(site.repository.root).value("ami", subject)


def test_publisher_uses_the_proxy_and_the_ca_of_the_site(
    repository: Repository, serve: Serve, certificate: Path, credentials: None, tmp_path: Path
) -> None:
    manifest = b'{"schemaVersion": 2}'
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    stub = serve(Stub(answer=lambda _: (200, {"Docker-Content-Digest": digest}, manifest)), tls(certificate))
    with tunnel_to(stub.host) as tunnel:
        repository.write(
            "site.toml",
            f'[mirror]\nproxy = "{tunnel.url}"\nca_bundle = "{certificate}"\n'
            '[registry]\npush = "registry.test/team"\n',
        )
        publisher = open_publisher(Context(repository.root), Engine(), threading.Event())
        name = f"registry.test/team/hello@{digest}"
        assert publisher.holds(Publication(name=name, digest=digest, tags=("plain-1",)))
    assert tunnel.asked == ["registry.test:443"]


@pytest.mark.parametrize("verb", [build, lock_images])
def test_lock_and_build_call_aws_through_the_proxy_with_the_ca_of_the_site(
    site: Site, verb: Callable[[Site], str]
) -> None:
    assert verb(site) == IMAGE
    assert site.tunnel.asked == [EC2]


def test_proxy_of_the_site_overrides_the_proxy_of_the_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert build(site) == IMAGE
    assert SiteAccount(Context(site.repository.root, site_name="aws")).account.account_id() == "123456789012"
    assert site.tunnel.asked == [EC2, STS]


def test_untrusted_certificate_fails_with_a_hint_to_set_ca_bundle(site: Site) -> None:
    site.write(f'proxy = "{site.tunnel.url}"')
    with pytest.raises(MissingError, match="SSL validation failed") as caught:
        build(site)
    assert "mirror.ca_bundle" in caught.value.hint


def test_an_endpoint_in_no_proxy_is_called_without_proxy(certificate: Path) -> None:
    proxy = "http://proxy.invalid:3128"
    network = Network(proxies={"https_proxy": proxy, "no_proxy": "ec2.us-east-1.amazonaws.com"})
    account = Account(KEYS, region=EAST, network=network)
    assert account.client("ec2").meta.config.proxies == {}
    assert account.client("sts").meta.config.proxies == {"http": proxy, "https": proxy}
    assert account.client("ec2", "eu-west-1").meta.config.proxies == {"http": proxy, "https": proxy}


def test_endpoint_on_loopback_is_called_without_proxy(
    rehearsed_account: RehearsedAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    proxies = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    for network in (Network(), Network(proxies=proxies)):
        account = Account(environment(rehearsed_account.endpoint), region=EAST, network=network)
        assert account.is_on_this_machine
        assert account.account_id() == "123456789012"
    assert not Account({}, region=EAST).is_on_this_machine


def test_tool_environment_has_the_proxies_and_cas_of_the_account(
    certificate: Path, credentials: None
) -> None:
    proxies = {"https_proxy": "http://proxy.invalid:3128", "no_proxy": "a.invalid"}
    account = Account(KEYS, region=EAST, network=Network(proxies=proxies, ca_bundle=certificate))
    found = account.tool_environment
    for name, value in proxies.items():
        assert found[name] == found[name.upper()] == value
    assert KEYS.items() <= found.items()
    trusted = Path(found["AWS_CA_BUNDLE"])
    for bundle in (Path(certifi.where()), certificate):
        assert bundle.read_text() in trusted.read_text()
    plain = Account(KEYS, region=EAST).tool_environment
    assert plain == KEYS
    del account
    assert not trusted.exists()


@pytest.mark.usefixtures("credentials", "no_retries")
def test_error_names_the_endpoint_that_does_not_answer() -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{gone.getsockname()[1]}"
        account = Account(os.environ | {"AWS_ENDPOINT_URL": endpoint}, region=EAST)
        with pytest.raises(MissingError) as caught:
            account.account_id()
    assert endpoint in caught.value.message


@pytest.mark.usefixtures("credentials", "no_retries")
def test_a_web_page_instead_of_a_response_of_aws_is_one_error(serve: Serve) -> None:
    stub = serve(Stub(answer=lambda _: (500, {}, b"<!doctype html>\n<h1>Log in</h1>")))
    account = Account(os.environ | {"AWS_ENDPOINT_URL": f"http://{stub.host}"}, region=EAST)
    with pytest.raises(MissingError, match="the response is not from AWS") as caught:
        account.account_id()
    assert "\n" not in caught.value.message
    assert "mirror.proxy" in caught.value.hint


def test_missing_credentials_fail_with_a_hint_to_log_in(
    credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in KEYS:
        monkeypatch.delenv(name)
    account = Account({}, region=EAST)
    for _ in range(2):
        with pytest.raises(MissingError, match="no AWS credentials found") as caught:
            account.account_id()
        assert "aws sso login" in caught.value.hint
