"""Rules about variables: settings of NCCL and of the dynamic loader, and the syntax of ARG and ENV."""

import re
from collections.abc import Iterator

from builder.lint.files import File, Tree
from builder.lint.model import Hit, Rule

_INSTRUCTIONS = frozenset(
    (
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"),
        *("MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    )
)
# Instructions whose arguments the engine does not give to a shell: a # in them starts no comment.
_NO_COMMENT = frozenset(("ARG", "ENV", "FROM", "USER", "WORKDIR", "EXPOSE", "STOPSIGNAL"))
_PLUGIN_FOLDERS = re.compile(
    r"/opt/aws-ofi-nccl/install/lib|/opt/amazon/ofi-nccl/lib(?:/[\w-]+-linux-gnu|64)|/opt/amazon/aws-ofi-nccl/lib"
)
# Variable → values that are wrong ("": any), and why.
_OVERRIDES = {
    "NCCL_PROTO": ("", "it disables protocols that NCCL selects by message size"),
    "NCCL_ALGO": ("", "it disables algorithms that NCCL selects by message size"),
    "NCCL_BUFFSIZE": ("", "it replaces the value that the tuner of aws-ofi-nccl selects"),
    "NCCL_P2P_NET_CHUNKSIZE": ("", "it replaces the value that the tuner of aws-ofi-nccl selects"),
    "NCCL_NET_GDR_LEVEL": ("LOC", "LOC disables GPUDirect RDMA between GPU and network card"),
    "NCCL_P2P_DISABLE": ("1", "it disables NVLink between the GPUs of a host"),
    "NCCL_IB_DISABLE": ("", "EFA is not InfiniBand; the setting has no effect on it"),
    "FI_EFA_FORK_SAFE": ("", "libfabric ignores it since release 1.18"),
    "FI_EFA_ENABLE_SHM_TRANSFER": ("", "libfabric ignores it since release 1.18"),
}
_GPU_ONLY = re.compile(r"^(NCCL_\w+|CUDA_\w+|TORCH_NCCL_\w+|NVIDIA_\w+)$")
_MISSPELT = re.compile(
    r"\$\{?([a-z][A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\b|name:\s*([a-z][A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\s*$"
)
_BRACE = re.compile(r"\$\{\w+\}\}(?!\})")
_NO_DOLLAR = re.compile(r"(?<![\w${}\\\"'\[])\{([A-Z][A-Z0-9_]{2,})\}")
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|nvapi-[\w-]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{40,}|(?:AKIA|ASIA)(?=[A-Z]*[2-7])[A-Z2-7]{16}|"
    r"sk-[A-Za-z0-9]{40,}|glpat-[\w-]{20,}|xox[bp]-[\w-]{20,})\b"
)
_TOKEN_OPTION = re.compile(
    r"(?<![\w-])(--[\w-]*(?:token|api[-_]key|password|secret)(?:[-_]key)?)[=\s]+[\"']?(\$\{?\w+|\w{20,})",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"huggingface-cli\s+login|docker\s+login|wandb\s+login")


def _no_instruction(file: File, _: Tree) -> Iterator[Hit]:
    wrong = [found for found in file.instructions if found.name not in _INSTRUCTIONS]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        first = f"{wrong[0].name} {wrong[0].text}".strip()[:40]
        yield wrong[0].line, f"'{first}' is no instruction{more}"


def _text_after_value(file: File, _: Tree) -> Iterator[Hit]:
    for found in file.instructions:
        if found.name in _NO_COMMENT:
            bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", found.text)
            if text := re.search(r"\s(#.*)", bare):
                yield (
                    found.line,
                    f"'{text[1][:40]}' is no comment here: it belongs to the arguments of {found.name}",
                )


def _preload(file: File, _: Tree) -> Iterator[Hit]:
    for line, name, value in file.assigned:
        if name == "LD_PRELOAD" and "nccl" in value.lower():
            yield line, f"LD_PRELOAD={value} is loaded into every program of the image or job"


def _plugin_path(file: File, _: Tree) -> Iterator[Hit]:
    for line, name, value in file.assigned:
        if name in ("NCCL_TUNER_PLUGIN", "NCCL_NET_PLUGIN") and value.startswith("/"):
            yield line, f"{name}={value}: the plugin's folder depends on the release of the EFA installer"
        found = _PLUGIN_FOLDERS.search(value) if name == "LD_LIBRARY_PATH" else None
        if found and f"--prefix={found[0].removesuffix('/lib')}" not in file.text:
            yield line, f"{found[0]} has the NCCL plugin in some releases of the EFA installer only"


def _override(file: File, _: Tree) -> Iterator[Hit]:
    for line, name, value in file.assigned:
        wrong, reason = _OVERRIDES.get(name, ("-", ""))
        if wrong in ("", value) and value not in ("null", "~", '""'):
            yield line, f"{name}={value}: {reason}"


def _gpu_variable(file: File, _: Tree) -> Iterator[Hit]:
    if "aws.amazon.com/neuron" not in file.text or "nvidia.com/gpu" in file.text:
        return
    names = [(line, name) for line, name, _value in file.assigned if _GPU_ONLY.match(name)]
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield (
            names[0][0],
            f"{names[0][1]}{others}: no program on Neuron devices reads variables of NCCL and CUDA",
        )


def _misspelt(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        for found in _MISSPELT.finditer(line):
            name = found[1] or found[2]
            yield number, f"{name}: probably {name.upper()}"


def _stray_brace(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        for found in _BRACE.finditer(line):
            if line.count("}") > line.count("{"):
                yield number, f"{found[0]}: the second brace becomes part of the value"


def _no_dollar(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        for found in _NO_DOLLAR.finditer(line):
            if re.search(r"[:/=]$", line[: found.start()]) and "${" in file.text:
                yield number, f"{found[0]} is not replaced; probably ${found[0]}"


def _literal_token(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.lines:
        for found in _TOKEN.finditer(line):
            if not re.search(r"(?i)example|x{6}|0{6}", found[1]):
                yield number, f"{found[1][:6]}… looks like an access token"


def _token_option(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        if (
            (found := _TOKEN_OPTION.search(line))
            and "--password-stdin" not in line
            and "tokenizer" not in found[1]
        ):
            yield number, f"{found[1]} passes a secret as an argument"


_JOBS = ("Dockerfile", "script", "manifest")

RULES = (
    Rule(
        id="no-instruction",
        kinds=("Dockerfile",),
        why="A pasted terminal session or another file's text is no Dockerfile; the build fails at its first"
        " line.",
        fix="Remove the lines.",
        check=_no_instruction,
    ),
    Rule(
        id="text-after-value",
        kinds=("Dockerfile",),
        why="A Dockerfile has comments on lines of their own only. After a value of ARG, the words declare"
        " further"
        " arguments; after FROM or ENV, they are errors or values.",
        fix="Move the comment to the line above.",
        check=_text_after_value,
    ),
    Rule(
        id="preload",
        kinds=_JOBS,
        why="LD_PRELOAD of an NCCL library replaces the one that PyTorch was built for, also in programs"
        " that need"
        " none; a path of the host does not exist in a container, and the loader only warns.",
        fix="Install one NCCL and list its folder in /etc/ld.so.conf.d, or upgrade the wheel nvidia-nccl.",
        check=_preload,
    ),
    Rule(
        id="plugin-path",
        kinds=_JOBS,
        why="The NCCL plugin has been in four folders. With a path that does not exist, NCCL falls back to"
        " TCP"
        " without an error.",
        fix="Leave the search to ld.so.conf.d of the installer, and check that the plugin is found.",
        check=_plugin_path,
    ),
    Rule(
        id="override",
        kinds=_JOBS,
        why="Settings copied from older guides disable what NCCL, its tuner and libfabric select by"
        " themselves.",
        fix="Remove the variable; set it for one measurement only.",
        check=_override,
    ),
    Rule(
        id="gpu-variable",
        kinds=("manifest", "script"),
        why="Variables of NCCL and CUDA in a job for Neuron devices have no effect and hide the ones that"
        " have.",
        fix="Remove the variables.",
        check=_gpu_variable,
    ),
    Rule(
        id="misspelt-variable",
        kinds=("script", "manifest"),
        why="A variable whose name is typed with a lower-case first letter is another variable, and empty.",
        fix="Correct the name.",
        check=_misspelt,
    ),
    Rule(
        id="stray-brace",
        kinds=("script", "manifest"),
        why="A second closing brace is a character of the value, for example of a folder's name.",
        fix="Remove it.",
        check=_stray_brace,
    ),
    Rule(
        id="no-dollar",
        kinds=("manifest",),
        why="envsubst replaces $NAME and ${NAME} only; {NAME} stays in the text.",
        fix="Write ${NAME}.",
        check=_no_dollar,
    ),
    Rule(
        id="literal-token",
        kinds=("Dockerfile", "script", "manifest", "Makefile", "Python", "text"),
        why="A token in a file is readable for everyone who has the repository or the image, also after its"
        " removal.",
        fix="Revoke the token; pass a new one at run time.",
        check=_literal_token,
    ),
    Rule(
        id="token-option",
        kinds=_JOBS,
        why="Arguments are visible in the list of processes, in logs and in the job's description.",
        fix="Pass the secret in an environment variable or a mounted file.",
        check=_token_option,
    ),
)
