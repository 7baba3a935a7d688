"""`builder init site` writes a site file from options or answers; each commented line is a valid setting."""

import re
from pathlib import Path

import pytest

from builder import site
from builder.app import initial_site
from builder.cli.main import main
from builder.errors import UsageError
from tests.support.repository import Repository

Capture = pytest.CaptureFixture[str]
ANSWERS = {
    "aws.account": "123456789012",
    "aws.region": "eu-west-1",
    "aws.public_address": True,
    "aws.source_cidrs": ["203.0.113.7/32", "198.51.100.0/24"],
    "registry.push": "ecr/training",
}


@pytest.fixture(autouse=True)
def own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "site.toml"
    monkeypatch.setenv("BUILDER_SITE_FILE", str(path))
    return path


def test_written_site_file_sets_only_the_given_answers(own_file: Path) -> None:
    initial_site.write(own_file, ANSWERS)
    found = site.load(own_file.parent)
    assert found.given == ANSWERS.keys()
    assert found.aws.source_cidrs == ("203.0.113.7/32", "198.51.100.0/24")
    assert (found.aws.region, found.aws.public_address, found.registry.push) == (
        "eu-west-1",
        True,
        "ecr/training",
    )


def test_every_setting_in_a_comment_of_the_site_file_is_valid(own_file: Path) -> None:
    initial_site.write(own_file, {})
    assert site.load(own_file.parent) == site.Site()
    text = own_file.read_text()
    own_file.write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.M))
    keys = {
        f"{section}.{name}"
        for section, kind in site.SECTIONS.items()
        for name in kind.__dataclass_fields__
        if name != "prefixes"
    }
    assert site.load(own_file.parent).given == keys


def test_every_question_belongs_to_a_key_of_the_site_file() -> None:
    for question in initial_site.QUESTIONS:
        section, _, name = question.key.partition(".")
        assert name in site.SECTIONS[section].__dataclass_fields__


def test_asks_again_until_an_answer_is_valid() -> None:
    answers = iter(
        ["1234", "123456789012", "", "", "maybe", "no", "10.0.0.1/33", " 10.0.0.1/32 , ", "", "", ""]
    )
    said: list[str] = []
    asked: list[str] = []

    def read(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    found = initial_site.ask(initial_site.QUESTIONS, read, said.append)
    assert found == {
        "aws.account": "123456789012",
        "aws.public_address": False,
        "aws.source_cidrs": ["10.0.0.1/32"],
    }
    assert said == [
        "aws.account: must be an account id of 12 digits, not '1234'",
        "aws.public_address: must be yes or no, not 'maybe'",
        "aws.source_cidrs: must be a network such as 203.0.113.0/24, not '10.0.0.1/33'",
    ]
    assert "region in which AMIs are built [us-east-1]: " in asked


def test_options_replace_the_questions_without_a_terminal(
    repository: Repository, own_file: Path, capsys: Capture
) -> None:
    words = ["--region", "eu-west-1", "--public-address", "yes", "--source-cidr", "203.0.113.7/32"]
    assert main(["init", "site", "--root", str(repository.root), *words]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{own_file}\n"
    assert "next: builder doctor --site aws" in shown.err
    assert site.load(own_file.parent).given == {"aws.region", "aws.public_address", "aws.source_cidrs"}
    assert main(["init", "site", "--root", str(repository.root)]) == 2
    assert "exists already; nothing was written" in capsys.readouterr().err


def test_invalid_option_writes_nothing(repository: Repository, own_file: Path, capsys: Capture) -> None:
    assert main(["init", "site", "--root", str(repository.root), "--region", "europe"]) == 2
    assert "aws.region: must be a region such as us-east-1, not 'europe'" in capsys.readouterr().err
    assert not own_file.exists()
    with pytest.raises(UsageError, match="must be yes or no"):
        initial_site.parse_answer("aws.public_address", "perhaps")
