"""Tests of the program smddp-deepspeed that run without DeepSpeed, and of the versions that it pins."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONTAINERS = ROOT / "containers"
SOURCE = CONTAINERS / "smddp-deepspeed" / "src"
ENTRY = re.compile(r"^[A-Za-z0-9].*(?:\n +--hash=.*)+", re.MULTILINE)


def test_folder_without_deepspeed_is_refused_with_the_command_that_installs_it(tmp_path):
    folders = [str(path) for path in (SOURCE, CONTAINERS / "deepspeed" / "src", CONTAINERS / "common")]
    code = (
        f"import sys; sys.path[:0] = {folders!r}; from pathlib import Path; import train; "
        f"from training.options import run_program; "
        f"sys.exit(run_program(lambda: train.find_deepspeed(Path({str(tmp_path)!r}))))"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 78
    assert ended.stderr.startswith(f"error: {tmp_path}: has no DeepSpeed; install it there: ")
    assert ended.stderr.endswith(f"--target {tmp_path} --requirement {SOURCE / 'packages.lock'}\n")


def test_packages_have_the_versions_and_hashes_of_the_target_deepspeed():
    entries = set(ENTRY.findall((SOURCE / "packages.lock").read_text()))
    component = tomllib.loads((ROOT / "catalog" / "components" / "deepspeed.toml").read_text())
    built = {line.replace(" --hash", " \\\n    --hash") for line in component["source_packages"]}
    assert built <= entries
    locks = [CONTAINERS / "deepspeed" / "requirements.lock", *ROOT.glob("catalog/stacks/*.requirements.lock")]
    locked = {entry for lock in locks for entry in ENTRY.findall(lock.read_text())}
    assert len(entries) > 10
    assert entries - built <= locked
