"""Generate the reference page of the rules: `python -m builder.stack.reference docs/reference/rules.md`."""

import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from builder.catalog import load as load_catalog
from builder.stack.knowledge import Knowledge
from builder.stack.loading import load
from builder.stack.rules import Rule

_INTRO = """\
# Compatibility rules

Generated from `catalog/rules/` by `python -m builder.stack.reference docs/reference/rules.md`; edit the TOML
files there.

{count} rules. A rule applies if all conditions before the arrow hold, and fires if a condition after the
arrow does not hold. A rule without an arrow fires whenever it applies. An unknown fact never makes a rule
fire: `builder stack check` lists it as unknown.

Severities: **error** stops a build (exit code 8), **warning** is reported, **setting** goes into the image or
the job, **note** is information. The side of a rule limits the facts it may use: those of the host (the
machine below a container, or the AMI itself), of the image, of both, of the build or of the site (the
cluster).
"""


def page(knowledge: Knowledge) -> str:
    parts = [_INTRO.format(count=len(knowledge.rules))]
    for subject, rules in groupby(knowledge.rules, key=lambda rule: rule.subject):
        parts += [f"\n## {subject}\n", *(_entry(rule) for rule in rules)]
    parts.append("\n## Sources\n")
    parts += [f"- **{name}**: {text}" for name, text in sorted(knowledge.sources.items())]
    return "\n".join(parts) + "\n"


def _entry(rule: Rule) -> str:
    when = ", ".join(f"`{clause.text}`" for clause in rule.when)
    require = ", ".join(f"`{clause.text}`" for clause in rule.require)
    settings = ", ".join(f"`{setting}`" for setting in rule.settings)
    basis = "" if rule.basis == "read" else f", {rule.basis}"
    lines = [
        f"### {rule.id}\n",
        f"{rule.severity}, {rule.side}: {when}{f' → {require}' if require else ''}\n",
        rule.why + (f" *{rule.fix}*" if rule.fix else ""),
    ]
    if settings:
        lines.append(f"\n{'Optional settings' if rule.settings[0].optional else 'Settings'}: {settings}")
    lines.append(f"\nSource: {', '.join(_link(source) for source in rule.sources)} ({rule.date}{basis})\n")
    return "\n".join(lines)


def _link(source: str) -> str:
    repository, _, number = source.partition("#")
    return f"[{source}](https://github.com/{repository}/issues/{number})" if number else source


def main(argv: Sequence[str]) -> int:
    root, target = Path.cwd(), Path(argv[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page(load(root, load_catalog(root))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
