"""Site file: its settings, and errors that name file and key."""

from pathlib import Path

import pytest

from builder import site
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
    ],
)
def test_error_names_file_and_key(file: Path, text: str, problem: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        site.load(file.parent)
    assert caught.value.message.startswith(f"{file}: {problem}")
    assert caught.value.hint == f"correct {file}"


def test_all_errors_are_reported_at_once(file: Path) -> None:
    file.write_text("[aws]\nregion = 1\nencrypt = 2\n[registry]\npish = 3\n")
    with pytest.raises(UsageError) as caught:
        site.load(file.parent)
    assert caught.value.message == f"{file}: aws.region: must be a string, not 1 (and 2 more)"
    assert caught.value.details.splitlines() == [
        f"{file}: aws.encrypt: must be true or false, not 2",
        f"{file}: registry.pish: unknown key (did you mean 'push'?)",
    ]


def test_file_named_by_builder_site_file_must_exist(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_SITE_FILE", str(file))
    with pytest.raises(UsageError, match="BUILDER_SITE_FILE: no file"):
        site.load(file.parent)
