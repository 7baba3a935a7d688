"""Read image, counts, variables and mounts from an sbatch file or a script with `docker run`. Pure."""

import re
from collections.abc import Sequence

from builder.launch.lexing import commands, split_options
from builder.launch.written import Item, Written, read_command

_TYPE = re.compile(r"^# .* on \d+ nodes? of type ([a-z0-9-]+\.[a-z0-9-]+)\.$")
# A count, after the name and the type of the GPUs; of a range such as 2-4 the lower number.
_DIRECTIVE = re.compile(
    r"#SBATCH\s+(?:(--nodes|-N)|--gpus-per-node|--gres(?=[= ]gpu\b))[= ]"
    r"(?:[a-z]\w*:)*([^\s,]+?)(?:-\d+)?(?=[\s,]|$)"
)
# Options of docker and srun that may have their value in the next word.
_WITH_VALUE = (
    *("-e", "--env", "-v", "--volume", "--shm-size", "--device", "--cap-add", "--gpus", "-w", "--workdir"),
    *("--user", "-u", "--ulimit", "--network", "--net", "--name", "-n", "-N", "--nodes", "--ntasks"),
    *("--container-image", "--container-mounts", "--container-workdir", "--container-name", "--mpi"),
)


def read_script(text: str) -> Written:
    """Return the values of an sbatch file or docker script; raise ValueError for other texts."""
    found = list(commands(text))
    slurm = [(place, words) for place, words in found if words[0] == "srun"]
    docker = [(place, words) for place, words in found if {"docker", "run"} <= set(words[:3])]
    if "#SBATCH" in text and slurm:
        written = Written("slurm")
        _read_directives(text, written)
        _read_step(*slurm[-1], written)
    elif docker:
        written = Written("docker")
        _read_docker(*docker[-1], written)
    else:
        raise ValueError("is neither an sbatch file with srun nor a script with docker run")
    for place, words in found:
        if words[0] == "export":
            for name, equals, value in (word.partition("=") for word in words[1:]):
                if equals:
                    written.environment[name] = Item(value, place)
        elif words[0] == "unset":
            written.unset |= set(words[1:])
    for number, line in enumerate(text.splitlines(), 1):
        if instance := _TYPE.match(line):
            written.instances.append(Item(instance[1], f"line {number}"))
    return written


def _read_directives(text: str, written: Written) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        if found := _DIRECTIVE.match(line):
            written.add_count("nodes" if found[1] else "gpus", found[2], f"line {number}")
        elif re.match(r"#SBATCH\s+(--gpus|-G)", line):  # GPUs of the job or of a task, not of a node
            written.add_count("gpus", "all", f"line {number}")


def _read_step(place: str, words: Sequence[str], written: Written) -> None:
    options, rest = split_options(words[1:], _WITH_VALUE)
    for name, value in options:
        if name.startswith("--container-"):
            written.has_container = True
        if name == "--container-image":
            written.images.append(Item(registry_name(value), place))
        elif name == "--container-mounts":
            for pair in value.split(","):
                source, _, target = pair.partition(":")
                written.mounts[target.partition(":")[0] or source] = Item(source, place)
    read_command(rest, place, written)


def registry_name(value: str) -> str:
    """Convert enroot's name of an image to registry/repository@sha256:DIGEST; keep a path unchanged."""
    registry, separator, rest = value.removeprefix("docker://").partition("#")
    if not separator:
        return value
    return f"{registry}/{re.sub(r'[:@]sha256:', '@sha256:', rest)}"


def _read_docker(place: str, words: Sequence[str], written: Written) -> None:
    options, rest = split_options(words[words.index("run") + 1 :], _WITH_VALUE)
    for name, value in options:
        if name in ("--env", "-e"):
            key, _, text = value.partition("=")
            written.environment[key] = Item(text, place)
            if key == "WORLD_SIZE" and text.isdigit():
                written.add_count("nodes", text, place)
        elif name in ("--volume", "-v"):
            source, _, target = value.partition(":")
            written.mounts[target.partition(":")[0] or source] = Item(source, place)
        elif name == "--shm-size":
            written.add_size("shared_memory_gib", value, place)
        elif name == "--device":
            written.devices.append(Item(value.partition(":")[0], place))
        elif name == "--cap-add":
            written.capabilities.add(value)
        elif name == "--gpus":
            written.add_count("gpus", value, place)
    written.images += [Item(word, place) for word in rest[:1]]
    read_command(rest[1:], place, written)
