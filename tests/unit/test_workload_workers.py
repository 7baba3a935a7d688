"""The launcher for programs whose framework has no launcher: environment, restarts, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKERS = Path(__file__).parents[2] / "containers" / "common" / "workers.py"
PROGRAM = """\
import json, os, sys, time
rank, restart = os.environ["RANK"], os.environ["TRAINING_RESTART"]
names = ("RANK", "WORLD_SIZE", "TRAINING_RUN_ID", "JAX_COORDINATOR_ADDRESS", "TF_CONFIG")
with open(f"{sys.argv[1]}/{restart}-{rank}", "w") as file:
    json.dump({name: os.environ[name] for name in names}, file)
if restart == "0" and rank == "1":
    sys.exit(int(sys.argv[2]))
if restart == "0" and sys.argv[2] != "0":
    time.sleep(60)
"""


def start(folder: Path, *options: str, code: int) -> int:
    program = folder / "program.py"
    program.write_text(PROGRAM)
    (folder / "out").mkdir()
    command = [sys.executable, str(WORKERS), *options, str(program), str(folder / "out"), str(code)]
    return subprocess.run(command, timeout=50, check=False).returncode


def starts(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


def test_processes_get_their_ranks_and_addresses(tmp_path):
    assert start(tmp_path, "--run-id", "mine", code=0) == 0
    found = [json.loads((tmp_path / "out" / name).read_text()) for name in ("0-0", "0-1")]
    assert [(one["RANK"], one["WORLD_SIZE"], one["TRAINING_RUN_ID"]) for one in found] == [
        ("0", "2", "mine"),
        ("1", "2", "mine"),
    ]
    assert found[0]["JAX_COORDINATOR_ADDRESS"] == found[1]["JAX_COORDINATOR_ADDRESS"]
    clusters = [json.loads(one["TF_CONFIG"]) for one in found]
    assert clusters[0]["cluster"] == clusters[1]["cluster"]
    assert [cluster["task"]["index"] for cluster in clusters] == [0, 1]


def test_all_processes_start_again_after_one_crashes(tmp_path):
    assert start(tmp_path, "--max-restarts", "1", code=9) == 0
    assert starts(tmp_path)[-2:] == ["1-0", "1-1"]


@pytest.mark.parametrize(("code", "restarts"), [(9, "0"), (65, "3")])
def test_no_restart_after_an_error_exit_code_or_after_the_last_allowed_crash(tmp_path, code, restarts):
    assert start(tmp_path, "--max-restarts", restarts, code=code) == code
    assert {name[0] for name in starts(tmp_path)} == {"0"}
