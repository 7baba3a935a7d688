"""`builder`: imports the module of a verb and runs it; turns errors into messages and exit codes."""

import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from builder.errors import FactoryError, UsageError
    from builder.screen.streams import OutputLost

# Summary of each verb; the module of the same name in this package runs the verb.
VERBS = {
    "list": "list the targets, and whether their downloads are locked",
    "show": "show the flavours, components and versions of a target",
    "plan": "show what a build would make, reuse and download, and why",
    "build": "build targets, check them, publish them",
    "check": "run a target's checks on an existing image",
    "lint": "check Dockerfiles, batch scripts and manifests against static rules",
    "run": "run the program of a built training image on this machine",
    "launch": "print the file that starts a published image on a cluster",
    "squashfs": "write a published image as a squashfs file for enroot and pyxis",
    "init": "write the files of a new target, component or stack, or the site file",
    "role": "apply roles to a fresh machine and check them",
    "stack": "find versions that work together: list, show, check, solve, diff",
    "lock": "lock the digests of downloads: add, --update, --diff, --verify",
    "ami": "manage built AMIs: list, show, copy, share, deprecate, publish, retire",
    "deploy": "manage CloudFormation stacks of architectures/: parameters, plan, apply, delete",
    "iam": "print the IAM policy for building and publishing a target",
    "config": "print the settings in force and where each comes from",
    "doctor": "check this machine and ask every server that the settings name",
    "logs": "list the runs of this checkout; print or follow the log of one",
    "clean": "list what builds left behind, and remove it",
    "registry": "run a registry on this machine: up, down, status",
    "rehearse": "emulate an AWS account or a Slurm cluster on this machine",
    "completion": "print a completion script for bash, zsh or fish",
}


# Commands that change nothing: they succeed if stdout is closed early (`| head`).
_READING = {
    "list",
    "show",
    "plan",
    "launch",
    "lint",
    "stack",
    "iam",
    "config",
    "doctor",
    "completion",
    "ami list",
    "ami show",
}
_READING |= {"logs", "lock --diff", "rehearse env", "rehearse status", "registry status"}
_READING.add("rehearse cluster status")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and words[:1] == ["build"]:
        from builder.cli import unchanged

        if unchanged.repeat(words[1:]):
            return 0
    # Imported late: not needed if the output of an earlier build is repeated.
    from builder.screen.streams import OutputLost, discard, guard_streams

    code = 0
    try:
        if argv is None:
            guard_streams()
        code = _run(words)
        sys.stdout.flush()
    except OutputLost as lost:
        discard(sys.stdout)
        return code or _code_without_stdout(words, lost)
    return code


def _run(words: list[str]) -> int:
    from builder.errors import FactoryError, Interrupted, MissingError, of_system
    from builder.screen.streams import OutputLost

    try:
        if words == ["help", "--man"]:
            print(importlib.import_module("builder.cli.manual").manual())
            return 0
        if words[:1] == ["help"] and len(words) > 1:
            words = [*words[1:], "--help"]
        if not words or words[0] in ("-h", "--help", "help"):
            print(help_text())
            return 0
        if words[0] == "--version":
            from builder import __version__

            print(f"builder {__version__}")
            return 0
        if words[0] not in VERBS:
            raise _no_verb(words)
        run = importlib.import_module(f"builder.cli.{words[0]}").run
        return int(run(words[1:]))
    except FactoryError as error:
        return _fail(words, error)
    except OutputLost:
        raise
    except OSError as error:
        return _fail(words, of_system(error, MissingError))
    except SystemExit as end:  # argparse has printed a help text
        return int(end.code or 0)
    except KeyboardInterrupt:
        return _fail(words, Interrupted("interrupted"))
    except Exception as error:  # noqa: BLE001 (last resort: expected errors are caught above)
        from builder.cli.defect import report

        return _fail(words, report(error))


def _fail(words: list[str], error: "FactoryError") -> int:
    """Print an error on stderr, and with `--json` also as a JSON envelope on stdout; return the exit code."""
    from builder.screen.envelope import envelope
    from builder.screen.summary import error as render

    print(render(error), file=sys.stderr)
    options = words[: words.index("--")] if "--" in words else words
    if "--json" in options:
        # `builder build` prints events, one per line, and the envelope is the last line.
        indent = None if words[0] == "build" else 2
        print(
            envelope(
                _command(words), exit_code=error.exit_code, error=error, result=error.result, indent=indent
            )
        )
    return error.exit_code


def _command(words: list[str]) -> str:
    """Return the verb and the action on the command line, such as `ami list`."""
    verb = words[0] if words[0] in VERBS else ""
    actions = getattr(sys.modules.get(f"builder.cli.{verb}"), "ACTIONS", ())
    named = (" ".join(words[1:end]) for end in (2, 3))
    action = next((name for name in named if name in actions), "")
    return f"{verb} {action}".strip()


def _no_verb(words: list[str]) -> "UsageError":
    from builder.errors import UsageError
    from builder.tables import did_you_mean

    first = words[0]
    if not first.startswith("-"):
        shown = f"'{first}'" if first.isprintable() else repr(first)
        return UsageError(f"no command {shown}{did_you_mean(first, VERBS)}", hint="builder --help")
    verb = next((word for word in words if word in VERBS), "")
    rest = [word for word in words if word != verb]
    hint = " ".join(["builder", verb, *rest]) if verb else "builder --help"
    return UsageError(f"no option '{first}' before the command", hint=hint)


def _code_without_stdout(words: list[str], lost: "OutputLost") -> int:
    from builder.errors import Interrupted, MissingError

    is_help = not words or bool({"-h", "--help", "help", "--version"}.intersection(words))
    is_plan = words[:1] == ["build"] and "--dry-run" in words
    reads = is_help or is_plan or any(" ".join(words[:end]) in _READING for end in (1, 2, 3))
    if lost.reader_is_gone and reads:
        return 0
    print(f"error: stdout: {lost.strerror}", file=sys.stderr)
    return MissingError.exit_code if reads else Interrupted.exit_code


def help_text() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return f"""\
Build machine images and containers for distributed ML training.

usage: builder VERB [options]

{verbs}

  builder VERB --help           options of one verb, with examples
  builder help --man | man -l -   the manual page
  builder --version

Start with: builder list, then builder build cpu-ddp"""


if __name__ == "__main__":
    sys.exit(main())
