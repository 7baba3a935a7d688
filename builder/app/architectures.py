"""CloudFormation templates in `architectures/`, their parameters, and parameter values from receipts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.adapters.ami.publisher import Names
from builder.adapters.host import receipts
from builder.app.context import Context
from builder.errors import MissingError, UsageError
from builder.model import Target
from builder.reading import shortened
from builder.tables import did_you_mean

_TEMPLATE = "template.yaml"
# Template parameter for the name of the SSM parameter that contains the AMI ID.
IMAGE_PARAMETER = "ImageId"


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """CloudFormation template; `parameters` maps the name of each parameter to its default value or None.

    `declared` has the declarations of the parameters: type, and allowed values, pattern or range.
    """

    name: str
    text: str
    parameters: Mapping[str, str | None]
    declared: Mapping[str, Mapping[str, Any]]


def load(root: Path, name: str) -> Architecture:
    """Return the CloudFormation template with this name; raise UsageError if there is none."""
    known = names(root)
    if name not in known:
        raise UsageError(f"no architecture '{name}'{did_you_mean(name, known)}", hint="ls architectures")
    text = (root / "architectures" / name / _TEMPLATE).read_text(encoding="utf-8")
    table = parse(text).get("Parameters", {})
    parameters = {
        key: None if entry.get("Default") is None else str(entry["Default"]) for key, entry in table.items()
    }
    return Architecture(name=name, text=text, parameters=parameters, declared=table)


def names(root: Path) -> list[str]:
    return sorted(path.parent.name for path in (root / "architectures").glob(f"*/{_TEMPLATE}"))


def parse(text: str) -> dict[str, Any]:
    """Parse a CloudFormation template into JSON values; the short form `!Ref X` becomes {"Ref": X}."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def construct(loader: Any, suffix: str, node: Any) -> dict[str, Any]:
        if isinstance(node, yaml.ScalarNode):
            value: Any = loader.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            value = loader.construct_mapping(node, deep=True)
        return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}

    Loader.add_multi_constructor("!", construct)
    loaded: dict[str, Any] = yaml.load(text, Loader)  # noqa: S506 (a subclass of SafeLoader)
    return loaded


def values_of(architecture: Architecture, given: Sequence[str]) -> dict[str, str]:
    """Parse template parameters given as KEY=VALUE; raise UsageError for unknown, missing or invalid ones."""
    values: dict[str, str] = {}
    hint = f"see architectures/{architecture.name}/README.md"
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(
                f"{shortened(text)} is not KEY=VALUE",
                hint=f"parameters: {', '.join(architecture.parameters)}",
            )
        if key not in architecture.parameters:
            raise UsageError(
                f"architecture '{architecture.name}' has no parameter"
                f" '{key}'{did_you_mean(key, architecture.parameters)}",
                hint=f"parameters: {', '.join(architecture.parameters)}",
            )
        if key in values:
            raise UsageError(f"the parameter {key} is given twice", hint=f"give {key}=VALUE once")
        if problem := _problem(architecture.declared[key], value):
            raise UsageError(f"{key}={shortened(value)[1:-1]}: {problem}", hint=hint)
        values[key] = value
    missing = [
        key for key, default in architecture.parameters.items() if default is None and key not in values
    ]
    if missing:
        raise UsageError(
            f"architecture '{architecture.name}' needs {', '.join(f'{key}=VALUE' for key in missing)}",
            hint=hint,
        )
    return values


def _problem(declared: Mapping[str, Any], value: str) -> str:
    """Return why CloudFormation would refuse a value of a parameter, "" if it would not."""
    allowed = [str(item) for item in declared.get("AllowedValues", ())]
    pattern = declared.get("AllowedPattern", ".*")
    if not value.isprintable():
        return "must be one line of printable text"
    if allowed and value not in allowed:
        return f"must be {', '.join(allowed[:-1])} or {allowed[-1]}"
    if not re.fullmatch(pattern, value):
        return f"must match {pattern}"
    if declared["Type"] == "Number":
        least, most = declared.get("MinValue", 0), declared.get("MaxValue", 10**9)
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII) or not least <= int(value) <= most:
            return f"must be a number from {least} to {most}"
    return ""


def image_values(context: Context, architecture: Architecture, target: Target) -> dict[str, str]:
    """Return the template parameter ImageId, with the SSM parameter of the target's published AMI."""
    if IMAGE_PARAMETER not in architecture.parameters or target.ami is None:
        raise UsageError(
            f"architecture '{architecture.name}' takes no image of target '{target.name}'",
            hint=f"see architectures/{architecture.name}/README.md",
        )
    flavour = context.flavour_of(target)
    for table in receipts.all_of(context.workspace.out, target.name):
        if table["plan"].get("flavour", {}).get("name") == flavour.name and table.get("publications"):
            names = Names(
                prefix=context.site.aws.parameters,
                target=target.name,
                system=flavour.system,
                arch=str(table["plan"].get("arch", "")),
                version="",
            )
            return {IMAGE_PARAMETER: names.moving}
    raise MissingError(
        f"no receipt of a published AMI of target '{target.name}', flavour '{flavour.name}'",
        hint=f"builder build {target.name} --flavour {flavour.name} --publish",
    )
