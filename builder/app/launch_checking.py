"""Compares a launch file with its image, in the engine and in the registry, and with its EC2 type."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.adapters.engine.client import Engine
from builder.app.context import Context
from builder.app.launch_registry import is_in_registry, publishing_command
from builder.app.launching import Published, find_instance, find_published
from builder.errors import IncompatibleError, MissingError, UsageError
from builder.launch.checking import WHOLE, Finding, findings
from builder.launch.job import MOST_NODES, Job, Wish
from builder.launch.scripts import read_script
from builder.launch.written import Written, read_document
from builder.model import Instance
from builder.reading import UnreadableError, parse, read_text
from builder.tables import did_you_mean

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})|-([0-9a-f]{12})\.sqsh\b")
_PROBE_S = 60.0
# Shell script with arguments FOLDER WORD…: prints each word that is neither a file nor a command.
_PROBE = """\
cd "$1" || exit 0
shift
for word; do test -r "$word" || command -v "$word" > /dev/null || echo "$word"; done
"""
_HINT = "write it with: builder launch TARGET --on slurm --instance TYPE -o FOLDER"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """Result of checking a launch file: the image, target and EC2 type, and the findings."""

    image: str
    target: str
    instance: str
    findings: Sequence[Finding]


def check_file(context: Context, path: Path, instance_name: str) -> Checked:
    """Compare a launch file with its image and its EC2 type (default: the type `instance_name`)."""
    text = _read(path)
    written = _parse(path, text)
    digests = [full or short for full, short in _DIGEST.findall(text)]
    if not digests:
        raise UsageError(f"{path}: names no image by its digest", hint=_HINT)
    published = find_published(context, digests)
    if published is None:
        raise MissingError(
            f"{path}: no receipt of an image with the digest {digests[0]}",
            hint="run the command in the checkout that has built and published the image",
        )
    instance = _instance(context, path, written, instance_name)
    found = list(_compare(context, written, published, instance))
    return Checked(
        image=published.recorded.publications[-1].name,
        target=published.target.name,
        instance=instance.name,
        findings=found,
    )


def _read(path: Path) -> str:
    try:
        text = read_text(path)
        if text.startswith("#!") and b"\r" in path.read_bytes():
            raise ValueError(
                "has carriage returns, such as line ends of Windows, which a shell does not accept"
            )
        return text
    except FileNotFoundError as error:
        raise MissingError(f"no file {path}", hint=_HINT) from error
    except UnreadableError as error:
        raise MissingError(f"{path}: {error}", hint=f"ls -l {shlex.quote(str(path))}") from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}", hint=_HINT) from error


def _parse(path: Path, text: str) -> Written:
    """Return the values of a launch file; raise UsageError if the file is not a launch file."""
    import yaml

    try:
        if text.startswith("#!"):
            return read_script(text)
        loader = json.loads if text.lstrip().startswith("{") else yaml.safe_load
        document = parse(text, loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not YAML: {' '.join(str(error).split())}", hint=_HINT) from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}", hint=_HINT) from error
    if not isinstance(document, Mapping):
        raise UsageError(f"{path}: is neither a script nor one YAML or JSON object", hint=_HINT)
    try:
        return read_document(document)
    except ValueError as error:
        raise UsageError(f"{path}: {error}", hint=_HINT) from error


def _instance(context: Context, path: Path, written: Written, name: str) -> Instance:
    if name:
        return find_instance(context, name)
    if not written.instances:
        raise UsageError(
            f"{path}: names no EC2 type",
            hint=f"builder launch --check {shlex.quote(str(path))} --instance TYPE",
        )
    item = written.instances[0]
    return find_instance(context, item.value, place=f"{path}: {item.place}")


def _compare(
    context: Context, written: Written, published: Published, instance: Instance
) -> Iterator[Finding]:
    # Without a valid number, two nodes: the EFA interfaces and devices of the file are then no findings.
    nodes = int(written.count("nodes") or 2) if "nodes" in written.counts else 1
    has_runtime = written.service != "slurm" or written.has_container
    wish = Wish(nodes=min(max(nodes, 1), MOST_NODES), has_runtime=has_runtime)
    for item in written.instances:
        if item.value != instance.name:
            yield Finding(
                place=item.place,
                message=f"type {item.value}, and others of the file are for {instance.name}",
                hint=f"use {instance.name}",
            )
    try:
        job = published.job(context, instance, written.service, wish)
    except IncompatibleError as error:
        place = written.instances[0].place if written.instances else WHOLE
        yield Finding(place=place, message=error.message, hint=error.hint)
        return
    variables, missing = _ask_image(published, written, job)
    yield from findings(written, job, variables)
    yield from missing
    if is_in_registry(context, job.image) is False:
        yield Finding(
            place=WHOLE,
            message=f"the registry has no image {job.image.name}",
            hint=publishing_command(job.image),
        )


def _ask_image(
    published: Published, written: Written, job: Job
) -> tuple[Mapping[str, str], Sequence[Finding]]:
    """Return the image's environment variables, and a finding for each program that the image lacks."""
    engine = Engine()
    image = engine.inspect_image(published.engine_id)
    if image is None:
        raise MissingError(
            f"the image of run {job.image.run} is not in this engine", hint=f"docker pull {job.image.name}"
        )
    variables = dict(pair.partition("=")[::2] for pair in image["Config"].get("Env") or ())
    items = {item.value: item for item in (*written.runners, *written.programs)}
    lacking = _lacking(engine, published.engine_id, job.launch.folder, [n for n in items if "$" not in n])
    program = job.launch.command[0]
    return variables, [
        Finding(
            place=items[name].place,
            message=f"the image has no program {name}{did_you_mean(name, [program])}",
            hint=f"start {program}",
        )
        for name in lacking
    ]


def _lacking(engine: Engine, image: str, folder: str, words: Sequence[str]) -> list[str]:
    lines: list[str] = []
    container = engine.create(
        image,
        command=["/bin/sh", "-c", _PROBE, "sh", folder, *words],
        network="none",
        labels={},
        user="65534",
        cap_drop=["ALL"],
    )
    try:
        engine.run_to_end(container, lines.append, timeout_s=_PROBE_S)
    finally:
        engine.remove_container(container)
    return [word for word in words if word in lines]
