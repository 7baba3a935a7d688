"""Packer, whichever version is here: started in a process group of its own, stopped by signalling the group.

Arguments are put together by python-packer; running them is ours, because its own way loses the reason of a
failure, shows variables to everybody, and leaves the instance running when somebody presses Ctrl-C.
"""

import json
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from threading import Event
from typing import Any

from builder.adapters.host import process
from builder.errors import BuildError, MissingError
from packer import Packer as Arguments

OLDEST = (1, 6, 6)
_PLUGINS_SINCE = (1, 7, 0)
_VALIDATE_S = 300.0
# A group that is interrupted removes its instance, keys and security group; that takes calls and waiting.
_ENDING = ((signal.SIGINT, 180.0), (signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0))


class _Recorder:
    """Stands where python-packer expects a command: keeps the arguments instead of running them."""

    def __init__(self, *argv: str) -> None:
        self.argv = argv

    def bake(self, option: str) -> "_Recorder":
        return _Recorder(*self.argv, option)


class Packer(Arguments):  # type: ignore[misc]
    """The program and one template folder; variables travel in a file that only its owner reads."""

    def __init__(self, template: Path, *, variables: Path | None = None, program: str = "packer") -> None:
        found = shutil.which(program)
        if found is None:
            raise MissingError(
                "Packer makes the AMIs and is not installed",
                hint="apt-get install packer, or https://developer.hashicorp.com/packer/install",
            )
        self._program = found
        # An absolute path: relative ones make Packer join the folder of the template twice.
        self.packerfile = str(template.resolve())
        self.var_file = str(variables) if variables else None
        self.exc: list[str] = []
        self.only: list[str] = []
        self.vars: dict[str, str] = {}

    def version(self) -> tuple[int, ...]:
        """The version as numbers; raises MissingError for one that is too old."""
        done = process.run([self._program, "version"], timeout_s=60, env=_environment({}))
        match = re.search(r"Packer v(\d+)\.(\d+)\.(\d+)", done.output)
        if match is None:
            raise MissingError(
                f"{self._program} is not HashiCorp's Packer: {done.tail}", hint="builder doctor"
            )
        version = tuple(int(number) for number in match.groups())
        if version < OLDEST:
            words = [".".join(map(str, one)) for one in (version, OLDEST)]
            raise MissingError(
                f"Packer {words[0]} is too old: {words[1]} is the oldest that will do", hint="builder doctor"
            )
        return version

    def install_plugins(self, folder: Path, wanted: Mapping[str, str]) -> None:
        """Where plugins are apart from Packer: exactly these; it fetches them only if one is lacking."""
        if self.version() < _PLUGINS_SINCE or not self._lacking(wanted):
            return
        hint = f"packer init {folder}"
        done = process.run(
            [self._program, "init", str(folder.resolve())], timeout_s=600, env=_environment({})
        )
        if done.code != 0:
            raise MissingError("packer init could not install its plugins", hint=hint, details=done.details)
        if missing := self._lacking(wanted):
            raise MissingError(f"Packer lacks {', '.join(missing)}", hint=hint)

    def _lacking(self, wanted: Mapping[str, str]) -> list[str]:
        listed = process.run([self._program, "plugins", "installed"], timeout_s=60, env=_environment({}))
        return [
            f"{name} {version}"
            for name, version in wanted.items()
            if not re.search(rf"packer-plugin-{re.escape(name)}_v{re.escape(version)}_", listed.output)
        ]

    def validate(self, *, environment: Mapping[str, str]) -> None:
        """Raises BuildError with what Packer has against the template or its variables."""
        done = process.run(self._argv("validate"), timeout_s=_VALIDATE_S, env=_environment(environment))
        if done.code != 0:
            raise BuildError("Packer refuses the template", hint="packer/ami", details=done.details)

    def build(
        self,
        *,
        environment: Mapping[str, str],
        timeout_s: float,
        cancelled: Event,
        on_line: process.OnLine,
        cwd: Path,
    ) -> process.Finished:
        """Runs a build to its end or, once `cancelled`, until Packer has removed what it had started."""
        return process.run(
            self._argv("build", "-machine-readable", "-color=false", "-on-error=cleanup"),
            timeout_s=timeout_s,
            cancelled=cancelled,
            on_line=on_line,
            env=_environment(environment),
            cwd=cwd,
            ending=_ENDING,
        )

    def _argv(self, command: str, *options: str) -> tuple[str, ...]:
        self.packer_cmd = _Recorder(self._program, command)
        for option in options:
            self._add_opt(option)
        self._append_base_arguments()
        self._add_opt(self.packerfile)
        return tuple(self.packer_cmd.argv)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """Inherited: Packer and its plugins read proxies, certificates and the user's settings in it."""
    quiet = {"CHECKPOINT_DISABLE": "1", "PACKER_NO_COLOR": "1"}
    return process.inherited_environment(**{**quiet, **more})


def made(manifest: Path, run: str) -> dict[str, str]:
    """region → AMI id of what `run` made; empty where the build matched nothing or made nothing."""
    try:
        table: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    found: dict[str, str] = {}
    for build in table.get("builds", ()):
        # The file collects the builds of every run; this run is told by what it was given to say.
        if (build.get("custom_data") or {}).get("run") == run:
            found |= dict(pair.split(":", 1) for pair in build["artifact_id"].split(","))
    return found
