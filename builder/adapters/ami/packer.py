"""Run any supported version of Packer in its own process group, and stop it by signalling that group.

python-packer only builds the command line. Its own runner is not used: it drops error messages, shows
variables in the process list, and leaves the instance running after Ctrl-C.
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
_PLUGINS_SINCE = (1, 10, 0)
_BUNDLED_SINCE = (1, 7, 0)
_VALIDATE_S = 300.0
# After SIGINT Packer needs time to terminate the instance and to delete its temporary resources.
_ENDING = ((signal.SIGINT, 180.0), (signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0))


class _Recorder:
    """Replacement for python-packer's command object that records arguments instead of running them."""

    def __init__(self, *argv: str) -> None:
        self.argv = argv

    def bake(self, option: str) -> "_Recorder":
        return _Recorder(*self.argv, option)


class Packer(Arguments):  # type: ignore[misc]
    """Packer with one template folder; variables are passed in a file that only its owner can read."""

    def __init__(self, template: Path, *, variables: Path | None = None, program: str = "packer") -> None:
        found = shutil.which(program)
        if found is None:
            raise MissingError(
                "AMI builds need Packer, which is not installed",
                hint="apt-get install packer, or https://developer.hashicorp.com/packer/install",
            )
        self._program = found
        # Absolute, because Packer prepends the template folder twice to relative paths.
        self.packerfile = str(template.resolve())
        self.var_file = str(variables) if variables else None
        self.exc: list[str] = []
        self.only: list[str] = []
        self.vars: dict[str, str] = {}

    def version(self) -> tuple[int, ...]:
        """Return Packer's version as numbers; raise MissingError if it is not supported."""
        done = process.run([self._program, "version"], timeout_s=60, env=_environment({}))
        match = re.search(r"Packer v(\d+)\.(\d+)\.(\d+)", done.output)
        if match is None:
            raise MissingError(
                f"{self._program} is not HashiCorp's Packer: {done.tail}", hint="builder doctor"
            )
        version = tuple(int(number) for number in match.groups())
        if version < OLDEST:
            words = [".".join(map(str, numbers)) for numbers in (version, OLDEST)]
            raise MissingError(
                f"Packer {words[0]} is too old: {words[1]} or newer is required", hint="builder doctor"
            )
        if _BUNDLED_SINCE <= version < _PLUGINS_SINCE:
            raise MissingError(
                f"Packer {'.'.join(map(str, version))} uses the plugins that it contains, not locked ones",
                hint="install Packer 1.10 or later: https://developer.hashicorp.com/packer/install",
            )
        return version

    def needs_plugins(self) -> bool:
        """True unless the plugins are part of the program, as in Packer 1.6."""
        return self.version() >= _PLUGINS_SINCE

    def validate(self, *, environment: Mapping[str, str]) -> None:
        """Raise BuildError with Packer's message if the template or its variables are invalid."""
        done = process.run(self._argv("validate"), timeout_s=_VALIDATE_S, env=_environment(environment))
        if done.code != 0:
            raise BuildError("Packer rejects the template", hint="correct packer/ami", details=done.details)

    def build(
        self,
        *,
        environment: Mapping[str, str],
        timeout_s: float,
        cancelled: Event,
        on_line: process.OnLine,
        cwd: Path,
        on_error: str,
    ) -> process.Finished:
        """Run a build to its end; once `cancelled` is set, interrupt Packer and wait for its cleanup.

        With `on_error` "abort" instead of "cleanup", a failure or an interrupt leaves the instance running.
        """
        return process.run(
            self._argv("build", "-machine-readable", "-color=false", f"-on-error={on_error}"),
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
    """Return the user's environment with quiet Packer output, without AWS settings, and with `more`.

    AWS settings come from `more` alone: a rehearsal must not get a session token of the user.
    """
    quiet = {"CHECKPOINT_DISABLE": "1", "PACKER_NO_COLOR": "1"}
    inherited = process.inherited_environment(**quiet).items()
    return {**{name: value for name, value in inherited if not name.startswith("AWS_")}, **more}


def built_amis(manifest: Path, run: str) -> dict[str, str]:
    """Return the ids of the AMIs that `run` built, by region, from Packer's manifest."""
    try:
        table: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    found: dict[str, str] = {}
    for build in table.get("builds", ()):
        # Packer appends the builds of all runs to one manifest; custom_data has the name of the run.
        if (build.get("custom_data") or {}).get("run") == run:
            found |= dict(pair.split(":", 1) for pair in build["artifact_id"].split(","))
    return found
