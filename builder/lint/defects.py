"""Defects of the reference repository, with the lint rules that find each defect."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Defect:
    """A defect with the lint rules that find it; `rest` says what lint cannot find, and what finds it."""

    number: int
    what: str
    rules: tuple[str, ...] = ()
    rest: str = ""


DEFECTS: tuple[Defect, ...] = (
    Defect(
        number=1,
        what="A Dockerfile begins with a pasted terminal session that has an access token and an image of an"
        " account",
        rules=("no-instruction", "literal-token", "registry-account", "empty-limit"),
    ),
    Defect(number=2, what="Unquoted >= in RUN pip install", rules=("unquoted-constraint",)),
    Defect(number=3, what="Text after # on a line of ARG", rules=("text-after-value",)),
    Defect(
        number=4,
        what="Cleanup of a mistyped path, a comma in NVCC_GENCODE, NCCL below the version of the base",
        rules=("mistyped-cleanup", "gencode-syntax"),
        rest="The NCCL of a base image is not in the file: `builder stack check --image` compares versions.",
    ),
    Defect(
        number=5,
        what="The EFA installer's archive and folder stay in layers, without checksum or signature",
        rules=("left-over", "unverified-download"),
    ),
    Defect(number=6, what="One SSH key pair in the image", rules=("ssh-key-in-image",)),
    Defect(
        number=7,
        what="Bases and jobs of tag latest; a Batch job with 8 ranks for 2 nodes and an old path of the"
        " tuner",
        rules=("floating-tag", "plugin-path"),
        rest="The number of ranks is right or wrong for an instance type only; a launch plan computes it.",
    ),
    Defect(
        number=8,
        what="A moving base, an option that the parser spells otherwise, an imported image without the"
        " package,"
        " one snapshot file for all ranks",
        rules=("floating-tag", "unknown-option"),
        rest="The content of an image is checked in the image (`builder check`); the checks of the training"
        " programs"
        " run two processes and look at the checkpoint.",
    ),
    Defect(number=9, what="LD_PRELOAD of a library of the host in a container job", rules=("preload",)),
    Defect(
        number=10,
        what="Model sizes that differ from the published models; a sharding strategy without effect; no CPU"
        " path",
        rest="Numbers of a model are data: no rule knows the right ones. The sizes of this factory's models"
        " are"
        " configuration files, and its programs run on CPUs in their checks.",
    ),
    Defect(
        number=11,
        what="Three names for one image file; a variable that Slurm does not set; settings that stay empty"
        " for 5 to 7"
        " nodes; the plugin's folder missing in LD_LIBRARY_PATH",
        rules=("image-name", "unset-variable"),
        rest="Branches that leave a variable empty depend on values at run time. `builder check` looks for"
        " the plugin"
        " in the image.",
    ),
    Defect(
        number=12,
        what="Other versions in the images for Slurm and Kubernetes and in the client's environment; a wheel"
        " for"
        " another torch",
        rules=("versions-differ", "wheel-of-other-torch"),
        rest="Versions in the names of images are text for readers.",
    ),
    Defect(
        number=13,
        what="Region and SDK in FROM, an unpinned clone, a misspelt metric and variable, fixed replicas,"
        " variables for"
        " GPUs in a job for Neuron",
        rules=(
            "registry-account",
            "unpinned-source",
            "metric-name",
            "misspelt-variable",
            "fixed-replicas",
            "gpu-variable",
        ),
    ),
    Defect(
        number=14,
        what="A kernel module in the image, apt-key, a global extra index, a script that starts a missing"
        " program",
        rules=("driver-in-image", "unverified-packages", "extra-index", "missing-file"),
        rest="A program's path on a shared file system cannot be looked up in the repository.",
    ),
    Defect(
        number=15,
        what="An unpinned clone, a third-party archive, a token written to a configuration file",
        rules=("unpinned-source", "third-party-archive"),
        rest="What a program writes at run time is not in the text of a job.",
    ),
    Defect(
        number=16,
        what="The latest conda, a branch of torchtitan, a nightly torch, LD_PRELOAD of another CUDA",
        rules=("moving-download", "unpinned-source", "preload"),
    ),
    Defect(
        number=17,
        what="A program in another folder of the image, a stray brace, DATA_PATH changed after the mounts, a"
        " person's"
        " folder in five files, NCCL removed, an old huggingface_hub forced",
        rules=("stray-brace", "mount-before-value", "person-path", "nccl-removed"),
        rest="Paths inside an image are checked in the image. A person's folder on a shared file system"
        " looks like any"
        " other. Conflicts of requirements appear when `builder lock` resolves them.",
    ),
    Defect(
        number=18,
        what="A moving base, --with-nccl of a missing folder, no --enable-platform-aws, a missing $, an"
        " empty limit, a"
        " nightly torch",
        rules=("floating-tag", "nccl-folder", "platform-aws", "no-dollar", "empty-limit", "moving-download"),
    ),
    Defect(
        number=19,
        what="An old base and a former extra, a left archive, protobuf installed three times, 384 fixed"
        " tasks, a"
        " checkpoint folder outside the mounts",
        rules=("legacy-extra", "left-over", "installed-twice"),
        rest="Numbers of tasks and mounts belong to the launch plan of a target, which computes and checks"
        " them.",
    ),
    Defect(
        number=20,
        what="A wheel for another torch, rank 0 on every node, a token as an argument",
        rules=("wheel-of-other-torch", "fixed-rank", "token-option"),
    ),
    Defect(
        number=21,
        what="The latest EFA installer without --no-verify, a document with a missing file, an ended base",
        rules=("moving-download", "missing-file", "ended-base"),
    ),
    Defect(
        number=22,
        what="Versions in documents and tags that the Dockerfile does not install, wrong file names",
        rules=("missing-file",),
        rest="Prose has no form that a rule could compare; documents of this factory take versions from the"
        " catalog.",
    ),
    Defect(number=23, what="Three names of one volume claim", rules=("claims-differ",)),
    Defect(
        number=24,
        what="Bases that can no longer be used as they are",
        rules=("ended-base",),
        rest="The list in the rule is as old as the builder; `builder lock` asks the registry.",
    ),
)
