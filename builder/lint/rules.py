"""All rules of the linter, and their application to the files of a tree."""

from builder.lint import environment, images, jobs, layers, nccl, packages
from builder.lint.files import Tree
from builder.lint.model import Finding, Rule

RULES: tuple[Rule, ...] = (
    *images.RULES,
    *packages.RULES,
    *layers.RULES,
    *nccl.RULES,
    *environment.RULES,
    *jobs.RULES,
)


def check(tree: Tree) -> tuple[Finding, ...]:
    """Return the findings in the order of files and lines, without findings that a comment ignores."""
    found = {
        (str(file.path), line, rule.id, message): rule
        for file in tree.files
        for rule in RULES
        if file.kind in rule.kinds
        for line, message in rule.check(file, tree)
        if rule.id not in file.ignored.get(line, ())
    }
    return tuple(
        Finding(rule=found[key], path=path, line=line, message=message)
        for key in sorted(found)
        for path, line, _, message in (key,)
    )
