"""Times of AMI builds in a rehearsed account after a change of a role, with and without a checkpoint."""

import secrets
import shutil
import sys
from pathlib import Path

from bench.bed import Bed
from bench.programs import timed

_CHECKOUT = Path(__file__).resolve().parents[1]
TARGET = "ami-gpu"
CHANGED = "hardening"  # a role of the last layer
# Options of `builder build` for each case.
WAYS = {"ami": (), "ami whole": ("--no-checkpoints",)}


class Amis:
    """`builder build ami-gpu` in a copy of the checkout that has no other target."""

    name = "factory"

    def __init__(self, bed: Bed) -> None:
        self._bed = bed
        self.root = bed.work / "amis"

    def make_repository(self) -> None:
        ignored = shutil.ignore_patterns("__pycache__", "targets", "aliases.toml", "molecule")
        shutil.rmtree(self.root, ignore_errors=True)
        for name in ("ansible", "catalog", "packer"):
            shutil.copytree(_CHECKOUT / name, self.root / name, ignore=ignored)
        target = self.root / "catalog" / "targets" / f"{TARGET}.toml"
        target.parent.mkdir()
        shutil.copy(_CHECKOUT / "catalog" / "targets" / target.name, target)

    def prepare(self) -> None:
        """Build the AMI once, which fills the caches and makes the checkpoint."""
        self.make_repository()
        self._call("build", TARGET)

    def build(self, case: str) -> float:
        """Change the role, and return the seconds of the build, its checks included."""
        tasks = self.root / "ansible" / "roles" / CHANGED / "tasks" / "main.yml"
        text = tasks.read_text(encoding="utf-8").partition("# bench ")[0]
        tasks.write_text(f"{text}# bench {secrets.token_hex(8)}\n", encoding="utf-8")
        return self._call("build", TARGET, *WAYS[case])

    def clear(self) -> None:
        """End the rehearsal, which deletes the AMIs."""
        if self.root.is_dir():
            self._call("rehearse", "down")

    def _call(self, *words: str) -> float:
        argv = [sys.executable, "-m", "builder.cli.main", *words, "--root", str(self.root)]
        return timed(argv, env=self._bed.environment(), cwd=self.root, log=self._bed.log)
