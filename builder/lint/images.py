"""Rules about base images and references to images."""

import re
from collections.abc import Iterator, Mapping

from builder.lint.files import File, Tree
from builder.lint.model import Hit, Rule

_ECR = re.compile(r"\b(\d{12})\.dkr\.ecr\.([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com")
# AWS account numbers that documentation uses as examples.
_EXAMPLES = re.compile(r"(\d)\1{11}|(\d{4})\2{2}|123456789012|012345678901|111122223333|444455556666")
_MOVING = re.compile(r"(?:^|[._-])(latest|main|master|nightly|edge|dev|stable)$")
_IMAGE_KEY = re.compile(r"""^\s*(?:-\s+)?image:\s*["']?([^\s"'#]+)""")
_PULL = re.compile(r"\b(?:docker|podman)\s+(?:pull|run)\b|\benroot\s+import\b")
_SCHEME = re.compile(r"^(?:docker|dockerd|podman)://")
_IS_TAGGED = re.compile(r"[a-z0-9][\w./-]*(?::\d+/[\w./-]+)?:[\w.-]+")
# Start of a base image's name and tag → why the image can no longer be used.
_ENDED = {
    r"nemo:ea-": "an early-access image, which only its testers could pull",
    r"bionemo-framework:1\.": "BioNeMo 1 ended with version 2",
    r"pytorch-training:(?:[01]\.|2\.[0-3]\b)": "AWS no longer patches this Deep Learning Container",
    r"\S*[:-]ubuntu(?:18|20)\.?04|ubuntu:(?:18\.|20\.|bionic|focal)": "this Ubuntu has ended its support",
    r"(?:nvcr\.io/nvidia/)?pytorch:(?:1\d|2[0-3])\.\d\d-": "NVIDIA supports its images for about a year",
    r"(?:nvidia/)?cuda:(?:[89]|10|11)\.": "PyTorch no longer publishes wheels for this CUDA",
    r"debian:(?:9|10|stretch|buster)\b|centos:[5678]\b": "this distribution has reached its end of support",
    r"amazonlinux:(?:1|2018)": "this distribution has reached its end of support",
}
# Release of NVIDIA's PyTorch image for which NCCL_NET_PLUGIN=spcx was reported first (Megatron-Bridge#5033).
_SPCX = (26, 6)


def bases(file: File) -> Iterator[tuple[int, str]]:
    """Yield (line, image) of each FROM and COPY --from that names an image, with defaults of ARG inserted."""
    arguments: dict[str, str] = {}
    stages: set[str] = set()
    for found in file.instructions:
        if found.name == "ARG":
            name, _, value = found.text.partition("=")
            arguments[name.strip()] = value.split(" ")[0].strip("\"'")
        elif found.name == "FROM":
            words = [word for word in found.text.split() if not word.startswith("--")]
            image = _expanded(words[0], arguments) if words else ""
            if image.lower() not in stages | {"", "scratch"}:
                yield found.line, image
            stages |= {words[2].lower()} if len(words) > 2 else set()
        elif found.name == "COPY" and (source := re.search(r"--from=(\S+)", found.text)):
            image = _expanded(source[1], arguments)
            if not image.isdigit() and image.lower() not in stages:
                yield found.line, image


def _expanded(text: str, values: Mapping[str, str]) -> str:
    return re.sub(
        r"\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)",
        lambda found: values.get(found[1] or found[3]) or found[2] or found[0],
        text,
    )


def references(file: File) -> Iterator[tuple[int, str]]:
    """Yield (line, image) of each image that a file uses."""
    yield from bases(file)
    if file.kind == "manifest":
        for number, line in file.code:
            if found := _IMAGE_KEY.match(line):
                yield number, found[1]
    elif file.kind == "script":
        for command in file.commands:
            if _PULL.search(command.text):
                images = [_SCHEME.sub("", word) for word in command.words[2:]]
                yield from ((command.line, image) for image in images if _IS_TAGGED.fullmatch(image))


def _floating_tag(file: File, _: Tree) -> Iterator[Hit]:
    for line, image in references(file):
        name, _colon, tag = image.rpartition("/")[2].partition(":")
        if "@" in image or "$" in (tag or name) or "{" in image:
            continue
        if found := _MOVING.search(tag):
            yield line, f"{image}: the tag '{found[1]}' moves to other images"
        elif not tag and file.kind == "Dockerfile":
            yield line, f"{image}: has no tag, which means 'latest'"


def _registry_account(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        for found in _ECR.finditer(line):
            if not _EXAMPLES.fullmatch(found[1]):
                yield number, f"{found[0]}: account {found[1]} and region {found[2]} are part of the file"


def _ended_base(file: File, _: Tree) -> Iterator[Hit]:
    for line, image in references(file):
        name = image.rpartition("/")[2]
        for pattern, reason in _ENDED.items():
            if re.match(pattern, name) or re.match(pattern, image):
                yield line, f"{image}: {reason}"
                break


def _spcx(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        if re.search(r"NCCL_NET_PLUGIN\b.{0,12}\bspcx\b", line):
            yield number, "NCCL_NET_PLUGIN=spcx selects a plugin for Spectrum-X networks"
    if "NCCL_NET_PLUGIN" in file.text:
        return
    for at, image in bases(file):
        release = re.search(r"nvcr\.io/nvidia/pytorch:(\d\d)\.(\d\d)-", image)
        if release and (int(release[1]), int(release[2])) >= _SPCX:
            yield at, f"{image} sets NCCL_NET_PLUGIN=spcx, and this file leaves it set"


_USERS = ("Dockerfile", "script", "manifest")

RULES = (
    Rule(
        id="floating-tag",
        kinds=_USERS,
        why="A tag such as `latest` names another image after the next push, so the same file builds or"
        " starts"
        " something else.",
        fix="Use the tag of one release, or the digest: name@sha256:….",
        check=_floating_tag,
    ),
    Rule(
        id="registry-account",
        kinds=_USERS,
        why="An image name with account and region works in one account and region only; some also disclose a"
        " private account.",
        fix="Take the registry from a build argument or a variable.",
        check=_registry_account,
    ),
    Rule(
        id="ended-base",
        kinds=_USERS,
        why="The image is no longer published or patched, so that it cannot be pulled or has known"
        " vulnerabilities.",
        fix="Use a supported release of the base image.",
        check=_ended_base,
    ),
    Rule(
        id="spcx-plugin",
        kinds=_USERS,
        why="NVIDIA's PyTorch images since mid 2026 select the NCCL plugin for Spectrum-X. On EFA it does"
        " not load, and NCCL"
        " falls back to TCP sockets.",
        fix="Set NCCL_NET_PLUGIN=ofi in the image, or an empty value in jobs that have another network.",
        check=_spcx,
    ),
)
