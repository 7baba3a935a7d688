"""`builder lint [PATH]`: checks Dockerfiles, batch scripts and manifests against static rules."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder import __version__
from builder.app.context import add_json, parser, print_json, print_table
from builder.errors import CheckError, with_result
from builder.lint.files import Tree, read_tree
from builder.lint.model import Finding
from builder.lint.rules import RULES, check
from builder.lint.sarif import sarif
from builder.screen.text import clean, count

_DESCRIPTION = (
    "Check the Dockerfiles, batch scripts and manifests of any folder, and the documents and programs beside"
    " them."
    " Reads files only. Beside hadolint, not in place of it: the rules are about images and jobs for"
    " distributed"
    " training. A comment `# builder lint ignore=RULE` allows a finding on its own line and on the next."
)


def options() -> argparse.ArgumentParser:
    found = parser("lint", _DESCRIPTION)
    found.add_argument(
        "path", nargs="?", type=Path, metavar="PATH", help="folder or file (default: the current folder)"
    )
    form = found.add_mutually_exclusive_group()
    add_json(form)
    form.add_argument("--sarif", action="store_true", help="print SARIF, for code hosts and editors")
    form.add_argument("--rules", action="store_true", help="print the rules instead of checking files")
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    if parsed.rules:
        print_table(("rule", "files", "why", "fix"), [(r.id, r.kinds, r.why, r.fix) for r in RULES])
        return 0
    path = parsed.path or parsed.root or Path()
    tree, unread = read_tree(path)
    for name, reason in unread:
        print(clean(f"not read: {name}: {reason}"), file=sys.stderr)
    findings = check(tree)
    result = _as_json(path, tree, unread, findings)
    if parsed.sarif:
        print(sarif(findings, RULES, version=__version__))
    elif not parsed.json:
        for found in findings:
            print(clean(f"{found.path}:{found.line}: {found.rule.id}: {found.message}. {found.rule.fix}"))
    if findings:
        files = len({found.path for found in findings})
        with with_result(result):
            raise CheckError(
                f"{count(len(findings), 'finding')} in {count(files, 'file')} of {path}",
                hint="builder lint --rules",
            )
    if parsed.json:
        print_json(parsed, result)
    return 0


def _as_json(
    path: Path, tree: Tree, unread: Sequence[tuple[str, str]], findings: Sequence[Finding]
) -> Mapping[str, object]:
    return {
        "path": os.fspath(path),
        "files": len(tree.files),
        "rules": len(RULES),
        "unread": [{"path": name, "reason": reason} for name, reason in unread],
        "findings": [
            {
                "rule": found.rule.id,
                "path": found.path,
                "line": found.line,
                "message": found.message,
                "why": found.rule.why,
                "fix": found.rule.fix,
            }
            for found in findings
        ],
    }
