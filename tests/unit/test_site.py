"""Site file site.toml: its settings, and errors that name file and key."""

from dataclasses import fields
from pathlib import Path

import pytest

from builder import site
from builder.app import settings
from builder.errors import UsageError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BUILDER_SITE_FILE", raising=False)
    return tmp_path / "site.toml"


def test_missing_site_file_means_default_settings(file: Path) -> None:
    assert site.load(file.parent) == site.Site()


def test_settings_of_every_type_are_read(file: Path) -> None:
    file.write_text(
        '[aws]\nregion = "eu-west-1"\nwait_minutes = 5\nencrypt = true\ncopy_regions = ["us-east-2"]\n'
        '[mirror.prefixes]\n"https://a.example/" = "https://b.example/"\n'
    )
    read = site.load(file.parent)
    assert (read.aws.region, read.aws.wait_minutes, read.aws.encrypt) == ("eu-west-1", 5, True)
    assert read.aws.copy_regions == ("us-east-2",)
    assert read.mirror.rewrite("https://a.example/x") == "https://b.example/x"
    assert read.registry == site.RegistrySettings()


@pytest.mark.parametrize(("text", "expected"), [("", None), ("false", False), ("true", True)])
def test_unset_site_setting_public_address_differs_from_false(
    file: Path, text: str, expected: bool | None
) -> None:
    file.write_text(f"[aws]\npublic_address = {text}\n" if text else "[aws]\n")
    assert site.load(file.parent).aws.public_address is expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("aws", "not TOML: "),
        ("[awz]\n", "unknown section 'awz' (did you mean 'aws'?)"),
        ("aws = 1\n", "unknown section 'aws'"),
        ('[aws]\nregoin = "x"\n', "aws.regoin: unknown key (did you mean 'region'?)"),
        ("[aws]\nregion = 1\n", "aws.region: must be a string, not 1"),
        ("[aws]\nencrypt = 1\n", "aws.encrypt: must be true or false, not 1"),
        ("[aws]\nwait_minutes = -1\n", "aws.wait_minutes: must be a whole number of at least 0, not -1"),
        ("[aws]\nwait_minutes = true\n", "aws.wait_minutes: must be a whole number of at least 0, not True"),
        ("[aws]\ncopy_regions = [1]\n", "aws.copy_regions: must be a list of strings, not [1]"),
        ("[mirror.prefixes]\na = 1\n", "mirror.prefixes: must be a table of strings, not {'a': 1}"),
        ('mirror.apt = "not a url"', "mirror.apt: must be an http, https or file URL, not 'not a url'"),
        ('mirror.apt = "http://a:99999/"', "mirror.apt: must be an http, https or file URL"),
        ('mirror.apt = "http://"', "mirror.apt: must be"),
        ('mirror.apt = "ftp://a.example/"', "mirror.apt: must be"),
        ('mirror.pip_index = "wheels"', "mirror.pip_index: must be an http, https or file URL, or an abs"),
        ('mirror.pip_find_links = ["/a", "b"]', "mirror.pip_find_links[1]: must be"),
        ('mirror.proxy = "foo"', "mirror.proxy: must be http://HOST:PORT, https://HOST:PORT or HOST:PORT"),
        ('mirror.ca_bundle = "ca.pem"', "mirror.ca_bundle: must be an absolute path, not 'ca.pem'"),
        ('mirror.snapshot = "http://a/{archive}"', "mirror.snapshot: must be a URL that contains {archive}"),
        ('mirror.token_hosts = ["https://a"]', "mirror.token_hosts[0]: must be HOST or HOST:PORT"),
        ('mirror.prefixes = {"" = "http://a/"}', "mirror.prefixes: a prefix must not be empty"),
        ('mirror.prefixes = {"http://a/" = "b"}', "mirror.prefixes.http://a/: must be an http, https or"),
        ('mirror.prefixes = {"a/" = "http://b/"}', "mirror.prefixes.a/: must be HOST[:PORT]/PATH, not"),
        ('registry.push = "http://a/b"', "registry.push: must be HOST[:PORT][/PATH] in lower case and"),
        ('registry.push = "UPPER/Case Bad"', "registry.push: must be HOST[:PORT][/PATH] in lower case and"),
        ('registry.cache = "host"', "registry.cache: must be HOST[:PORT]/PATH in lower case"),
        ('aws.region = "mars-1"', "aws.region: must be a region such as us-east-1, not 'mars-1'"),
        ('aws.copy_regions = ["us-east-1", "x"]', "aws.copy_regions[1]: must be a region"),
        ('aws.share_accounts = ["12"]', "aws.share_accounts[0]: must be an account id of 12 digits"),
        ('aws.share_organizations = ["nope"]', "aws.share_organizations[0]: must be the ARN of an"),
        ('aws.source_cidrs = ["0.0.0.0/99"]', "aws.source_cidrs[0]: must be a network such as"),
        ('aws.ssh_interface = "public"', "aws.ssh_interface: must be one of private_ip, public_ip, ses"),
        ('aws.parameters = "factory"', "aws.parameters: must be a parameter prefix such as /image-factory"),
        ('aws.subnet = "default"', "aws.subnet: must be a subnet id"),
    ],
)
def test_error_names_file_and_key(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        site.load(file.parent)
    assert caught.value.message.startswith(f"{file}: {problem}")
    assert caught.value.hint == f"correct {file}"


VALID = """
[mirror]
apt = "http://user:word@[::1]:8080/debian"
apt_security = "file:///srv/security"
pip_index = "https://wheels.example/simple"
pip_find_links = ["/srv/wheels", "file:///srv/wheels", "http://127.0.0.1:1/links"]
ca_bundle = "/etc/ssl/certs/ca-certificates.crt"
proxy = "proxy.example:3128"
no_proxy = "localhost,.example"
token_hosts = ["auth.example:5000"]
snapshot = "https://snapshot.example/archive/{archive}/{stamp}"
[mirror.prefixes]
"https://github.com/" = "file:///srv/github/"
"docker.io/library/" = "mirror.example:5000/library/"
[registry]
push = "ecr/team"
cache = "registry.example:5000/training/layer-cache"
[aws]
region = "us-gov-west-1"
subnet = "subnet-0123456789abcdef0"
source_cidrs = ["203.0.113.0/24", "2001:db8::/32"]
instance_profile = "Build+Profile@1"
ssh_interface = "session_manager"
share_accounts = ["123456789012"]
share_organizations = ["arn:aws:organizations::123456789012:ou/o-a1b2c3d4e5/ou-ab12-c3d4e5f6"]
parameters = "/image-factory/v2"
"""


def test_valid_values_of_every_form_are_read(file: Path) -> None:
    file.write_text(VALID)
    read = site.load(file.parent)
    assert read.mirror.apt.startswith("http://user:word@")
    assert {"mirror.apt", "mirror.prefixes", "registry.push", "aws.region"} <= read.given


def test_empty_strings_in_the_site_file_mean_the_default(file: Path) -> None:
    keys = [
        f'{section}.{field.name} = ""'
        for section, kind in site.SECTIONS.items()
        for field in fields(kind)
        if field.default == ""
    ]
    file.write_text("\n".join(keys))
    assert site.load(file.parent).mirror == site.MirrorSettings()


def test_every_key_of_the_site_file_is_documented(root: Path) -> None:
    assert (root / settings.PAGE).read_text() == settings.page(), "run: builder config --write-docs"


def test_all_errors_in_the_site_file_are_reported_at_once(file: Path) -> None:
    file.write_text("[aws]\nregion = 1\nencrypt = 2\n[registry]\npish = 3\n")
    with pytest.raises(UsageError) as caught:
        site.load(file.parent)
    assert caught.value.message == f"{file}: aws.region: must be a string, not 1 (and 2 more)"
    assert caught.value.details.splitlines() == [
        f"{file}: aws.encrypt: must be true or false, not 2",
        f"{file}: registry.pish: unknown key (did you mean 'push'?)",
    ]


def test_file_in_variable_builder_site_file_must_exist(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_SITE_FILE", str(file))
    with pytest.raises(UsageError, match="BUILDER_SITE_FILE: no file"):
        site.load(file.parent)
