"""Parse a workload's Dockerfile: its instructions with line numbers, the files it copies, its base.

Pure. Leaves arguments to the engine's builder, except those of FROM and COPY: a workload builds
on its component layers and copies files below containers/ only.
"""

import dataclasses
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from builder.values import dataclass

_FROM_OPTION = re.compile(r"(?:^|\s)--from=(\S+)")
_HERE = re.compile(r"(?<!<)<<-?\s*(['\"]?)([A-Za-z_]\w*)\1")
_PARENTS = ("${PARENT}", "$PARENT")
_RULE = "a workload starts from its component layers and uses no other image"


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """An instruction: its first and last line, its upper-case name, its arguments with lines joined."""

    line: int
    end: int
    name: str
    text: str


def instructions(dockerfile: str) -> tuple[Instruction, ...]:
    """Return the instructions in their order; comments and empty lines belong to none.

    The lines of a here-document belong to its instruction, but not to the text of the instruction.
    """
    found, parts, here = list[Instruction](), list[tuple[int, str]](), ""
    lines = [*dockerfile.split("\n"), ""]
    for number, line in enumerate(lines, start=1):
        text = line.rstrip()
        if here:
            found[-1] = dataclasses.replace(found[-1], end=number)
            here = "" if text.strip() == here else here
            continue
        is_last = number > dockerfile.count("\n") + 1
        if text.strip() and not text.lstrip().startswith("#"):
            parts.append((number, text.removesuffix("\\")))
        if parts and (is_last or (parts[-1][0] == number and not text.endswith("\\"))):
            name, _, rest = " ".join(part for _, part in parts).strip().partition(" ")
            found.append(
                Instruction(line=parts[0][0], end=parts[-1][0], name=name.upper(), text=rest.strip())
            )
            parts.clear()
            delimiter = _HERE.search(rest) if found[-1].name in ("RUN", "COPY", "ADD") else None
            here = delimiter[2] if delimiter and delimiter[2] in map(str.strip, lines[number:]) else ""
    return tuple(found)


def base_problems(path: str, found: Sequence[Instruction]) -> list[str]:
    """Return a problem for each stage and COPY --from that uses another image than the component layers."""
    problems, stages = list[str](), list[str]()
    for instruction in found:
        where = f"{path}:{instruction.line}: {instruction.name}"
        if instruction.name == "FROM":
            words = " ".join(word for word in instruction.text.split() if not word.startswith("--"))
            base, _, stage = re.sub(r"\s+as\s+", "\0", words, flags=re.IGNORECASE).partition("\0")
            if base not in _PARENTS and base.lower() not in filter(None, stages):
                problems.append(f"{where} {words}: {_RULE}; write FROM ${{PARENT}}")
            stages.append(stage.lower())
        elif instruction.name in ("COPY", "ADD") and (source := _FROM_OPTION.search(instruction.text)):
            known = {*filter(None, stages), *map(str, range(len(stages)))}
            if source[1].lower() not in known:
                problems.append(f"{where} {source[0].strip()}: {_RULE}")
    bases = [instruction.line for instruction in found if instruction.name == "FROM"]
    if not bases:
        problems.append(f"{path}: has no FROM; write ARG PARENT and FROM ${{PARENT}} on its first lines")
    elif not any(
        i.name == "ARG" and "PARENT" in re.split(r"[\s=]", i.text) for i in found if i.line < bases[0]
    ):
        problems.append(f"{path}:{bases[0]}: needs the line ARG PARENT before its first FROM")
    return problems


def copied(path: str, found: Iterable[Instruction]) -> Iterator[tuple[Instruction, str]]:
    """Yield (instruction, source) of each file or folder that COPY and ADD take from the context.

    Raises ValueError with file and line if the arguments cannot be parsed.
    """
    for instruction in found:
        if instruction.name not in ("COPY", "ADD"):
            continue
        text = instruction.text.replace("[", " ").replace("]", " ").replace('",', '" ')
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ValueError(f"{path}:{instruction.line}: {instruction.name}: {error}") from error
        if not any(word.startswith("--from=") for word in words):
            for source in [word for word in words if not word.startswith("--")][:-1]:
                yield instruction, source


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A Dockerfile with a label after each FROM, and the way back to the lines that the user wrote."""

    text: str
    lines: tuple[int, ...]  # of each line of `text`, its line in the user's file
    steps: tuple[Instruction, ...]  # of each instruction of `text`, the instruction in the user's file

    def line(self, number: int) -> int:
        """Return the line in the user's file for a line that the engine names."""
        return self.lines[min(max(number, 1), len(self.lines)) - 1] if self.lines else 1


def labelled(dockerfile: str, name: str, value: str) -> Labelled:
    """Return the Dockerfile with a label right after each FROM, so that partial images have the label."""
    lines, numbers, steps = list[str](), list[int](), list[Instruction]()
    found = instructions(dockerfile)
    bases = {instruction.end for instruction in found if instruction.name == "FROM"}
    for number, line in enumerate(dockerfile.split("\n"), start=1):
        lines.append(line)
        numbers.append(number)
        if number in bases:
            lines.append(f'LABEL "{name}"="{value}"')
            numbers.append(number)
    for instruction in found:
        steps += [instruction] * (2 if instruction.name == "FROM" else 1)
    return Labelled(text="\n".join(lines), lines=tuple(numbers), steps=tuple(steps))
