"""The command line: output, refused arguments, and quick commands that import no third-party package."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from builder.cli import main as cli
from builder.errors import IntegrityError
from tests.support.output import result_of
from tests.support.repository import AMI, Repository, flavour

THIRD_PARTY = {
    "docker",
    "requests",
    "rich",
    "yaml",
    "boto3",
    "pytest",
    "isal",
    "ansible",
    "jinja2",
    "urllib3",
}
PROBE = """
import sys
from builder.cli.main import main
code = main({argv})
print(code, sorted({third} & set(sys.modules)))
"""


def call(*argv: str, root: Path | None = None) -> "subprocess.CompletedProcess[str]":
    words = [*argv, "--root", str(root)] if root else list(argv)
    return subprocess.run(
        [sys.executable, "-m", "builder.cli.main", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "argv", [["--help"], ["--version"], ["list"], ["show", "cpu-ddp"], ["completion", "bash"]]
)
def test_quick_commands_import_no_third_party_package(root: Path, argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(argv=argv, third=THIRD_PARTY)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []"


def test_help_lists_every_command_and_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    printed = call("--help").stdout
    for verb in cli.VERBS:
        assert f"  {verb}" in printed
        with suppress(SystemExit):
            cli.main([verb, "--help"])
        assert capsys.readouterr().out.startswith(f"usage: builder {verb}")


def test_suggests_a_command_for_an_unknown_command() -> None:
    done = call("biuld")
    assert done.returncode == 2
    assert done.stderr == "error: no command 'biuld' (did you mean 'build'?)\nhint: builder --help\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["build"], "builder build: no target given"),
        (["build", "--target", "hello", "--jobs", "0"], "--jobs 0: must be 1 to 1000"),
        (
            ["build", "--target", "hello", "--jbos", "2"],
            "unrecognized arguments: --jbos (did you mean '--jobs'?)",
        ),
        (["show", "helo"], "no target 'helo' (did you mean 'hello'?)"),
        (["registry", "sideways"], "no action 'sideways'"),
        (["role", "base", "--system", "tiny-2"], "no system 'tiny-2' (did you mean 'tiny-1'?)"),
    ],
)
def test_wrong_arguments_end_with_a_message_and_a_hint(
    repository: Repository, argv: list[str], words: str
) -> None:
    done = call(*argv, root=repository.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[mirrors]\n", "unknown section 'mirrors' (did you mean 'mirror'?)"),
        ("[mirror]\naptt = ''\n", "mirror.aptt: unknown key (did you mean 'apt'?)"),
        ("[mirror]\npip_find_links = 'x'\n", "mirror.pip_find_links: must be a list of strings, not 'x'"),
        ("[registry]\npush = 5\n", "registry.push: must be a string, not 5"),
        ("what\n", "not TOML"),
    ],
)
def test_refuses_an_invalid_site_file(repository: Repository, text: str, words: str) -> None:
    repository.write("site.toml", text)
    done = call("build", "--target", "hello", "--publish", root=repository.root)
    assert done.returncode == 2
    assert words in done.stderr


def test_list_and_show_print_json(repository: Repository) -> None:
    targets = result_of(call("list", "--json", root=repository.root).stdout)
    assert [target["name"] for target in targets] == ["hello"]
    shown = result_of(call("show", "hello", "--json", root=repository.root).stdout)
    assert shown["components"] == ["base", "fabric", "workload_env"]
    assert call("list", "--names", root=repository.root).stdout == "hello\n"


def listed(repository: Repository, *words: str) -> list[str]:
    """Run `builder list`; return the words of the row for the target `hello`."""
    lines = call("list", *words, root=repository.root).stdout.splitlines()
    assert lines[0].split()[:4] == ["target", "kind", "locked", "local"]
    return lines[1].split()


def test_list_counts_the_downloads_that_the_lock_lacks(repository: Repository) -> None:
    assert listed(repository)[:3] == ["hello", "container", "yes"]
    repository.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    assert listed(repository)[:4] == ["hello", "container", "1", "missing"]
    (repository.root / "catalog/lock.json").unlink()
    (target,) = result_of(call("list", "--json", root=repository.root).stdout)
    (flavour_of_hello,) = target["flavours"]
    assert (target["locked"], flavour_of_hello["locked"]) == (False, False)
    assert flavour_of_hello["unlocked"] == [
        "requirements ansible/requirements.lock",
        "requirements containers/hello/requirements.lock",
        "suite debian tiny",
        "suite debian tiny-security",
        "suite debian tiny-updates",
    ]
    assert listed(repository)[2:4] == ["5", "missing"]
    assert call("build", "--target", "hello", root=repository.root).returncode == IntegrityError.exit_code


def test_list_counts_missing_downloads_of_the_default_flavour_only(flavoured: Repository) -> None:
    flavoured.write("catalog/stacks/plain-2.toml", 'summary = "another"\n[pins]\nfabric = "2.0-1"\n')
    flavoured.replace(
        "catalog/targets/hello.toml",
        flavour("tiny-1", "plain-1", "wide"),
        flavour("tiny-1", "plain-2", "wide"),
    )
    path = flavoured.root / "catalog/components/fabric.toml"
    download = '[[downloads]]\nname = "a"\nurl = "https://vendor.example/fabric-{version}.tar.gz"\n'
    path.write_text(path.read_text() + download)
    flavoured.relock()
    text = (flavoured.root / "catalog/lock.json").read_text()
    flavoured.write("catalog/lock.json", text.replace("fabric-2.0-1", "fabric-0"))
    assert listed(flavoured)[2] == "yes"
    assert listed(flavoured, "--site", "aws")[2:4] == ["1", "missing"]
    (target,) = result_of(call("list", "--json", root=flavoured.root).stdout)
    assert target["locked"] is True
    assert [flavour["locked"] for flavour in target["flavours"]] == [True, False]


def test_list_counts_missing_downloads_for_aws_if_the_system_has_no_bootstrap(
    repository: Repository,
) -> None:
    path = repository.root / "catalog/systems/tiny-1.toml"
    text = path.read_text(encoding="utf-8").partition("[bootstrap]")[0]
    ami = '[ami]\nuser = "a"\nregions = ["us-east-1"]\nparameter = "/images/{arch}"\n'
    repository.write("catalog/systems/vendor-1.toml", text + ami)
    repository.write(
        "catalog/targets/hello.toml",
        'summary = "a machine"\nkind = "ami"\ncomponents = ["base"]\n' + AMI + flavour("vendor-1", "plain-1"),
    )
    repository.relock()
    text = (repository.root / "catalog/lock.json").read_text()
    repository.write("catalog/lock.json", text.replace("/images/", "/others/"))
    assert listed(repository)[1:6] == ["ami", "1", "missing", "-", "vendor-1"]


def test_list_shows_a_target_without_a_flavour_for_the_site(repository: Repository) -> None:
    repository.replace("catalog/targets/hello.toml", 'stack = "plain-1"', 'stack = "plain-1"\nsite = "local"')
    assert listed(repository)[2:5] == ["yes", "tiny-1", "-"]
    assert listed(repository, "--site", "aws")[2:4] == ["no", "flavour"]


def test_a_closed_pipe_on_stdout_is_no_error(root: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-o",
            "pipefail",
            "-c",
            f"{sys.executable} -m builder.cli.main show cpu-ddp --json | head -1",
        ],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.fixture
def flavoured(repository: Repository) -> Repository:
    """A repository whose target `hello` has a flavour for site local and a flavour for any site."""
    repository.replace("catalog/targets/hello.toml", 'stack = "plain-1"', 'stack = "plain-1"\nsite = "local"')
    path = repository.root / "catalog/targets/hello.toml"
    path.write_text(path.read_text() + flavour("tiny-1", "plain-1", "wide"), encoding="utf-8")
    return repository


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], "plain"),
        (["--site", "aws"], "wide"),
        (["--flavour", "wide"], "wide"),
        (["--site", "aws", "--flavour", "plain"], "plain"),
    ],
)
def test_the_default_flavour_depends_on_the_site(
    flavoured: Repository, words: list[str], chosen: str
) -> None:
    shown = result_of(call("show", "hello", "--json", *words, root=flavoured.root).stdout)
    assert shown["flavour"]["name"] == chosen


def test_show_lists_flavours_and_components_that_the_stack_leaves_out(flavoured: Repository) -> None:
    flavoured.write("catalog/components/spare.toml", 'summary = "spare"\nlayer = "system"\npinned = true\n')
    flavoured.write("ansible/roles/spare/tasks/main.yml", "[]\n")
    flavoured.replace("catalog/targets/hello.toml", "workload =", 'if_pinned = ["spare"]\nworkload =')
    printed = call("show", "hello", root=flavoured.root).stdout
    assert "wide" in printed
    assert "a flavour" in printed
    assert "stack 'plain-1' does not pin it" in printed
    flavoured.replace("catalog/stacks/plain-1.toml", "[pins]", '[pins]\nspare = "1"')
    less = 'summary = "less"\nbase = "plain-1"\n[without]\nspare = "nothing starts it"\n'
    flavoured.write("catalog/stacks/less-1.toml", less)
    flavoured.replace("catalog/targets/hello.toml", 'stack = "plain-1"\nsite', 'stack = "less-1"\nsite')
    assert "nothing starts it" in call("show", "hello", root=flavoured.root).stdout
    assert "left out" not in call("show", "hello", "--flavour", "wide", root=flavoured.root).stdout


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["show", "hello", "--flavour", "wid"], "target 'hello' has no flavour 'wid' (did you mean 'wide'?)"),
        (["plan", "--target", "hello", "--flavour", "x"], "has no flavour 'x' (available: plain, wide)"),
        (["show", "hello", "--system", "wid"], "use --flavour (did you mean 'wide'?)"),
        (["build", "--all", "--system", "tiny-1"], "use --flavour (available: plain, wide)"),
        (["iam", "hello", "--system", "plain"], "use --flavour plain"),
    ],
)
def test_refuses_an_unknown_flavour_and_the_removed_system_option(
    flavoured: Repository, argv: list[str], words: str
) -> None:
    done = call(*argv, root=flavoured.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "hint: " in done.stderr


def test_refuses_a_local_target_on_site_aws(repository: Repository) -> None:
    repository.replace("catalog/targets/hello.toml", 'stack = "plain-1"', 'stack = "plain-1"\nsite = "local"')
    done = call("show", "hello", "--site", "aws", root=repository.root)
    assert done.returncode == 2
    assert "target 'hello' has no flavour for site 'aws'" in done.stderr


def test_build_all_leaves_out_targets_without_the_requested_flavour(flavoured: Repository) -> None:
    done = call("build", "--all", "--flavour", "nowhere", root=flavoured.root)
    assert done.returncode == 0
    assert "left out: hello: target 'hello' has no flavour 'nowhere'" in done.stderr


Shell = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(root: Path) -> Shell:
    """Function that runs `builder` with redirections in bash; the result has the exit code of `builder`."""

    def run(words: str) -> "subprocess.CompletedProcess[str]":
        command = f"{sys.executable} -m builder.cli.main {words}; exit ${{PIPESTATUS[0]}}"
        return subprocess.run(
            ["bash", "-c", command], cwd=root, capture_output=True, text=True, timeout=60, check=False
        )

    return run


LOSSES = ("| true", ">/dev/full", ">&-")


@pytest.mark.parametrize(
    ("words", "codes"),
    [
        ("list", (0, 3, 3)),
        ("list --help", (0, 3, 3)),
        ("--help", (0, 3, 3)),
        ("list --no-such-option", (2, 3, 3)),
        ("build --target no-such-target", (2, 130, 130)),
        ("build --help", (0, 3, 3)),
    ],
)
def test_unwritable_stdout_is_an_error_except_a_closed_pipe_of_a_read_only_command(
    words: str, codes: tuple[int, ...], shell: Shell
) -> None:
    """With a closed pipe, only commands that change nothing succeed; a failed command keeps its exit code."""
    for redirection, code in zip(LOSSES, codes, strict=True):
        done = shell(f"{words} {redirection}")
        assert (redirection, done.returncode) == (redirection, code)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        if code in (3, 130):
            assert "error: stdout: " in done.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&1 >/dev/null | true"])
def test_an_unwritable_stderr_does_not_change_the_exit_code(redirection: str, shell: Shell) -> None:
    assert shell(f"list {redirection}").returncode == 0
    assert shell(f"list --no-such-option {redirection}").returncode == 2


def test_a_closed_descriptor_is_not_reused_for_another_file(root: Path) -> None:
    """If a closed stdout were reused, print would write to the next file that the program opens."""
    code = (
        "from builder.screen.streams import OutputLost, guard_streams\n"
        "try: guard_streams()\n"
        "except OutputLost: pass\n"
        "assert open('/dev/null').fileno() > 2"
    )
    command = f"{sys.executable} -c {shlex.quote(code)} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=root, timeout=60, check=False).returncode == 0
