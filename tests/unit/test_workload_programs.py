"""Command lines of the training programs and files of their images, tested without PyTorch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONTAINERS = Path(__file__).parents[2] / "containers"
PROGRAMS = tuple(sorted(path.parent.name for path in CONTAINERS.glob("*/Dockerfile")))
TARGETS = tuple(name for name in PROGRAMS if (CONTAINERS / name / "src" / "train.py").exists())
LOCKED = tuple(name for name in PROGRAMS if (CONTAINERS / name / "requirements.lock").exists())
LLAMA_TARGETS = tuple(
    name for name in TARGETS if "run_llama" in (CONTAINERS / name / "src" / "train.py").read_text()
)
# Parameters of the model of SIZES: an MPT layer has as many keys as queries, and no gate.
PARAMETERS = dict.fromkeys(LLAMA_TARGETS, 164_160) | {"mosaicml-mpt": 131_392}

# Published parameter counts of the models that these configurations correspond to.
PUBLISHED_PARAMETERS = {
    "1b": 1_235_814_400,
    "3b": 3_212_749_824,
    "8b": 8_030_261_248,
    "13b": 13_015_864_320,
    "70b": 70_553_706_496,
}


def copies_common(name: str) -> bool:
    return "COPY common" in (CONTAINERS / name / "Dockerfile").read_text()


def start(target: str, *arguments: str, program: str = "train") -> subprocess.CompletedProcess[str]:
    """Run a training program with its image's import path and the standard library only."""
    recipe = (CONTAINERS / target / "Dockerfile").read_text()
    # A later folder of COPY replaces files of the same name.
    copied = re.findall(r"^COPY (.*src/) /opt/workload/$", recipe, re.MULTILINE)[0].split()
    folders = [str(CONTAINERS / folder) for folder in reversed(copied)]
    code = f"import sys; sys.path[:0] = {folders!r}; import {program}; sys.exit({program}.main(sys.argv[1:]))"
    command = [sys.executable, "-I", "-S", "-B", "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("target", TARGETS)
def test_help_needs_no_third_party_package(target):
    ended = start(target, "--help")
    assert ended.returncode == 0
    for option in ("--device", "--smoke", "--checkpoint-dir", "--data", "train.py --smoke", "65 data"):
        assert option in ended.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_missing_framework_is_reported_in_one_line(target):
    ended = start(target, "--smoke")
    assert ended.returncode == 78
    assert ended.stderr.startswith("error: ")
    assert "has no package" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--steps", "0"), "--steps: '0' is not a positive integer"),
        (("--steps", "1.5"), "--steps: '1.5' is not a positive integer"),
        (("--learning-rate", "nan"), "--learning-rate: 'nan' is not a positive finite number"),
        (("--device", "tpu"), "--device: invalid choice: 'tpu'"),
        (("--epochs", "3"), "unrecognized arguments: --epochs 3"),
    ],
)
def test_invalid_option_is_refused(target, arguments, complaint):
    ended = start(target, *arguments)
    assert ended.returncode == 2
    assert complaint in ended.stderr


def test_explicit_option_overrides_the_smoke_preset():
    printed = json.loads(start("pytorch-fsdp", "--smoke", "--print-config").stdout)
    assert printed["model"] == "toy"
    printed = json.loads(start("pytorch-fsdp", "--model", "1b", "--print-config", "--smoke").stdout)
    assert printed["model"] == "1b"


SIZES = {
    "vocabulary": 512,
    "dim": 64,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "feed_forward": 192,
    "sequence": 64,
}


def write_config(path: Path, **changes: object) -> Path:
    sizes = {**SIZES, **changes}
    path.write_text(
        "".join(f"{key} = {json.dumps(value)}\n" for key, value in sizes.items() if value is not None)
    )
    return path


@pytest.mark.parametrize("target", LLAMA_TARGETS)
def test_model_configuration_of_the_user_is_read_from_a_file(tmp_path, target):
    path = write_config(tmp_path / "my.toml")
    printed = json.loads(start(target, "--config", str(path), "--print-config", "--smoke").stdout)
    assert (printed["model"], printed["vocabulary"]) == (str(path), 512)
    assert printed["parameters"] == PARAMETERS[target]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"head": 4}, "head: unknown key; did you mean 'heads'?"),
        ({"dim": None}, "dim is missing; copy a file of"),
        ({"layers": "2"}, "layers is '2', not a positive integer"),
        ({"layers": True}, "layers is True, not a positive integer"),
        ({"tied_embeddings": 1}, "tied_embeddings is 1, not true or false"),
        ({"dim": 66}, "dim 66 / heads 4 is not an even integer"),
        ({"kv_heads": 3}, "heads 4 is not a multiple of kv_heads 3"),
    ],
)
def test_wrong_model_file_is_refused_before_pytorch_is_loaded(tmp_path, changes, complaint):
    path = write_config(tmp_path / "my.toml", **changes)
    ended = start("pytorch-ddp", "--config", str(path))
    assert ended.returncode == 78
    assert ended.stderr.startswith(f"error: {path}: {complaint}")
    assert ended.stderr.count("\n") == 1


def test_missing_model_file_is_refused(tmp_path):
    ended = start("pytorch-ddp", "--config", str(tmp_path / "none.toml"))
    assert ended.returncode == 78
    assert "none.toml: No such file or directory; copy a file of" in ended.stderr


@pytest.mark.parametrize(("model", "parameters"), PUBLISHED_PARAMETERS.items())
def test_parameter_count_matches_the_published_model(model, parameters):
    printed = json.loads(start("pytorch-fsdp", "--model", model, "--print-config").stdout)
    assert printed["parameters"] == parameters


def copied_files(target: str) -> set[Path]:
    text = (CONTAINERS / target / "Dockerfile").read_text().replace("\\\n", " ")
    sources = [source for line in re.findall(r"^COPY (.*)$", text, re.M) for source in line.split()[:-1]]
    paths = [CONTAINERS / source for source in sources]
    assert [path for path in paths if not path.exists()] == []
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    return {file for file in files if file.suffix in (".py", ".toml")}


@pytest.mark.parametrize("target", PROGRAMS)
def test_dockerfile_copies_the_program_and_the_common_modules(target):
    text = (CONTAINERS / target / "Dockerfile").read_text()
    folders = {CONTAINERS / target / "src", *([CONTAINERS / "common"] if copies_common(target) else [])}
    folders |= {CONTAINERS / name / "src" for name in re.findall(r" ([a-z0-9-]+)/src/", text)}
    sources = {file for folder in folders for file in folder.rglob("*")}
    assert copied_files(target) == {file for file in sources if file.suffix in (".py", ".toml")}


@pytest.mark.parametrize("target", LOCKED)
def test_lock_pins_every_requirement_with_hashes_except_pytorch(target):
    folder = CONTAINERS / target
    pins = re.findall(
        r"^([a-z0-9-]+)==\S+(?: ; .*)? \\\n    --hash=sha256:[0-9a-f]{64}",
        (folder / "requirements.lock").read_text(),
        re.M,
    )
    requested = re.findall(r"^([a-z0-9-]+)", (folder / "requirements.in").read_text(), re.M)
    assert {name.replace("_", "-") for name in requested} <= set(pins)
    assert "torch" not in pins


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--b", "12X"), "--b/--begin-size: '12X' is not a size such as 8, 64K, 256M or 1G"),
        (("--f", "1"), "--f must be at least 2"),
        (("--collective", "gather_all"), "invalid choice: 'gather_all'"),
    ],
)
def test_wrong_option_of_param_benchmark_is_refused(arguments, complaint):
    ended = start("param-benchmark", *arguments, program="comms")
    assert ended.returncode == 2
    assert complaint in ended.stderr


def test_param_benchmark_doubles_sizes_and_converts_bandwidths(monkeypatch):
    monkeypatch.syspath_prepend(str(CONTAINERS / "param-benchmark" / "src"))
    import sizes

    assert list(sizes.message_sizes(sizes.parse_size("1K"), sizes.parse_size("4K"), 2)) == [1024, 2048, 4096]
    assert [sizes.bus_factor(name, 4) for name in ("all_reduce", "all_gather", "broadcast")] == [1.5, 0.75, 1]
    assert [sizes.percentile([4, 1, 3, 2], percent) for percent in (50, 75, 95)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("--account", "team"), "--partition, --image, --processes"),
        (("--account", "team", "--partition", "gpu", "--image", "a", "--processes", "8"), ""),
    ],
)
def test_slurm_job_requires_account_partition_image_and_processes(arguments, missing):
    ended = start("nemo-run", "--executor", "slurm", *arguments, program="run")
    assert ended.returncode == (2 if missing else 78)
    assert (f"--executor slurm needs {missing}" if missing else "has no package 'nemo_run'") in ended.stderr
