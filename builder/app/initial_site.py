"""Write a commented site file from answers; the keys, meanings and defaults come from `builder.site`."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from builder.adapters.host.workspace import write_atomically
from builder.errors import UsageError
from builder.site import SECTIONS, TYPES
from builder.tables import FLAG, LIST

Answers = Mapping[str, Any]  # values by key, such as "aws.region"
_YES, _NO = ("y", "yes", "true"), ("n", "no", "false")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A key of the site file that `builder init site` reads from an option or from the user's answer."""

    key: str
    option: str
    metavar: str
    text: str


QUESTIONS = (
    Question(key="aws.account", option="account", metavar="NUMBER", text="AWS account; empty: any account"),
    Question(key="aws.region", option="region", metavar="REGION", text="region in which AMIs are built"),
    Question(
        key="aws.subnet",
        option="subnet",
        metavar="ID",
        text="subnet of build instances; empty: the default subnet",
    ),
    Question(
        key="aws.public_address",
        option="public-address",
        metavar="YES|NO",
        text="public addresses for build instances, yes or no; empty: as the subnet is set",
    ),
    Question(
        key="aws.source_cidrs",
        option="source-cidr",
        metavar="NETWORK",
        text="networks that may log in to build instances, such as 203.0.113.7/32, separated by commas",
    ),
    Question(
        key="aws.share_accounts",
        option="share-account",
        metavar="NUMBER",
        text="other accounts that may use the images, separated by commas",
    ),
    Question(
        key="aws.share_parameters",
        option="share-parameters",
        metavar="YES|NO",
        text="may these accounts read the SSM parameters with the AMI ids too, yes or no",
    ),
    Question(
        key="registry.push",
        option="registry",
        metavar="HOST",
        text="registry of container images, or ecr; empty: a registry on this machine",
    ),
)


def parse_answer(key: str, text: str) -> Any:
    """Convert an answer to the value of a key; raise UsageError if the answer is invalid."""
    field, kind = _field(key), _type(key)
    if kind == FLAG:
        if text.lower() in (*_YES, *_NO):
            return text.lower() in _YES
        raise UsageError(f"{key}: must be yes or no, not {text!r}", hint="builder init site --help")
    values = [part.strip() for part in text.split(",") if part.strip()] if kind == LIST else [text]
    form = field.metadata["form"]
    for value in values:
        if form is not None and not form.fits(value):
            raise UsageError(f"{key}: must be {form.words}, not {value!r}", hint="builder init site --help")
    return values if kind == LIST else text


def ask(questions: Sequence[Question], read: Callable[[str], str], say: Callable[[str], object]) -> Answers:
    """Repeat each question until the answer is valid; an empty answer keeps the default."""
    found: dict[str, Any] = {}
    for question in questions:
        while text := read(f"{question.text} [{_shown_default(question.key)}]: ").strip():
            try:
                found[question.key] = parse_answer(question.key, text)
                break
            except UsageError as error:
                say(error.message)
    return found


def write(path: Path, answers: Answers) -> None:
    """Write the site file; raise UsageError if it exists."""
    if os.path.lexists(path):
        raise UsageError(
            f"{path} exists already; nothing was written",
            hint=f"edit the file, or: mv {path} {path}.old",
        )
    write_atomically(path, "\n".join(_lines(answers)) + "\n")


def _lines(answers: Answers) -> Iterator[str]:
    yield "# Settings of this site; a commented line shows a default or an example. `builder config` prints"
    yield "# the settings in force, `builder doctor --site aws` checks them."
    order = ("aws", "checks", "registry", "mirror", "checkpoints")
    for section in sorted(SECTIONS, key=order.index):
        yield ""
        yield f"[{section}]"
        for field in fields(SECTIONS[section]):
            key = f"{section}.{field.name}"
            if isinstance(_default(key), dict):
                continue  # a table of its own: it would end the section
            yield f"# {field.metadata['about']}"
            if key in answers:
                yield f"{field.name} = {_toml(answers[key])}"
            else:
                yield f"# {field.name} = {_toml(_default(key))}"


def _field(key: str) -> Field[Any]:
    section, _, name = key.partition(".")
    return next(field for field in fields(SECTIONS[section]) if field.name == name)


def _default(key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(SECTIONS[section](), name)


def _type(key: str) -> str:
    return TYPES[type(_default(key))]


def _shown_default(key: str) -> str:
    default = _default(key)
    if isinstance(default, bool):
        return _YES[0] if default else _NO[0]
    return "" if default is None else default if isinstance(default, str) else ", ".join(default)


def _toml(value: Any) -> str:
    """Return a value as TOML; strings, lists, numbers and booleans have the same syntax in JSON."""
    if value is None:  # a flag without a default
        return "true"
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
