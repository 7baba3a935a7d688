"""Parse a workload's Dockerfile: instructions with line numbers, copied files, and the base image.

Pure. Interprets only the arguments of FROM, COPY and ADD: a workload builds
on its component layers and copies files below containers/ only.
"""

import dataclasses
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator

from builder.values import dataclass

_FLAG = re.compile(r"--[a-z]+(=[\w./:@,+=${}-]+)?", re.ASCII)
_FROM = re.compile(r"(?:^--|,|=)from=([^,]*)", re.IGNORECASE)
_CONTINUED = re.compile(r"\\[ \t]*$")
# Lines that BuildKit and older builders of the engine parse differently.
_ESCAPE = re.compile(r"\s*#\s*escape\s*=(?!\s*\\\s*$)", re.IGNORECASE)
_TWO_BACKSLASHES = re.compile(r"\\\\[ \t]*$")
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
    here: str = ""  # delimiter of its here-document


def instructions(dockerfile: str) -> tuple[Instruction, ...]:
    """Return the instructions in their order, without comments and empty lines.

    Lines are joined as the engine joins them. The lines of a here-document belong to its instruction, but not
    to the text of the instruction.
    """
    found, parts, here = list[Instruction](), list[tuple[int, str]](), ""
    lines = [*dockerfile.split("\n"), ""]
    for number, line in enumerate(lines, start=1):
        text = line.removesuffix("\r")
        if here:
            found[-1] = dataclasses.replace(found[-1], end=number)
            here = "" if text.strip() == here else here
            continue
        is_last = number > dockerfile.count("\n") + 1
        is_continued = _CONTINUED.search(text) is not None
        if text.strip() and not text.lstrip().startswith("#"):
            parts.append((number, _CONTINUED.sub("", text)))
        if parts and (is_last or (parts[-1][0] == number and not is_continued)):
            name, rest = _divided("".join(part for _, part in parts))
            found.append(Instruction(line=parts[0][0], end=parts[-1][0], name=name, text=rest))
            parts.clear()
            delimiter = _HERE.search(rest) if found[-1].name in ("RUN", "COPY", "ADD") else None
            here = delimiter[2] if delimiter and delimiter[2] in map(str.strip, lines[number:]) else ""
            if here:
                found[-1] = dataclasses.replace(found[-1], here=here)
    return tuple(found)


def _divided(text: str) -> tuple[str, str]:
    """Return the upper-case name of an instruction and its arguments."""
    name, *rest = re.split(r"[ \t]+", text.strip(), maxsplit=1)
    return name.upper(), "".join(rest)


def base_problems(path: str, dockerfile: str) -> list[str]:
    """Return a problem for each stage and COPY --from that uses an image other than the component layers.

    Text that the engine may parse differently from this module is also a problem.
    """
    found = instructions(dockerfile)
    problems, stages = list(_ambiguities(path, dockerfile, found)), list[str]()
    for instruction in found:
        where = f"{path}:{instruction.line}: {instruction.name}"
        if instruction.name == "FROM":
            words = " ".join(_arguments(instruction))
            base, _, stage = re.sub(r"\s+as\s+", "\0", words, flags=re.IGNORECASE).partition("\0")
            if base not in _PARENTS and base.lower() not in filter(None, stages):
                problems.append(f"{where} {words}: {_RULE}; write FROM ${{PARENT}}")
            stages.append(stage.lower())
            continue
        for flag in _flags(instruction):
            if source := _FROM.search(flag):
                known = {*filter(None, stages), *map(str, range(len(stages)))}
                if source[1].lower() not in known:
                    problems.append(f"{where} {flag}: {_RULE}")
    bases = [instruction.line for instruction in found if instruction.name == "FROM"]
    if not bases:
        problems.append(f"{path}: has no FROM; write ARG PARENT and FROM ${{PARENT}} on its first lines")
    elif not any(
        i.name == "ARG" and "PARENT" in re.split(r"[\s=]", i.text) for i in found if i.line < bases[0]
    ):
        problems.append(f"{path}:{bases[0]}: needs the line ARG PARENT before its first FROM")
    return problems


def _ambiguities(path: str, dockerfile: str, found: Iterable[Instruction]) -> Iterator[str]:
    """Yield a problem for each line whose parsing is ambiguous and could hide an instruction."""
    for number, line in enumerate(dockerfile.replace("\r\n", "\n").split("\n"), start=1):
        if _ESCAPE.match(line):
            yield f"{path}:{number}: {line.strip()}: the escape character must be a backslash"
        if line.lstrip(" \t").startswith("#"):
            continue
        if odd := next((c for c in line if _is_odd(c)), ""):
            yield f"{path}:{number}: contains the character {odd!a}; use spaces and tabs"
        if _TWO_BACKSLASHES.search(line):
            yield f"{path}:{number}: ends in two backslashes; versions of the engine differ in its meaning"
    for instruction in found:
        where = f"{path}:{instruction.line}: {instruction.name}"
        if instruction.here:
            yield f"{where} <<{instruction.here}: the engine has no here-documents; COPY a script, and run it"
        if instruction.name == "ONBUILD":
            yield f"{where}: would add instructions to later builds; write them where they are needed"
        if wrong := [flag for flag in _flags(instruction) if not _FLAG.fullmatch(flag)]:
            yield f"{where} {wrong[0]}: write options without quotes and backslashes"


def _is_odd(character: str) -> bool:
    """True if a character is a control character or white space other than space and tab."""
    is_control = unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp")
    return character not in " \t" and (is_control or character.isspace())


def _flags(instruction: Instruction) -> list[str]:
    """Return the options before the arguments of an instruction."""
    words = instruction.text.split()
    return words[: len(words) - len(_arguments(instruction))]


def _arguments(instruction: Instruction) -> list[str]:
    words = instruction.text.split()
    while words and words[0].startswith("--"):
        words.pop(0)
    return words


def copied(path: str, found: Iterable[Instruction]) -> Iterator[tuple[Instruction, str]]:
    """Yield (instruction, source) of each file or folder that COPY and ADD take from the context.

    Raises ValueError with file and line for a source that the engine would change before it uses it.
    """
    for instruction in found:
        if instruction.name not in ("COPY", "ADD") or any(map(_FROM.search, _flags(instruction))):
            continue
        for source in _words(instruction)[:-1]:
            if set(source) & set("$\\\"'"):
                raise ValueError(
                    f"{path}:{instruction.line}: {instruction.name} {source}: write the path without quotes,"
                    " backslashes and variables"
                )
            yield instruction, source


def _words(instruction: Instruction) -> list[str]:
    """Return the arguments of COPY and ADD: a JSON list of texts, or words."""
    options = len(_flags(instruction))
    text = "".join(instruction.text.split(None, options)[options:])  # spaces in a JSON text are part of it
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return text.split()
    is_list = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return words if is_list else text.split()


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """A Dockerfile with a LABEL after each FROM, and the user's line number for each of its lines."""

    text: str
    lines: tuple[int, ...]  # of each line of `text`, its line in the user's file
    steps: tuple[Instruction, ...]  # of each instruction of `text`, the instruction in the user's file

    def line(self, number: int) -> int:
        """Map a line number in an error of the engine to the line in the user's Dockerfile."""
        return self.lines[min(max(number, 1), len(self.lines)) - 1] if self.lines else 1


def labelled(dockerfile: str, name: str, value: str) -> Labelled:
    """Add a LABEL right after each FROM, so that partial images of a failed build have the label."""
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
