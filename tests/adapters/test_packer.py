"""Packer adapter, with the real program on the real template and fake programs for other versions."""

import difflib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ami import packer
from builder.adapters.ami.packer import Packer
from builder.adapters.ami.packer_log import parse
from builder.adapters.ami.template import render
from builder.adapters.host import process
from builder.app.interrupts import interruptible
from builder.errors import BuildError, Interrupted, MissingError
from builder.wait import until

needs_packer = pytest.mark.skipif(
    shutil.which("packer") is None, reason="Packer is not installed: apt-get install packer"
)


def variables(tmp_path: Path, **changed: Any) -> Path:
    key = tmp_path / "key"
    done = process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], timeout_s=60)
    assert done.code == 0
    playbook = tmp_path / "image.yml"
    playbook.write_text("[]\n")
    table = {
        "run": "run-1",
        "region": "us-east-1",
        "endpoint": "http://127.0.0.1:9",
        "source_ami": "ami-0123456789abcdef0",
        "instance_type": "m7i.large",
        "ami_name": "hello-1",
        "ami_description": "an AMI",
        "tags": {"factory:run": "run-1"},
        "volume": {
            "device": "/dev/xvda",
            "size_gib": 8,
            "iops": 3000,
            "throughput": 125,
            "encrypted": False,
            "kms_key": "",
        },
        "ssh": {
            "user": "admin",
            "keypair": "run-1",
            "key_file": str(key),
            "port": 22,
            "timeout": "5s",
            "interface": "",
        },
        "network": {
            "subnet": "",
            "security_group": "",
            "public_address": None,
            "iam_instance_profile": "",
        },
        "polling": {"delay_s": 1, "attempts": 5},
        "ansible": {
            "command": "/bin/true",
            "playbook": str(playbook),
            "variables_file": str(playbook),
        },
        "manifest": str(tmp_path / "manifest.json"),
    }
    path = tmp_path / "packer.json"
    path.write_text(json.dumps({**table, **changed}))
    return path


def fake_packer(folder: Path, script: str, name: str = "packer") -> str:
    """Write a fake program that runs this shell script, and return its path."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@needs_packer
def test_template_is_valid(root: Path, tmp_path: Path) -> None:
    real = Packer(root / "packer" / "ami", variables=variables(tmp_path))
    assert real.version() >= packer.OLDEST
    real.validate(environment=keys())


@needs_packer
def test_template_is_valid_for_a_spot_instance(root: Path, tmp_path: Path) -> None:
    chosen = variables(tmp_path, spot_types=["m7i.large", "m6i.large"])
    Packer(root / "packer" / "ami", variables=chosen).validate(environment=keys())


@needs_packer
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"source_ami": "latest"}, "source AMI must be an id"),
        ({"ami_name": "x"}, "ami_name"),
        ({"volume": {"device": "/dev/xvda"}}, "volume"),
    ],
)
def test_rejects_an_invalid_variable_by_name(
    root: Path, tmp_path: Path, changed: Mapping[str, Any], words: str
) -> None:
    real = Packer(root / "packer" / "ami", variables=variables(tmp_path, **changed))
    with pytest.raises(BuildError) as caught:
        real.validate(environment=keys())
    assert words in caught.value.details


@pytest.mark.parametrize(
    ("message", "failures", "code", "tries"),
    [("Could not get lock /var/lib/apt/lists/lock", 2, 0, 3), ("Unable to connect", 9, 1, 1)],
)
def test_package_lists_are_read_once_their_lock_is_free(
    root: Path, tmp_path: Path, message: str, failures: int, code: int, tries: int
) -> None:
    text = (root / "packer" / "ami" / "build.pkr.hcl").read_text(encoding="utf-8")
    script = next(
        "\n".join(json.loads(f'"{line}"') for line in re.findall(r'^ +"(.*)",$', block, re.MULTILINE))
        for block in re.findall(r"inline = \[\n(.*?)\n    \]", text, re.DOTALL)
    )
    fake_packer(tmp_path, "", name="sleep")
    has_ended = f"[ $(wc -l < {tmp_path}/tries) -gt {failures} ]"
    body = f"echo >> {tmp_path}/tries\n{has_ended} && exit 0\necho 'E: {message}'\nexit 100"
    fake_packer(tmp_path, body, name="apt-get")
    fake_packer(tmp_path, 'shift; exec "$@"', name="sudo")
    done = process.run(["/bin/sh", "-ec", script], timeout_s=30, env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert (done.code, len((tmp_path / "tries").read_text().splitlines())) == (code, tries)


@needs_packer
def test_templates_are_formatted(root: Path) -> None:
    assert process.run(["packer", "fmt", "-check", str(root / "packer" / "ami")], timeout_s=60).code == 0


@needs_packer
def test_template_for_current_plugins_is_formatted_and_differs_in_known_lines(
    root: Path, tmp_path: Path
) -> None:
    template = root / "packer" / "ami"
    rendered = render(template, tmp_path / "rendered")
    assert process.run(["packer", "fmt", "-check", str(rendered)], timeout_s=60).code == 0
    for path in template.glob("*.pkr.hcl"):
        lines = difflib.ndiff(path.read_text().splitlines(), (rendered / path.name).read_text().splitlines())
        changed = [line[2:].strip() for line in lines if line.startswith(("+", "-"))]
        if path.name != "source.pkr.hcl":
            assert changed == []
        else:
            assert "metadata_options {" in changed
            ours = ("#", "http_", "capacity_reservation_", "fleet_tags")
            assert [line for line in changed if line and not line.startswith(ours)] == [
                "metadata_options {",
                "}",
            ]


def keys() -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}


def test_values_of_variables_are_not_on_the_command_line(tmp_path: Path) -> None:
    program = fake_packer(tmp_path, f'echo "$@" > {tmp_path}/argv')
    secret = tmp_path / "secret.json"
    secret.write_text('{"password": "hunter2"}')
    build(Packer(tmp_path, variables=secret, program=program), tmp_path)
    argv = (tmp_path / "argv").read_text()
    assert argv.split() == [
        *("build", "-machine-readable", "-color=false", "-on-error=cleanup"),
        *(f"-var-file={secret}", str(tmp_path)),
    ]


def build(
    program: Packer, folder: Path, cancelled: threading.Event | None = None
) -> tuple[process.Finished, list[str]]:
    lines: list[str] = []
    done = program.build(
        environment={},
        on_error="cleanup",
        timeout_s=60,
        cancelled=cancelled or threading.Event(),
        on_line=lines.append,
        cwd=folder,
    )
    return done, lines


def test_environment_of_the_account_overrides_the_defaults(tmp_path: Path) -> None:
    program = Packer(tmp_path, program=fake_packer(tmp_path, "env"))
    done = program.build(
        environment={"CHECKPOINT_DISABLE": "0", "AWS_PROFILE": "x"},
        on_error="cleanup",
        timeout_s=60,
        cancelled=threading.Event(),
        on_line=lambda _: None,
        cwd=tmp_path,
    )
    lines = done.output.splitlines()
    assert {"CHECKPOINT_DISABLE=0", "PACKER_NO_COLOR=1", "AWS_PROFILE=x"} <= set(lines)


def test_output_of_a_build_is_parsed_line_by_line(tmp_path: Path) -> None:
    script = r"""
printf '%s\n' '1700000000,,ui,say,==> amazon-ebs.image: one%!(PACKER_COMMA) two\nthree'
printf '%s\n' '1700000000,,ui,error,it broke'
printf '%s\n' '1700000000,amazon-ebs.image,artifact,0,id,us-east-1:ami-1'
printf '%s\n' 'a line of its own'
"""
    done, lines = build(Packer(tmp_path, program=fake_packer(tmp_path, script)), tmp_path)
    assert done.code == 0
    assert [(message.kind, message.lines) for message in map(parse, lines)] == [
        ("say", ["==> amazon-ebs.image: one, two", "three"]),
        ("error", ["it broke"]),
        ("artifact", ["0,id,us-east-1:ami-1"]),
        ("log", ["a line of its own"]),
    ]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo Packer v1.5.4", "Packer 1.5.4 is too old: 1.6.6 or newer is required"),
        ("echo cracklib 2.9", "is not HashiCorp's Packer"),
    ],
)
def test_refuses_an_old_or_unrelated_packer(tmp_path: Path, script: str, words: str) -> None:
    with pytest.raises(MissingError) as caught:
        Packer(tmp_path, program=fake_packer(tmp_path, script)).version()
    assert words in caught.value.message
    assert caught.value.exit_code == 3


def test_reports_that_packer_is_not_installed(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="AMI builds need Packer"):
        Packer(tmp_path, program=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("version", "expected"), [("1.6.6", False), ("1.10.3", True), ("1.11.2", True)])
def test_packer_1_10_and_later_need_separate_plugins(tmp_path: Path, version: str, expected: bool) -> None:
    script = f'[ "$1" = version ] && echo "Packer v{version}"'
    assert Packer(tmp_path, program=fake_packer(tmp_path, script)).needs_plugins() is expected


@pytest.mark.parametrize("version", ["1.7.0", "1.9.5"])
def test_refuses_packer_versions_that_ignore_the_locked_plugins(tmp_path: Path, version: str) -> None:
    script = f'[ "$1" = version ] && echo "Packer v{version}"'
    with pytest.raises(MissingError, match=f"Packer {version} uses the plugins that it contains") as caught:
        Packer(tmp_path, program=fake_packer(tmp_path, script)).version()
    assert "1.10 or later" in caught.value.hint


def test_cancellation_interrupts_the_process_group_and_waits_for_it(tmp_path: Path) -> None:
    cancelled = threading.Event()
    script = f"""
trap 'echo cleaned > {tmp_path}/cleaned; exit 1' INT
echo '1700000000,,ui,say,started'
while :; do read -r line < {tmp_path}/fifo; done
"""
    os.mkfifo(tmp_path / "fifo")
    program = Packer(tmp_path, program=fake_packer(tmp_path, script))

    def on_line(_: str) -> None:
        cancelled.set()

    # Child processes of a background job ignore SIGINT; `interruptible` restores the default handler.
    with interruptible(), pytest.raises(Interrupted):
        program.build(
            environment={},
            on_error="cleanup",
            timeout_s=60,
            cancelled=cancelled,
            on_line=on_line,
            cwd=tmp_path,
        )
    assert (tmp_path / "cleaned").read_text() == "cleaned\n"
    assert packer._ENDING[0][0] is signal.SIGINT


def test_manifest_returns_only_the_images_of_the_run(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    assert packer.built_amis(manifest, "mine") == {}
    builds = [
        {"artifact_id": "us-east-1:ami-1", "custom_data": {"run": "another"}},
        {"artifact_id": "us-east-1:ami-2,eu-west-1:ami-3", "custom_data": {"run": "mine"}},
        {"artifact_id": "us-east-1:ami-4", "custom_data": None},
    ]
    manifest.write_text(json.dumps({"builds": builds}))
    assert packer.built_amis(manifest, "mine") == {"us-east-1": "ami-2", "eu-west-1": "ami-3"}
    manifest.write_text("{")
    assert packer.built_amis(manifest, "mine") == {}


def test_interrupts_the_orphans_of_a_dead_run_and_no_other_processes(tmp_path: Path) -> None:
    script = tmp_path / "work.sh"
    script.write_text(
        f"trap 'echo cleaned > {tmp_path}/cleaned; exit 1' INT\n"
        f"mkfifo {tmp_path}/$2; echo > {tmp_path}/$2.ready; while :; do read -r line < {tmp_path}/$2; done\n"
    )
    with interruptible():
        # The command line of the other process names a file of the dead run.
        mine, other = (
            subprocess.Popen(
                ["sh", str(script), "scratch/dead-run/x", name],
                start_new_session=True,
                env=os.environ | {"IMAGE_FACTORY_RUN": f"scratch/{run}"},
            )
            for run, name in (("dead-run", "mine"), ("dead-run2", "other"))
        )
    try:
        ready = [tmp_path / f"{name}.ready" for name in ("mine", "other")]
        assert until(lambda: all(path.exists() for path in ready), timeout_s=20, every_s=0.1)
        process.end_orphans("scratch/dead-run")
        assert mine.wait(20) == 1
        assert (tmp_path / "cleaned").read_text() == "cleaned\n"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(20)
