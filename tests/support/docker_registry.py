"""The distribution project's own registry, as an independent peer for ours: one process per context."""

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = shutil.which("docker-registry")
START_S = 20


@contextmanager
def docker_registry(folder: Path) -> Iterator[str]:
    """host:port of a fresh registry that keeps its images in `folder`."""
    assert PROGRAM is not None
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\n"
        "http: {addr: '127.0.0.1:0'}\nlog: {level: info}\n"
    )
    child = subprocess.Popen(
        [PROGRAM, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    host: list[str] = []
    is_listening = threading.Event()

    def read_log() -> None:
        assert child.stderr is not None
        for line in child.stderr:
            if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
                host.append(found[1])
                is_listening.set()

    reader = threading.Thread(target=read_log, daemon=True)
    reader.start()
    try:
        assert is_listening.wait(START_S), "docker-registry does not say where it listens"
        yield host[0]
    finally:
        child.terminate()
        child.wait(START_S)
        reader.join(START_S)
        assert child.stderr is not None
        child.stderr.close()
