"""Rules about packages from pip, apt and source repositories, such as unpinned versions."""

import re
from collections.abc import Iterator

from builder.lint.files import File, Tree
from builder.lint.images import bases
from builder.lint.model import Hit, Rule
from builder.lint.shell import Command

_PIP = re.compile(r"\b(?:pip[\w.${}\"]*|uv pip|conda|mamba)\s+install\b")
_REDIRECTED = re.compile(r"([\w.-]+(?:\[[\w,]+\])?)([<>]=?)(?==?\d)")
_PINNED = re.compile(r"([A-Za-z][\w.-]*)(?:\[[\w,]+\])?==([\w.]+)")
_CLONE = re.compile(r"\bgit\s+clone\b")
_BRANCHES = ("main", "master", "develop", "dev", "trunk")
_MOVING_URL = re.compile(
    r"https?://\S*?(?:aws-efa-installer-latest|Miniconda3-latest|Miniforge3-Linux|/nightly/|[-_/]nightly[-_/.]|"
    r"/(?:main|master)/|/latest/download/|[-_]latest[-_.])\S*"
)
_MOVING_VERSION = re.compile(r"^(\w*VERSION\w*)=[\"']?(latest|main|master|nightly)\b")
_UNVERIFIED = {
    r"--allow-unauthenticated|--force-yes": "apt installs packages without checking their signature",
    r"--no-gpg-checks?|--nogpgcheck": "the package manager does not check signatures",
    r"\[trusted=yes\]": "the archive is used without a signature",
    r"\bapt-key\b": "a key of apt-key may sign packages of every archive",
    r"\bcurl\b[^|;&]*\s(?:-\w*k\w*|--insecure)\s": "curl does not check the server's certificate",
    r"--no-check-certificate": "wget does not check the server's certificate",
    r"--trusted-host": "pip does not check the server's certificate",
}
_DRIVERS = re.compile(
    r"(?:^|\s)(aws-neuronx-dkms|nvidia-driver-\d\S*|cuda-drivers\S*|[\w-]+-dkms|linux-headers-\S+|efa-nv-peermem)(?=[\s=]|$)"
)
# pip extra that no longer exists or that installs nothing → its replacement.
_EXTRAS = {r"jax\[cuda1[12]_pip\]": "jax[cuda12]", r"jax\[cuda1[12]_local\]": "jax[cuda12-local]"}
_WHEEL = re.compile(r"(\w+?)-[\w.]+\+(?:cu\d+)?torch(\d+\.\d+)\S*\.whl")
_TORCH = re.compile(r"\btorch==(\d+\.\d+)")


def _installs(file: File) -> Iterator[Command]:
    return (command for command in file.commands if _PIP.search(command.text))


def _unquoted_constraint(file: File, _: Tree) -> Iterator[Hit]:
    for command in _installs(file):
        for found in _REDIRECTED.finditer(command.bare):
            yield (
                command.line,
                f"the shell takes '{found[2]}' after {found[1]} as a redirection; pip gets no constraint",
            )


def _unpinned_source(file: File, _: Tree) -> Iterator[Hit]:
    for run in file.runs:
        for number, command in enumerate(run):
            if _CLONE.search(command.text):
                yield from _clone(command, run[number + 1 :])
            for found in re.finditer(r"git\+\w+://[^\s\"'#@]+(?:@([^\s\"'#]+))?", command.text):
                if found[1] is None or found[1] in _BRANCHES:
                    yield command.line, f"{found[0]} follows a branch"


def _clone(command: Command, later: tuple[Command, ...]) -> Iterator[Hit]:
    branch = re.search(r"(?:\s-b\s*|--branch[\s=])[\"']?(\S+?)[\"']?(?:\s|$)", command.text)
    found = re.search(r"\bclone\b.*?(\w+://[^\s\"']+|\S+\.git\b)", command.text, re.DOTALL)
    url = found[1] if found else "the repository"
    if branch and branch[1] in _BRANCHES:
        yield command.line, f"git clone of {url} follows branch '{branch[1]}'"
    elif not branch and "--revision" not in command.text:
        fixed = (
            after
            for after in later
            if re.search(r"\bgit\b.*\b(checkout|reset|switch)\b", after.text)
            and not set(after.words) & set(_BRANCHES)
        )
        if next(fixed, None) is None:
            yield command.line, f"git clone of {url} follows its default branch"


def _moving_download(file: File, _: Tree) -> Iterator[Hit]:
    for command in file.commands:
        for found in _MOVING_URL.finditer(command.text):
            yield command.line, f"{found[0]}: the content of this URL changes"
        if _PIP.search(command.text) and re.search(r"\s--pre\b", command.text):
            yield command.line, "pip --pre installs the newest pre-release"
        elif version := _MOVING_VERSION.match(command.text.removeprefix("export ")):
            yield command.line, f"{version[1]}={version[2]} is no version"
    for instruction in file.instructions:
        version = _MOVING_VERSION.match(instruction.text) if instruction.name in ("ARG", "ENV") else None
        if version:
            yield instruction.line, f"{version[1]}={version[2]} is no version"


def _unverified_packages(file: File, _: Tree) -> Iterator[Hit]:
    for command in file.commands:
        for pattern, reason in _UNVERIFIED.items():
            if found := re.search(pattern, f"{command.text} "):
                yield command.line, f"{found[0].split()[-1] if found[0].strip() else found[0]}: {reason}"


def _driver_in_image(file: File, _: Tree) -> Iterator[Hit]:
    for command in file.commands:
        if re.search(r"\b(?:apt|apt-get|dnf|yum)\b.*\binstall\b", command.text):
            for found in _DRIVERS.finditer(command.text):
                yield command.line, f"{found[1]} belongs to the kernel of the host"


def _third_party_archive(file: File, _: Tree) -> Iterator[Hit]:
    for command in file.commands:
        if found := re.search(r"\bppa:[\w/.-]+", command.text):
            yield (
                command.line,
                f"{found[0]} is maintained by third parties and keeps only its newest packages",
            )


def _extra_index(file: File, _: Tree) -> Iterator[Hit]:
    for command in file.commands:
        if re.search(r"pip[\w.]*\s+config\s+.*extra-index-url", command.text):
            yield command.line, "extra-index-url becomes the default of every later pip install"
        elif "--extra-index-url" in command.text and _PIP.search(command.text):
            names = [word for word in command.arguments if re.fullmatch(r"[A-Za-z][\w.\[\],-]*", word)]
            loose = [name for name in names if name not in ("install", "pip", "m")]
            if loose:
                yield command.line, f"--extra-index-url without a version for {', '.join(loose)}"
    for found in file.instructions:
        if found.name in ("ENV", "ARG") and re.search(r"\b(PIP|UV)_EXTRA_INDEX_URL\b.*https?:", found.text):
            yield found.line, "extra-index-url becomes the default of every later pip install"


def _legacy_extra(file: File, _: Tree) -> Iterator[Hit]:
    for command in _installs(file):
        for pattern, successor in _EXTRAS.items():
            if found := re.search(pattern, command.text):
                yield command.line, f"{found[0]} is a former name of {successor}"


def _installed_twice(file: File, _: Tree) -> Iterator[Hit]:
    if sum(found.name == "FROM" for found in file.instructions) > 1:
        return
    seen: dict[str, tuple[str, int]] = {}
    for command in _installs(file):
        for name, version in _PINNED.findall(command.text):
            key = name.lower().replace("_", "-")
            if key in seen and seen[key][0] != version:
                before, line = seen[key]
                yield command.line, f"{name}=={version} replaces {name}=={before} of line {line}"
            seen[key] = (version, command.line)


def _wheel_of_other_torch(file: File, _: Tree) -> Iterator[Hit]:
    torch = _TORCH.search("\n".join(line for _, line in file.code))
    for number, line in file.code:
        for found in _WHEEL.finditer(line):
            if torch and found[2] != torch[1]:
                yield (
                    number,
                    f"this wheel of {found[1]} is built for torch {found[2]}; the file installs {torch[1]}",
                )


def _vendor_upgrade(file: File, _: Tree) -> Iterator[Hit]:
    if not any("nvcr.io/" in image for _, image in bases(file)):
        return
    for command in file.commands:
        if found := re.search(
            r"\bapt(?:-get)?\b.*\s(upgrade|dist-upgrade|full-upgrade|autoremove)\b", command.bare
        ):
            yield command.line, f"apt {found[1]} changes libraries that the base was tested with"


_SHELL = ("Dockerfile", "script")

RULES = (
    Rule(
        id="unquoted-constraint",
        kinds=_SHELL,
        why="The shell takes an unquoted > or < as a redirection: it writes a file named =1.0, and pip"
        " installs any"
        " version.",
        fix='Quote the requirement: pip install "name>=1.0".',
        check=_unquoted_constraint,
    ),
    Rule(
        id="unpinned-source",
        kinds=_SHELL,
        why="Source code of a branch changes between builds, and breaks them without a change in the file.",
        fix="Check out a tag or a commit: git clone --branch TAG, or name @ git+https://…@COMMIT.",
        check=_unpinned_source,
    ),
    Rule(
        id="moving-download",
        kinds=_SHELL,
        why="URLs and versions such as latest, nightly or main give other files on another day.",
        fix="Use the URL of one release, and compare its checksum.",
        check=_moving_download,
    ),
    Rule(
        id="unverified-packages",
        kinds=_SHELL,
        why="Without signatures and certificates, any server on the way can replace a package.",
        fix="Remove the option; install a missing key into /etc/apt/keyrings and name it in signed-by.",
        check=_unverified_packages,
    ),
    Rule(
        id="driver-in-image",
        kinds=("Dockerfile",),
        why="A container uses the kernel modules of its host. A module package in the image is never loaded,"
        " and its"
        " build fails for the kernel of another host.",
        fix="Install the driver on the host; keep libraries and tools only.",
        check=_driver_in_image,
    ),
    Rule(
        id="third-party-archive",
        kinds=_SHELL,
        why="A personal package archive removes old versions, so the build cannot be repeated.",
        fix="Use a base image with this Python, or a locked standalone build.",
        check=_third_party_archive,
    ),
    Rule(
        id="extra-index",
        kinds=_SHELL,
        why="pip takes the highest version of all indexes. A public package of the same name replaces the"
        " private one;"
        " the names of Neuron packages exist on PyPI as placeholders.",
        fix="Use --index-url for one index, or pin every package of the extra index with ==.",
        check=_extra_index,
    ),
    Rule(
        id="legacy-extra",
        kinds=_SHELL,
        why="pip ignores an extra that a release does not have: the package is installed without its CUDA"
        " libraries.",
        fix="Use the current name of the extra.",
        check=_legacy_extra,
    ),
    Rule(
        id="installed-twice",
        kinds=("Dockerfile",),
        why="The second version replaces the first; both stay in the image's layers, and packages between"
        " them were"
        " resolved for the first.",
        fix="Install all packages in one command, with one version each.",
        check=_installed_twice,
    ),
    Rule(
        id="wheel-of-other-torch",
        kinds=_SHELL,
        why="An extension that is compiled for another release of torch fails at import with an undefined"
        " symbol.",
        fix="Use the wheel for the release of torch that is installed.",
        check=_wheel_of_other_torch,
    ),
    Rule(
        id="vendor-upgrade",
        kinds=("Dockerfile",),
        why="An upgrade or autoremove in NVIDIA's images replaces or deletes CUDA libraries, and import"
        " torch fails.",
        fix="Install the packages that the workload needs by name.",
        check=_vendor_upgrade,
    ),
)
