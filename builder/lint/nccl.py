"""Rules about builds of NCCL and of its plugin for EFA."""

import re
from collections.abc import Iterator

from builder.lint.files import File, Tree
from builder.lint.model import Hit, Rule

_REMOVED = re.compile(
    r"\b(?:remove|purge|autoremove)\b.*\s(libnccl2|libnccl-dev)\b|\brm\s.*(libnccl[\w.*-]*\.so)"
)
_BUILT = re.compile(
    r"\bsrc\.build\b|\binstall\b.*\blibnccl2\b|nvidia-nccl-cu\d\d|\btorch(?:==|\s|$)|NVIDIA/nccl(?:\.git)?\b"
)


def _removed(file: File, _: Tree) -> Iterator[Hit]:
    commands = [command for command in file.commands if not command.text.startswith("#")]
    if any(_BUILT.search(command.text) for command in commands):
        return
    for command in commands:
        if found := _REMOVED.search(command.text):
            yield command.line, f"{found[1] or found[2]} is removed, and no command installs NCCL again"


def _gencode(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        if re.search(r"code=sm_\w+,\s+-gencode|code=sm_\w+-gencode", line):
            yield number, "the options -gencode must be separated by spaces alone"


def _platform(file: File, _: Tree) -> Iterator[Hit]:
    for run in file.runs:
        is_plugin = any("aws-ofi-nccl" in command.text for command in run)
        for command in run:
            is_configure = command.program == "configure" and "--with-libfabric" in command.text
            if is_plugin and is_configure and "--enable-platform-aws" not in command.text:
                yield command.line, "configure without --enable-platform-aws"


def _nccl_folder(file: File, _: Tree) -> Iterator[Hit]:
    built = [command for command in file.commands if "src.build" in command.text]
    for command in file.commands:
        found = re.search(r"--with-nccl=[\"']?([^\s\"']+)", command.text)
        if not found or not built or "$" in found[1]:
            continue
        folder = found[1].rstrip("/")
        others = (other.text for other in file.commands if other is not command)
        parents = {folder, folder.removesuffix("/build")}
        if not any(re.search(rf"{re.escape(name)}(?![\w-])", text) for text in others for name in parents):
            yield command.line, f"no command of this file makes {folder}; NCCL is built in another folder"


RULES = (
    Rule(
        id="nccl-removed",
        kinds=("Dockerfile",),
        why="Programs of the base image that are linked with libnccl.so.2 stop at their start.",
        fix="Install NCCL after removing the base's, or keep it.",
        check=_removed,
    ),
    Rule(
        id="gencode-syntax",
        kinds=("Dockerfile", "script", "Makefile"),
        why="nvcc takes a comma as a part of the architecture's name and compiles none of the architectures"
        " after it.",
        fix='NVCC_GENCODE="-gencode=arch=compute_90,code=sm_90 -gencode=…", without a comma between them.',
        check=_gencode,
    ),
    Rule(
        id="platform-aws",
        kinds=("Dockerfile", "script"),
        why="Without --enable-platform-aws the plugin has no tuner and no topology files for AWS instances,"
        " and"
        " collectives are slower.",
        fix="Add --enable-platform-aws, or use the plugin of the EFA installer.",
        check=_platform,
    ),
    Rule(
        id="nccl-folder",
        kinds=("Dockerfile",),
        why="configure uses the headers of another NCCL, or none, if the folder of --with-nccl does not"
        " exist.",
        fix="Name the folder that NCCL's build installs to (BUILDDIR).",
        check=_nccl_folder,
    ),
)
