"""The context of a command: the repository with its catalog, lock and site, and the plans of targets.

Also contains the option parser and the table output that all verbs share.
"""

import argparse
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import NoReturn

from builder import catalog, lock, plan, site, sources
from builder.adapters.host.workspace import Workspace, find_workspace
from builder.app.examples import EXAMPLES, epilog
from builder.arch import of_this_machine
from builder.errors import CatalogError, FactoryError, UsageError
from builder.lock import ACCOUNT, LOCAL, Lock, Want
from builder.logins import login_command
from builder.members import base_policy
from builder.model import Catalog, Flavour, Plan, System, Target
from builder.parsed import ParsedFiles
from builder.screen.envelope import envelope
from builder.screen.summary import unusable
from builder.screen.tables import PROSE, Cell, facts, table
from builder.screen.text import look
from builder.site import Site
from builder.stack.knowledge import Knowledge
from builder.stack.loading import load_usable
from builder.tables import did_you_mean
from builder.values import dataclass

SITES = (LOCAL, ACCOUNT)
_PIPED_COLUMNS = 80  # width of a help text that no terminal shows


@dataclass(frozen=True)
class Context:
    """A repository, its site and this machine; catalog, lock and site are read at their first use."""

    root: Path
    site_name: str = LOCAL  # local or aws
    flavour: str = ""  # default: the target's default for the site
    arch: str = ""  # default: this machine's
    _reported: list[bool] = field(default_factory=list, repr=False, compare=False)

    @cached_property
    def catalog(self) -> Catalog:
        """The catalog without its broken entries, which `report_broken` prints."""
        found = catalog.load_usable(self.root, self._parsed)
        self._parsed.save()
        return found

    @cached_property
    def knowledge(self) -> Knowledge:
        """The catalog with its rules, without its broken stacks."""
        found = load_usable(self.root, self.catalog, self._parsed)
        self._parsed.save()
        return found

    @cached_property
    def _parsed(self) -> ParsedFiles:
        """The cache of parsed catalog files; empty if the user's cache folder is not usable."""
        try:
            return ParsedFiles(self.workspace.cache("parsed") / f"{self.workspace.checkout}.json")
        except (FactoryError, OSError):
            return ParsedFiles()

    def report_broken(self, broken: Mapping[str, tuple[str, ...]]) -> None:
        """Print the problems of broken catalog entries, at most once per command."""
        if broken and not self._reported:
            self._reported.append(True)
            print(unusable(broken), file=sys.stderr)

    @cached_property
    def lock(self) -> Lock:
        return lock.read(self.root)

    @cached_property
    def site(self) -> Site:
        return site.load(self.root)

    @cached_property
    def workspace(self) -> Workspace:
        return find_workspace(self.root)

    @property
    def blobs(self) -> Path:
        """The cache folder for compressed layers that are ready to be pushed."""
        return self.workspace.home / "cache" / "blobs"

    def plan(self, name: str) -> Plan:
        target = plan.find_target(self.catalog, name)
        return self.plan_flavour(target, self.flavour_of(target))

    def plan_flavour(self, target: Target, flavour: Flavour) -> Plan:
        if problems := self.knowledge.broken.get(f"targets/{target.name}.toml"):
            raise CatalogError(problems)
        self.report_broken(self.knowledge.broken)
        read = sources.read(self.root, self.catalog, target, flavour)
        arch = self._arch_of(flavour)
        region = self.site.aws.region
        return plan.plan(
            self.knowledge, target, flavour, read, self.lock, arch=arch, site=self.site_name, region=region
        )

    def unlocked(self, target: Target, flavour: Flavour) -> tuple[Want, ...]:
        """Return the downloads of a flavour that have no lock entry; a build requires all entries."""
        wanted = lock.wants(
            self.catalog,
            target,
            flavour,
            arch=self._arch_of(flavour),
            site=lock.building_site(self.catalog, target, flavour, site=self.site_name),
            region=self.site.aws.region,
        )
        requirements = sources.requirement_digests(self.root, self.catalog, target, flavour)
        return lock.unlocked(self.lock, wanted, requirements)

    def _arch_of(self, flavour: Flavour) -> str:
        """Return this machine's architecture, or another for a system that only accounts can build."""
        system, arch = self.catalog.systems[flavour.system], self.arch or of_this_machine()
        built_here = system.bootstrap or system.image
        return arch if built_here or arch in system.arches else system.arches[0]

    def flavour_of(self, target: Target) -> Flavour:
        return plan.find_flavour(target, self.flavour, site=self.site_name)

    def system_of(self, target: Target) -> System:
        """Return the operating system of the target's flavour that would be built."""
        return self.catalog.systems[self.flavour_of(target).system]

    def plans(self, names: Iterable[str]) -> list[Plan]:
        return [self.plan(name) for name in dict.fromkeys(names)]


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps each paragraph of a description or epilog; keeps indented lines as they are."""

    def __init__(self, prog: str) -> None:
        # By default, argparse gets the width from shutil, whose import takes longer than parsing a command.
        style = look(sys.stdout, os.environ)
        super().__init__(prog, width=(style.width if style.terminal else _PIPED_COLUMNS) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            line if line.startswith(" ") else super(_HelpFormatter, self)._fill_text(line, width, indent)
            for line in text.splitlines()
        )


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class _Argument(str):
    """A word after `--`, which is never an option."""


class _Parser(argparse.ArgumentParser):
    """Argument parser that raises UsageError instead of printing its usage; options may follow arguments."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        words = tuple(args or ())
        self._refuse_bad_words(words)
        self._refuse_repeated(words)
        parsed, unknown = self.parse_known_intermixed_args(list(self._with_values(words)), namespace)
        if unknown:
            first = unknown[0]
            suggestion = did_you_mean(first, self._option_string_actions) if first.startswith("--") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{suggestion}")
        return parsed

    def _refuse_bad_words(self, words: Sequence[str]) -> None:
        """Raise UsageError for a control character, and for an empty word, as an unset variable gives it."""
        before = self.prog
        for word in words:
            if word == "--":
                return
            name, is_given, value = word.partition("=")
            if name.startswith("--") and is_given and not value:
                self.error(f"argument {name}: must not be empty")
            option = f"argument {before}:" if before.startswith("-") else "an argument"
            if not word:
                self.error(f"{option} must not be empty")
            if _CONTROL.search(word):
                self.error(f"{option} has a control character: {word!r}")
            before = word

    def _refuse_repeated(self, words: Sequence[str]) -> None:
        """Raise UsageError for an option with two values if only one of them would be used."""
        given: dict[str, str] = {}
        for word, following in zip(words, (*words[1:], ""), strict=False):
            if word == "--":
                return
            name, is_joined, value = word.partition("=")
            option = self._option_string_actions.get(name)
            if type(option) is argparse._StoreAction and option.nargs is None:
                new = value if is_joined else following
                if given.setdefault(option.dest, new) != new:
                    self.error(f"argument {name}: given twice, {given[option.dest]!r} and {new!r}")

    def _with_values(self, words: Sequence[str]) -> Iterator[str]:
        """Attach values such as -1d to their options: argparse would take such a word for an option."""
        rest = iter(words)
        for word in rest:
            option = self._option_string_actions.get(word)
            if word == "--" or option is None or option.nargs is not None:
                if word == "--":
                    break
                yield word
                continue
            value = next(rest, None)
            if value is None:
                yield word
            elif re.match(r"-[^-]", value) and value[:2] not in self._option_string_actions:
                yield f"{word}={value}" if word.startswith("--") else f"{word}{value}"
            else:
                yield from (word, value)
        # Without `--`, which parsing in two passes loses, so that the second pass would find options again.
        yield from map(_Argument, rest)

    def _parse_optional(self, arg_string):  # type: ignore[no-untyped-def]
        return None if isinstance(arg_string, _Argument) else super()._parse_optional(arg_string)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", hint=f"{self.prog} --help")


def parser(verb: str, description: str) -> argparse.ArgumentParser:
    options = _Parser(
        prog=f"builder {verb}",
        description=description,
        epilog=epilog(EXAMPLES.get(verb, ())),
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    options.set_defaults(command=verb)
    options.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="the repository (default: the nearest parent folder with a catalog)",
    )
    return options


def add_json(options: argparse._ActionsContainer, help_text: str = "print JSON") -> None:
    options.add_argument("--json", action="store_true", help=help_text)


def add_targets(options: argparse.ArgumentParser) -> None:
    """Add targets as positional arguments and as --target."""
    options.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help="name or alias of a target (builder list), or a pattern of names such as 'ami-*'",
    )
    options.add_argument(
        "--target", action="append", default=[], metavar="TARGET", help="the same; may be repeated"
    )


def find_targets(context: Context, options: argparse.Namespace, *, verb: str) -> list[str]:
    """Return the names of the given targets, with patterns expanded; raise UsageError if there is none."""
    given = [*options.targets, *options.target]
    if not given:
        raise UsageError(
            f"builder {verb}: no target given", hint=f"builder list; then: builder {verb} TARGET"
        )
    return list(dict.fromkeys(name for text in given for name in _matching(context.catalog, text)))


def find_one_target(context: Context, options: argparse.Namespace, *, verb: str) -> str:
    """Return the name of the only given target; raise UsageError if there is none or more than one."""
    first, *more = find_targets(context, options, verb=verb)
    if more:
        raise UsageError(
            f"builder {verb} takes one target, not {len(more) + 1}: {', '.join([first, *more])}",
            hint=f"builder {verb} {first}",
        )
    return first


def _matching(found: Catalog, text: str) -> list[str]:
    if not any(character in text for character in "*?["):
        return [plan.find_target(found, text).name]
    names = [name for name in found.targets if fnmatchcase(name, text)]
    if not names:
        raise UsageError(f"no target matches '{text}'", hint="builder list")
    return names


def open_context(options: argparse.Namespace) -> Context:
    site_name = getattr(options, "site", None) or os.environ.get("BUILDER_SITE") or LOCAL
    if site_name not in SITES:
        raise UsageError(
            f"BUILDER_SITE: no site '{site_name}'{did_you_mean(site_name, SITES)}",
            hint=f"export BUILDER_SITE={LOCAL}",
        )
    context = Context(
        options.root.absolute() if options.root else _find_root(),
        site_name=site_name,
        flavour=getattr(options, "flavour", None) or "",
    )
    if system := getattr(options, "former_system", None):
        words = (getattr(options, name, None) or () for name in ("target", "targets"))
        named = [name for word in words for name in ([word] if isinstance(word, str) else word)]
        raise _no_system(context, system, named)
    return context


def find_context(root: Path | None) -> Context | None:
    """Return the context for shell completion; None if the current folder is in no repository."""
    folder = root.expanduser() if root else _find_root()
    return Context(folder.absolute()) if (folder / "catalog").is_dir() else None


def _no_system(context: Context, name: str, named: Sequence[str]) -> UsageError:
    """Return the error for the former option --system, which suggests a flavour of the named targets."""
    known = {
        flavour
        for target in context.catalog.targets.values()
        for flavour in target.flavours
        if not named or target.name in named
    }
    suggestion = f" {name}" if name in known else did_you_mean(name, known)
    target = named[0] if named else "TARGET"
    return UsageError(
        f"--system {name}: targets have flavours instead of systems; use --flavour{suggestion}",
        hint=f"builder show {target}",
    )


def add_site(options: argparse.ArgumentParser) -> None:
    """Add --site and --flavour."""
    add_site_name(options)
    add_flavour(options)


def add_site_name(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--site",
        choices=SITES,
        help="local (default): this machine; aws: the AWS account of the environment's credentials",
    )


def add_flavour(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--flavour",
        metavar="FLAVOUR",
        help="flavour of the target (default: its first for the site; builder show lists them)",
    )
    # Former name of --flavour: refused with a hint.
    options.add_argument("--system", dest="former_system", help=argparse.SUPPRESS)


def _find_root() -> Path:
    if named := os.environ.get("BUILDER_ROOT"):
        return Path(named)
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "catalog" / "targets").is_dir():
            return folder
    return Path(__file__).resolve().parents[2]


def base_facts(plan: Plan) -> list[tuple[str, Cell]]:
    """Return table rows about a vendor's base image: policy, contents, login; [] for other base images."""
    policy = base_policy(plan.target, plan.flavour)
    if not policy:
        return []
    contents = (*plan.system.contains, *plan.system.distributions)
    login = login_command(plan.system.image)
    return [
        ("base image", plan.system.image),
        ("policy", f"{policy}: {_POLICIES[policy]}"),
        *([("contains", contents)] if contents else []),
        *([("login", login)] if login else []),
    ]


_POLICIES = {
    "verify-only": "what the image contains is checked, nothing of it is installed again",
    "purge-then-install": "packages that conflict with EFA are removed, then the components are installed",
    "install": "the components are installed on top of the image",
}


def print_verdict(plan: Plan) -> None:
    """Print what the compatibility rules find in a plan: settings for jobs, warnings, and errors."""
    rows = [(instance, " ".join(values)) for instance, values in plan.settings.items()]
    if rows:
        print()
        print_facts([("on", "set for jobs"), *rows])
    verdicts = [("warning", rule) for rule in plan.warnings] + [("refused", text) for text in plan.errors]
    if verdicts:
        print()
        print_facts([("rules", f"of stack {plan.stack.name}"), *verdicts])


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, prose: Collection[str] = PROSE
) -> None:
    """Print a table with one line per row; on a terminal, shorten the `prose` columns."""
    print(table(headers, rows, look=look(sys.stdout, os.environ), prose=prose))


def print_json(options: argparse.Namespace, result: object, *, exit_code: int = 0) -> None:
    """Print the result of a command in the JSON envelope of `--json`."""
    print(envelope(options.command, result=result, exit_code=exit_code))


def print_facts(pairs: Iterable[tuple[str, Cell]]) -> None:
    """Print named values, one per line."""
    print(facts(pairs, look=look(sys.stdout, os.environ)))
