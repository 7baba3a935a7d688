"""Command line: target names and patterns, contradictory options, and refused plans and builds."""

import os
import threading
from pathlib import Path

import pytest

from builder.adapters.container.finder import EngineFinder
from builder.adapters.engine.client import Engine, Image
from builder.app.context import Context, open_context
from builder.app.lanes.ami import AmiLane
from builder.cli import ami, build, lock, rehearse, stack
from builder.cli.main import main
from builder.marks import KEY_LABEL
from tests.support.output import result_of
from tests.support.repository import AMI, Repository, flavour


@pytest.fixture
def site(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Repository:
    """A repository with the targets `hello` and `helium`, on a machine with an empty engine."""
    text = (repository.root / "catalog/targets/hello.toml").read_text(encoding="utf-8")
    repository.write("catalog/targets/helium.toml", text)
    repository.relock()
    monkeypatch.setattr(EngineFinder, "images", {})
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BUILDER_SITE", raising=False)
    return repository


def call(capsys: pytest.CaptureFixture[str], repository: Repository, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    end = words.index("--") if "--" in words else len(words)
    code = main([*words[:end], "--root", str(repository.root), *words[end:]])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    "words",
    [
        ["hello", "helium"],
        ["--target", "hello", "helium"],
        ["hello", "--json", "helium"],
        ["--target", "hello", "--target", "helium"],
        ["hel*"],
        ["h[e]l?o", "helium", "hello"],
    ],
)
def test_targets_are_given_as_arguments_options_or_patterns(
    site: Repository, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, out, _ = call(capsys, site, "plan", *words)
    assert code == 0
    assert sum(f"{name} (plain" in out or f'"target": "{name}"' in out for name in ("hello", "helium")) == 2


def test_show_and_iam_take_one_target(site: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, site, "show", "hell*")[0] == 0
    code, _, err = call(capsys, site, "show", "hel*")
    assert code == 2
    assert "builder show takes one target, not 2: helium, hello\nhint: builder show helium" in err
    assert "no target matches 'x*'" in call(capsys, site, "iam", "x*")[2]


CONTRADICTIONS = [
    (["build", "--all", "hello"], "--all is not allowed with named targets"),
    (["build", "--all", "--target", "hello"], "--all is not allowed with named targets"),
    (["build", "hello", "--kind", "ami"], "--kind requires --all"),
    (["build", "hello", "-j", "99999999999999"], "--jobs 99999999999999: must be 1 to 1000"),
    (
        ["build", "hello", "--dry-run", "--json"],
        "--dry-run is not allowed with --json\nhint: builder plan --json hello",
    ),
    (["build", "hello", "--rebuild", "sytem"], "--rebuild sytem: no such layer (did you mean 'system'?)"),
    (["build", "hello", "--dry-run", "--rebuild", "x"], "(available: base, final, system, workload)"),
    (["plan", "--write-golden", ".", "--json"], "--write-golden is not allowed with"),
    (["list", "--names", "--json"], "not allowed with argument"),
    (["lock", "--diff", "--verify"], "--verify and --diff exclude each other"),
    (["lock", "--names", "--json"], "--names and --json exclude each other"),
    (["clean", "--all", "--older-than", "1d"], "not allowed with --older-than"),
    (["clean", "--older-than", "-1d"], "argument --older-than: '-1d' is not a duration"),
    (["clean", "--max-size", "-5G"], "argument --max-size: '-5G' is not a size"),
    (["clean", "--older-than", "--yes"], "argument --older-than: expected one argument"),
    (["build", "hello", "-j", "-2x"], "argument -j/--jobs: invalid int value: '-2x'"),
    (["plan", "--flavour", "-x", "hello"], "target 'hello' has no flavour '-x'"),
    (["clean", "20260101-000000-hello-abcdef", "--all"], "RUN is not allowed with --all"),
    (["clean", "20260101-000000-hello-abcdef", "--older-than", "1d"], "RUN is not allowed with --older-than"),
    (["clean", "i-0123456789abcdef0"], "'i-0123456789abcdef0' is not the name of a run"),
    (["ami", "list", "hello"], "unrecognized arguments: hello"),
    (["ami", "list", "--account", "5", "--after", "3"], "unrecognized arguments: --account"),
    (["ami", "show", "ami-000"], "'ami-000' is neither a target nor an AMI ID"),
    (
        ["ami", "share", "ami-00000000", "--account", "abc"],
        "--account abc: must be an account id",
    ),
    (["ami", "share", "ami-00000000", "--account", "12"], "--account 12: must be an account id"),
    (["ami", "share", "ami-00000000", "--organization", "nope"], "--organization nope: must be "),
    (["ami", "deprecate", "ami-00000000"], "are required: --after"),
    (["ami", "deprecate", "ami-00000000", "--after", "99999999"], "--after 99999999: must be 1 to 3650 days"),
    (["ami", "--site", "aws", "list"], "options follow the action\nhint: builder ami list --site aws"),
    (["ami", "lst"], "no action 'lst' (did you mean 'list'?)"),
    (["rehearse", "up", "--pending", "-5"], "--pending -5: must be 0 to 3600 seconds"),
    (["rehearse", "down", "--pending", "5"], "unrecognized arguments: --pending"),
    (["role", "--write-docs", "base"], "--write-docs is not allowed with COMPONENT or --json"),
    (["build", "hello", "--job", "2"], "--job 2 (did you mean '--jobs'?)"),
    (["plan", "hello", "--flavour", ""], "argument --flavour: must not be empty"),
    (["plan", "hello", "--flavour="], "argument --flavour: must not be empty"),
    (["lint", ""], "an argument must not be empty"),
    (["lint", "/dev/null"], "/dev/null: is not a regular file or folder"),
    (["logs", "0"], "no run '0'"),
    (["plan", "HELLO"], "no target 'HELLO' (did you mean 'hello'?)"),
    (["plan", "a\nb"], "an argument has a control character: 'a\\nb'"),
    (
        ["plan", "hello", "--flavour", "a\x1b[31m"],
        "argument --flavour: has a control character: 'a\\x1b[31m'",
    ),
    (["clean", "--older-than=1\t"], "an argument has a control character: '--older-than=1\\t'"),
    (["plan", "hello", "--flavour", "plain", "--flavour", "x"], "--flavour: given twice, 'plain' and 'x'"),
    (["plan", "hello", "--site", "local", "--site=aws"], "argument --site: given twice, 'local' and 'aws'"),
    (["build", "hello", "-j", "1", "--jobs", "2"], "argument --jobs: given twice, '1' and '2'"),
    (["clean", "--keep-last", "1", "--keep-last", "2"], "argument --keep-last: given twice, '1' and '2'"),
    (
        ["plan", "--write-golden", "ansible/ansible.cfg"],
        "--write-golden: ansible/ansible.cfg is not a folder",
    ),
    (["plan", "--write-golden", "none"], "--write-golden: no folder none"),
    (["build", "--", "--all"], "no target '--all'"),
    (["show", "--", "--flavour", "-x"], "no target '--flavour'"),
    (["show", "hello", "--", "-x"], "no target '-x'"),
    (["clean", "--", "--yes"], "'--yes' is not the name of a run"),
    (["list", "--", "--names"], "unrecognized arguments: --names"),
]


@pytest.mark.parametrize(("words", "message"), CONTRADICTIONS)
def test_refuses_contradictory_options_and_options_without_effect(
    site: Repository, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    code, out, err = call(capsys, site, *words)
    assert (code, bool(out)) == (2, "--json" in words)
    assert message in err
    assert "hint: " in err


def test_an_option_given_twice_with_the_same_value_is_accepted(
    site: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--flavour",
        "plain",
        "--flavour=plain",
        "--target",
        "helium",
        "--target",
        "hello",
        "--json",
        "--json",
    ]
    assert [plan["target"] for plan in result_of(call(capsys, site, "plan", *words)[1])] == [
        "helium",
        "hello",
    ]


@pytest.mark.parametrize("words", [["show"], ["copy", "--region", "us-west-2"], ["retire", "--yes"]])
def test_builder_ami_starts_no_rehearsal(
    site: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setenv("BUILDER_HOME", str(site.root / "home"))
    reason = "the rehearsal of an AWS account is not running"
    code, out, err = call(capsys, site, "ami", "list")
    assert (code, out, err) == (0, "", f"{reason}, so there are no AMIs\n")
    assert '"result": []' in call(capsys, site, "ami", "list", "--json")[1]
    code, out, err = call(capsys, site, "ami", words[0], "ami-00000000", *words[1:])
    assert (code, out) == (3, "")
    assert f"error: {reason}\nhint: builder rehearse up;" in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--json", "list"], "hint: builder list --json\n"),
        (["-v"], "hint: builder --help\n"),
        (["ami"], "no action given (available: list, show, copy,"),
    ],
)
def test_options_follow_the_command(capsys: pytest.CaptureFixture[str], words: list[str], hint: str) -> None:
    assert main(words) == 2
    assert hint in capsys.readouterr().err


def test_help_build_prints_the_help_of_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "build"]) == 0
    assert capsys.readouterr().out.startswith("usage: builder build")


@pytest.mark.parametrize("module", [ami, rehearse, stack])
def test_every_subcommand_has_its_own_help(module: object, capsys: pytest.CaptureFixture[str]) -> None:
    verb = module.__name__.rpartition(".")[2]  # type: ignore[attr-defined]
    for name, action in module.ACTIONS.items():  # type: ignore[attr-defined]
        assert main([verb, *name.split(), "--help"]) == 0
        assert capsys.readouterr().out.startswith(f"usage: builder {verb} {name}")
        assert action.summary[0].islower()


@pytest.mark.parametrize("verb", ["plan", "build"])
def test_a_container_for_an_aws_account_needs_ecr(
    site: Repository, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    for text, code in (
        ("", 2),
        ('[registry]\npush = "127.0.0.1:5000"\n', 2),
        ('[registry]\npush = "ecr/team"\n', 7),
        ('[registry]\npush = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"\n', 7),
    ):
        site.write("site.toml", text)
        site.write("containers/hello/requirements.lock", "")  # not locked: nothing is built
        ended, _, err = call(capsys, site, verb, "hello", "--site", "aws")
        assert (text, ended) == (text, code)
        assert ("publishes containers to ECR, and registry.push" in err) == (code == 2)
    assert call(capsys, site, "build", "--all", "--kind", "container", "--site", "aws")[0] == 0


def test_plan_of_a_refused_build_is_printed_with_the_error_of_the_build(
    site: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    site.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    code, out, err = call(capsys, site, "plan", "hello")
    assert code == 7
    assert "hello (plain" in out
    assert (code, err) == call(capsys, site, "build", "hello")[::2]
    site.write("site.toml", "[mirrors]\n")
    code, out, err = call(capsys, site, "plan", "hello")
    assert (code, "unknown section 'mirrors'" in err) == (2, True)


def test_a_dry_run_prints_the_plan(site: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    plan = call(capsys, site, "plan", "hello", "helium")
    assert call(capsys, site, "build", "hello", "helium", "--dry-run", "--jobs", "2", "--keep-failed") == plan
    code, out, _ = call(capsys, site, "build", "--all", "--dry-run")
    assert (code, "helium (plain" in out, "hello (plain" in out) == (0, True, True)
    site.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    assert call(capsys, site, "build", "hello", "--dry-run") == call(capsys, site, "plan", "hello")


def test_plan_with_rebuild_marks_the_layer_and_all_layers_above(
    site: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {
        layer.key: Image(id=layer.key, size_bytes=1, tags=(), labels={KEY_LABEL: layer.key}, created=1)
        for layer in site.plan().layers
    }
    monkeypatch.setattr(EngineFinder, "images", images)
    out = call(capsys, site, "build", "hello", "--dry-run", "--rebuild", "final")[1]
    states = {line.split("\t")[0]: line.split("\t")[3:] for line in out.splitlines() if line.count("\t") == 4}
    assert states["base"] == states["system"] == ["reuse", "in this engine"]
    assert states["final"] == ["build", "requested by --rebuild"]
    assert states["workload"] == ["build", "a layer below it is rebuilt"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--rebuild", "image"], "--rebuild image: no such layer (available: base, system)"),
        (["--reproduce"], "--reproduce compares container images, but target 'machine' is an AMI"),
    ],
)
def test_an_ami_build_refuses_an_unknown_layer_and_the_reproduce_option(
    site: Repository, capsys: pytest.CaptureFixture[str], option: list[str], message: str
) -> None:
    text = 'summary = "a machine"\nkind = "ami"\ncomponents = ["base"]\n'
    site.write("catalog/targets/machine.toml", text + AMI + flavour("tiny-1", "plain-1"))
    site.relock()
    code, _, err = call(capsys, site, "build", "machine", *option)
    assert (code, message in err) == (2, True)


def test_a_container_image_cannot_be_checked_as_an_ami_target(
    site: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "inspect_image", lambda *_: {"Id": "sha256:1", "Config": {"Labels": None}})
    text = 'summary = "a machine"\nkind = "ami"\ncomponents = ["base"]\n'
    site.write("catalog/targets/machine.toml", text + AMI + flavour("tiny-1", "plain-1"))
    site.relock()
    code, out, err = call(capsys, site, "check", "x:1", "--target", "machine")
    assert (code, out) == (2, "")
    assert "target 'machine' is of kind ami, but 'x:1' is a container image\nhint: builder list" in err
    assert "has no label factory.target" in call(capsys, site, "check", "x:1")[2]
    assert "--only a b: must be one word" in call(capsys, site, "check", "x:1", "--only", "a b")[2]


def test_an_ami_that_cannot_be_rehearsed_is_planned_but_not_built(
    site: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (site.root / "catalog/systems/tiny-1.toml").read_text(encoding="utf-8").partition("[bootstrap]")[0]
    ami_text = '[ami]\nuser = "a"\nregions = ["us-east-1"]\nparameter = "/images/{arch}"\n'
    site.write("catalog/systems/vendor-1.toml", text + ami_text)
    site.write(
        "catalog/targets/machine.toml",
        'summary = "a machine"\nkind = "ami"\ncomponents = ["base"]\n'
        + AMI
        + flavour("vendor-1", "plain-1")
        + flavour("vendor-1", "plain-1", "wide"),
    )
    site.relock()
    code, out, err = call(capsys, site, "plan", "machine", "--flavour", "wide")
    assert code == 2
    assert "machine (wide" in out
    assert "hint: builder build machine --site aws --flavour wide" in err
    code, _, err = call(capsys, site, "build", "--all", "--kind", "ami")
    assert (code, "left out: machine: target 'machine' cannot be rehearsed" in err) == (0, True)


def test_a_rehearsed_build_prints_the_flavour_that_is_the_default_in_aws(
    site: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (site.root / "catalog/systems/tiny-1.toml").read_text(encoding="utf-8").partition("[bootstrap]")[0]
    vendor = '[ami]\nuser = "a"\nregions = ["us-east-1"]\nparameter = "/images/{arch}"\n'
    site.write("catalog/systems/vendor-1.toml", text + vendor)
    local = flavour("tiny-1", "plain-1") + 'site = "local"\n'
    site.write(
        "catalog/targets/machine.toml",
        'summary = "a machine"\nkind = "ami"\ncomponents = ["base"]\n'
        + AMI
        + local
        + flavour("vendor-1", "plain-1", "wide"),
    )
    site.relock()
    for chosen, note in (("", "machine: flavour plain; --site aws builds wide\n"), ("wide", "")):
        context = Context(site.root, flavour=chosen)
        AmiLane(context, threading.Event()).prepare([context.plan("machine")], publish=False)
        printed = capsys.readouterr().err
        assert printed == f"rehearsal on this machine, no AWS account is touched: a system\n{note}"


def test_build_all_leaves_out_targets_with_missing_lock_entries(
    site: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    site.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    code, out, err = call(capsys, site, "build", "--all")
    assert (code, out) == (0, "")
    assert err.count("left out: ") == 2
    assert "left out: helium: catalog/lock.json: 1 download of this build missing" in err
    site.write("catalog/lock.json", "{")
    assert call(capsys, site, "build", "--all")[0] == 7


def test_stack_diff_of_a_stack_with_itself_is_empty(
    site: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, site, "stack", "diff", "plain-1", "plain-1")
    assert (code, out, err) == (0, "", "no difference between plain-1 and plain-1\n")
    site.write("catalog/versions/fabric.toml", 'summary = "The fabric"\nside = "image"\n')
    site.write("catalog/stacks/plain-2.toml", 'summary = "b"\n[pins]\nfabric = "2.0-1"\n')
    code, out, _ = call(capsys, site, "stack", "diff", "plain-1", "plain-2", "--json")
    assert (code, [row["fact"] for row in result_of(out)]) == (1, ["fabric"])


def test_options_may_stand_between_targets() -> None:
    parsed = build.options().parse_args(["a", "--jobs", "2", "b", "--publish", "c"])
    assert (parsed.targets, parsed.jobs, parsed.publish) == (["a", "b", "c"], 2, True)
    assert lock.options().parse_args([]).update == []
    assert open_context(build.options().parse_args(["--root", "/x"])).root == Path("/x")


def test_a_wrong_builder_root_is_not_replaced_by_another_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_ROOT", str(tmp_path))
    assert main(["list"]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_lint_does_not_wait_for_the_writer_of_a_named_pipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["lint", str(tmp_path)]) == 0
    assert main(["lint", str(tmp_path / "pipe")]) == 2
    assert "is not a regular file or folder" in capsys.readouterr().err


def test_a_check_that_is_no_python_is_refused_before_the_build(
    site: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "ansible/roles/base/tests/test_base.py"
    site.write(path, "def test_it(host):\n    assert (\n")
    code, out, err = call(capsys, site, "build", "hello")
    assert (code, out) == (5, "")
    assert err.startswith(f"error: {path}:2: '(' was never closed\nhint: correct {path}")
