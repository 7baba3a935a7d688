"""Wrong values of arguments and options: one error line with the value, a hint, and no traceback."""

import pytest

from builder.adapters.container.finder import EngineFinder
from builder.cli.main import main
from tests.support.repository import AMI, Repository, flavour

_LAUNCH = '[launch]\nrunner = "none"\ncommand = ["python"]\n'
_ON = "launch trainer --on slurm --instance m7i.large"

# Commands whose next word is a name that does not exist.
ARGUMENTS = (
    *("show", "plan", "build --dry-run", "run", "iam", "lock", "squashfs", "clean", "logs", "role"),
    *("stack show", "stack check", "stack diff plain-1", "ami show", "init target", "init component"),
    *("deploy plan", "completion", "help", "launch --on slurm --instance m7i.large"),
)
# Commands whose last option gets the value.
OPTIONS = (
    *("plan hello --flavour", "plan hello --site", "build hello --dry-run --rebuild", "build hello -j"),
    *("clean --older-than", "clean --max-size", "clean --keep-last", "stack check --set"),
    *("stack check --instance", "stack solve --instance", "stack solve --pin", "launch trainer --on"),
    *(f"{_ON} --nodes", f"{_ON} --processes", f"{_ON} --mount", "launch trainer --on slurm --instance"),
    *("lock --update", "rehearse up --pending", "rehearse status --name"),
    *("iam machine --partition", "iam machine --packer", "init stack new --from", "role base --system"),
    *("role base --set", "ami share machine --account", "ami deprecate machine --after"),
    "rehearse cluster up --instance m7i.large --nodes",
)
VALUES = {
    "letters of other scripts": "héllö-目標",
    "right to left": "שלום",
    "long": "x" * 5000,
    "line end": "a\nb",
    "escape sequence": "a\x1b[31mb",
    "path": "../../etc/passwd",
    "shell": "$(reboot);`id`",
}


@pytest.fixture
def site(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository with a container, a program to launch and a machine; there is no engine."""
    before, _, flavours = (
        (repository.root / "catalog/targets/hello.toml").read_text(encoding="utf-8").partition("[flavours")
    )
    machine = 'summary = "a machine"\nkind = "ami"\ncomponents = ["base"]\n'
    repository.write("catalog/targets/trainer.toml", f"{before}{_LAUNCH}[flavours{flavours}")
    repository.write("catalog/targets/machine.toml", machine + AMI + flavour("tiny-1", "plain-1"))
    repository.relock()
    monkeypatch.setattr(EngineFinder, "images", {})
    monkeypatch.setenv("BUILDER_HOME", str(repository.root / "home"))
    monkeypatch.setenv("BUILDER_ROOT", str(repository.root))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    monkeypatch.delenv("BUILDER_SITE", raising=False)
    monkeypatch.chdir(repository.root)
    return repository


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("commands", [ARGUMENTS, OPTIONS], ids=["arguments", "options"])
def test_a_wrong_value_is_refused_in_one_line_with_the_value_and_a_hint(
    site: Repository, capsys: pytest.CaptureFixture[str], commands: tuple[str, ...], value: str
) -> None:
    shown = value[:40] if value.isprintable() else repr(value)
    for command in commands:
        code = main([*command.split(), value])
        out, err = capsys.readouterr()
        message, *rest = err.splitlines()
        where = f"{command} {value[:40]!r}: exit code {code}\n{out}{err}"
        assert code == 2, where
        assert message.startswith("error: "), where
        assert shown in message, where
        assert rest[-1].startswith("hint: "), where
        assert (out, err.count("error: ")) == ("", 1), where
        assert max(map(len, err.splitlines())) < 1000, where
        assert "\x1b" not in err, where
