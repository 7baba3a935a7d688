"""Rules about files in image layers: leftover files, unverified downloads, and secrets."""

import fnmatch
import posixpath
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from builder.lint.files import File, Tree
from builder.lint.model import Hit, Rule
from builder.lint.shell import Command

_ARCHIVE = re.compile(r"\.(?:tar(?:\.\w+)?|tgz|txz|zip|deb|rpm|run|whl|sh)$")
_VERIFIED = re.compile(
    r"\b(?:sha\d+sum|shasum|b3sum|gpgv?|cosign|minisign|rpmkeys)\b|--check-signatures|slsa-verifier"
)
_SSH_KEY = re.compile(
    r"(?:^|[\s/\"])(?:id_(?:rsa|dsa|ecdsa|ed25519)|ssh_host_\w+_key|[\w.-]+\.pem)(?=[\s\"]|$)"
)
_SECRET = re.compile(
    r"^(\w*(?:TOKEN|PASSWORD|PASSWD|SECRET|API_KEY|ACCESS_KEY|PRIVATE_KEY)\w*)(?:[=\s](.*))?$"
)
_NO_SECRET = re.compile(r"TOKENIZER|TOKENS\b|_TOKENS|MAX_|NUM_|SECRET_NAME|SECRET_ARN|_FILE$|_PATH$")
_LIKENESS = 0.85


def download(command: Command) -> tuple[str, str]:
    """Return (URL, file) of a curl or wget that writes a file; ("", "") for any other command."""
    if command.program not in ("curl", "wget"):
        return "", ""
    url = next((word for word in command.words if re.match(r"https?://", word)), "")
    name = posixpath.basename(url.partition("?")[0])
    written = re.search(r"\s(?:-\w*o|--output|--output-document)[\s=]+[\"']?([^\s\"']+)", command.text)
    if command.program == "wget":
        written = re.search(r"\s(?:-\w*O|--output-document)[\s=]*[\"']?([^\s\"']+)", command.text)
        return url, (written[1] if written else name)
    if written:
        return url, written[1]
    return url, name if re.search(r"\s-\w*O|--remote-name", command.text) else ""


def _folder(here: str, command: Command) -> str:
    """Return the working folder after a shell command, which `cd` and `pushd` change."""
    if command.program in ("cd", "pushd") and command.arguments:
        return posixpath.normpath(posixpath.join(here, command.arguments[0]))
    return here


def _removed(command: Command, path: str, here: str) -> bool:
    """Return True if the command removes a path, or a folder that contains it."""
    if command.program not in ("rm", "unlink", "find"):
        return False
    for argument in command.arguments:
        target = posixpath.normpath(posixpath.join(here, argument))
        if fnmatch.fnmatchcase(path, target) or fnmatch.fnmatchcase(path, f"{target}/*"):
            return True
        if posixpath.basename(target) == posixpath.basename(path) and "$" in target + path:
            return True
    return False


def _left_over(file: File, _: Tree) -> Iterator[Hit]:
    for run in file.runs:
        if run and "--mount=type=tmpfs" in file.lines[run[0].line - 1][1]:
            continue
        here = "/"
        for number, command in enumerate(run):
            url, name = download(command)
            here = _folder(here, command)
            path = posixpath.normpath(posixpath.join(here, name)) if name else ""
            if path and _ARCHIVE.search(path) and not _gone(run[number + 1 :], path, here):
                yield command.line, f"{posixpath.basename(path)} of {url} stays in the layer"
            if unpacked := _unpacked_installer(command):
                path = posixpath.join(here, unpacked)
                if not _gone(run[number + 1 :], path, here):
                    yield command.line, f"the unpacked folder {unpacked} stays in the layer"


def _unpacked_installer(command: Command) -> str:
    """Return the folder to which a tar command unpacks the EFA installer; "" for other commands."""
    is_installer = command.program == "tar" and "aws-efa-installer" in command.text
    return "aws-efa-installer" if is_installer and re.search(r"\s-?\w*x", command.text) else ""


def _gone(later: Sequence[Command], path: str, here: str) -> bool:
    """Return True if one of the later commands of the layer removes or moves a path."""
    for command in later:
        is_moved = command.program == "mv" and posixpath.basename(path) in map(
            posixpath.basename, command.arguments[:1]
        )
        if is_moved or _removed(command, path, here):
            return True
        here = _folder(here, command)
    return False


def _mistyped_cleanup(file: File, _: Tree) -> Iterator[Hit]:
    """Find an `rm` of a path that no command created while a similar path is left in the layer."""
    for run in file.runs:
        here, made = "/", list[str]()
        for command in run:
            if command.program == "rm":
                for argument in command.arguments:
                    path = posixpath.normpath(posixpath.join(here, argument))
                    is_known = any(one == path or one.startswith(f"{path}/") for one in made)
                    alike = [one for one in made if SequenceMatcher(None, one, path).ratio() >= _LIKENESS]
                    if alike and not is_known and "*" not in path and not _versions_differ(path, alike[-1]):
                        yield command.line, f"removes {path}, which is not there; {alike[-1]} stays"
            elif command.program in ("cd", "mkdir", "git", "tar", "curl", "wget", "mv"):
                made += [posixpath.normpath(posixpath.join(here, word)) for word in command.arguments]
                made += [posixpath.join(here, posixpath.basename(download(command)[1]) or "-")]
                if command.program == "git":
                    made += [
                        posixpath.join(here, posixpath.basename(word).removesuffix(".git"))
                        for word in command.arguments
                    ]
            here = _folder(here, command)


def _versions_differ(first: str, second: str) -> bool:
    """Return True if two paths differ only in a suffix, a version or a variable."""
    return first.startswith(second) or second.startswith(first) or ("$" in first) != ("$" in second)


def _unverified_download(file: File, _: Tree) -> Iterator[Hit]:
    for run in file.runs:
        if any(_VERIFIED.search(command.text) for command in run):
            continue
        for number, command in enumerate(run):
            url, name = download(command)
            after = run[number + 1] if number + 1 < len(run) else None
            if url and after and after.program in ("sh", "bash", "python", "python3") and not name:
                yield command.line, f"{url} is run as it arrives"
            elif url and name and _ARCHIVE.search(name):
                yield command.line, f"{url} is used without comparing a checksum or a signature"
    for found in file.instructions:
        if found.name == "ADD" and re.search(r"https?://", found.text) and "--checksum" not in found.text:
            yield found.line, "ADD of a URL without --checksum"


def _ssh_key(file: File, _: Tree) -> Iterator[Hit]:
    for command in file.commands:
        if "ssh-keygen" in command.words:
            yield command.line, "ssh-keygen puts a private key into the image"
    for found in file.instructions:
        if found.name in ("COPY", "ADD") and (key := _SSH_KEY.search(found.text)):
            yield found.line, f"{found.name} of the private key {key[0].strip()}"


def _secret_argument(file: File, _: Tree) -> Iterator[Hit]:
    for found in file.instructions:
        if found.name not in ("ARG", "ENV"):
            continue
        for word in re.split(r"\s+(?=\w+=)", found.text):
            secret = _SECRET.match(word)
            if secret and not _NO_SECRET.search(secret[1]):
                yield found.line, f"{found.name} {secret[1]}: its value is in the image's history"


RULES = (
    Rule(
        id="left-over",
        kinds=("Dockerfile",),
        why="A file stays in the image unless the RUN that made it removes it. The archive of the EFA"
        " installer adds"
        " some hundred megabytes.",
        fix="Remove the archive and its unpacked folder in the same RUN.",
        check=_left_over,
    ),
    Rule(
        id="mistyped-cleanup",
        kinds=("Dockerfile",),
        why="rm -f does not fail for a path that does not exist, so the files that it should remove stay.",
        fix="Correct the path.",
        check=_mistyped_cleanup,
    ),
    Rule(
        id="unverified-download",
        kinds=("Dockerfile",),
        why="A download that is not compared with a checksum or a signature can be replaced without notice.",
        fix="Compare it: echo 'SHA256  FILE' | sha256sum -c, or run the EFA installer with"
        " --check-signatures.",
        check=_unverified_download,
    ),
    Rule(
        id="ssh-key-in-image",
        kinds=("Dockerfile",),
        why="Everyone who can pull the image has the private key, and can log in to all containers of it.",
        fix="Create the key when the container starts, or mount it as a secret.",
        check=_ssh_key,
    ),
    Rule(
        id="secret-argument",
        kinds=("Dockerfile",),
        why="docker history shows the values of ARG and ENV to everyone who can pull the image.",
        fix="Use RUN --mount=type=secret, or pass the variable when the container starts.",
        check=_secret_argument,
    ),
)
