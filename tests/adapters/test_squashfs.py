"""Squashfs files of images: contents, start script, equal files for equal images, and failures."""

import io
import os
import re
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.container.squashfs import is_complete, rewrite, start_script, write_squashfs
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.errors import BuildError, MissingError, UsageError

CONFIG = {
    "Env": ["PATH=/opt/venv/bin:/bin", "GREETING=good day"],
    "Labels": {"factory.key": "0123", "b": "two\nlines"},
    "WorkingDir": "/opt/work load",
    "Cmd": ["python", "-c", "print('x')"],
}


def a_tar(names: dict[str, str]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    stream.seek(0)
    return stream


def rewritten(names: dict[str, str], config: dict[str, Any]) -> dict[str, str]:
    target = io.BytesIO()
    rewrite(a_tar(names), target, config)
    target.seek(0)
    with tarfile.open(fileobj=target) as tar:
        return {member.name: (tar.extractfile(member) or io.BytesIO()).read().decode() for member in tar}


def test_host_specific_files_of_an_image_are_removed_or_replaced() -> None:
    before = {
        "etc/hostname": "x",
        "etc/environment": "old",
        "dev/null": "",
        "devices": "kept",
        ".dockerenv": "",
    }
    found = rewritten(before, CONFIG)
    assert set(found) == {"devices", "etc/environment", "etc/rc", "etc/rc.local"}
    assert found["etc/environment"] == "PATH=/opt/venv/bin:/bin\nGREETING=good day\n"


def test_start_script_has_the_labels_and_runs_the_command_of_the_image(tmp_path: Path) -> None:
    text = start_script({**CONFIG, "WorkingDir": str(tmp_path / "work load"), "Cmd": ["echo", "a b"]})
    assert text.startswith('# b "two\\nlines"\n# factory.key 0123\n')
    for words, printed in (((), "a b\n"), (("pwd",), f"{tmp_path}/work load\n")):
        done = subprocess.run(
            ["sh", "-c", text, "rc", *words], capture_output=True, text=True, check=True, timeout=20
        )
        assert done.stdout == printed


class Silent(Engine):
    """An engine with one image."""

    def inspect_image(self, image: str) -> dict[str, Any]:
        return {"Config": CONFIG}

    def create(self, *_: Any, **__: Any) -> str:
        return "container"

    def remove_container(self, container: str) -> None:
        pass

    @contextmanager
    def files(self, container: str) -> Iterator[io.BytesIO]:
        yield a_tar({"bin/true": ""})


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("capability absent: a second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as opened:
        yield opened


@pytest.mark.parametrize("code", [0, 1])
def test_a_file_on_another_file_system_appears_complete_or_not_at_all(
    run: Run, tmp_path: Path, other_file_system: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    program = tmp_path / "sqfstar"
    program.write_text(f'#!/bin/sh\nfor path; do :; done\ncat >"$path"\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = other_file_system / "images/x.sqsh"
    with nullcontext() if code == 0 else pytest.raises(BuildError, match=r"x\.sqsh failed"):
        write_squashfs(Silent(), run, "image", path)
    assert [found.name for found in path.parent.iterdir()] == (["x.sqsh"] if code == 0 else [])


def test_a_file_in_the_place_of_the_folder_is_named_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/images")):
        write_squashfs(Silent(), run, "image", tmp_path / "images/x.sqsh")


def test_a_folder_with_the_name_of_the_file_is_named_at_once(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.sqsh").mkdir()
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}/x.sqsh: Is a directory")):
        write_squashfs(Silent(), run, "image", tmp_path / "x.sqsh")


@pytest.mark.parametrize(
    ("content", "is_whole"),
    [
        (b"hsqs" + b"\0" * 36 + b"\x40" + b"\0" * 23, True),
        (b"hsqs" + b"\0" * 36 + b"\x41" + b"\0" * 23, False),
        (b"sqsh" + b"\0" * 60, False),
        (b"hsqs", False),
        (b"", False),
    ],
)
def test_truncated_and_foreign_files_are_not_complete(
    tmp_path: Path, content: bytes, *, is_whole: bool
) -> None:
    assert not is_complete(tmp_path)
    assert not is_complete(tmp_path / "x.sqsh")
    (tmp_path / "x.sqsh").write_bytes(content)
    assert is_complete(tmp_path / "x.sqsh") is is_whole


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as run,
        pytest.raises(MissingError, match="program 'sqfstar' not found"),
    ):
        write_squashfs(Silent(), run, "image", tmp_path / "x.sqsh")
    assert not (tmp_path / "x.sqsh").exists()


@pytest.mark.engine
@pytest.mark.launch
def test_equal_images_give_equal_files(tmp_path: Path) -> None:
    engine, name = Engine(), f"test-{uuid.uuid4().hex[:8]}"
    changes = ["ENV GREETING=hello", 'CMD ["true"]', "LABEL factory.key=0123"]
    engine.connect().import_image_from_data(
        a_tar({"bin/true": "#!/bin/sh\n"}).getvalue(), repository=name, tag="1", changes=changes
    )
    paths = [tmp_path / f"{i}.sqsh" for i in range(2)]
    try:
        with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as run:
            for path in paths:
                write_squashfs(engine, run, f"{name}:1", path)
    finally:
        engine.remove_image(f"{name}:1")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert is_complete(paths[0])
    paths[1].write_bytes(paths[0].read_bytes()[:-4096])
    assert not is_complete(paths[1])
    shown = [
        subprocess.run(
            ["unsquashfs", "-cat", paths[0], file], capture_output=True, text=True, check=True, timeout=20
        ).stdout
        for file in ("etc/environment", "etc/rc", "bin/true")
    ]
    assert "GREETING=hello\n" in shown[0]
    assert shown[1].startswith("# factory.key 0123\n")
    assert shown[2] == "#!/bin/sh\n"
