"""Rules about jobs: batch scripts, manifests, and names that must agree in all files of a tree."""

import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath

from builder.lint.files import File, Tree
from builder.lint.model import Hit, Rule

# Names that resemble variables of Slurm or torchrun, but that neither of the two sets.
_UNSET = (
    "NODES",
    "NNODES",
    "NUM_NODES",
    "NTASKS",
    "NPROCS",
    "GPUS_PER_NODE",
    "NODE_RANK",
    "SLURM_NNODE",
    "SLURM_NODES",
)
_RANK = re.compile(r"--(machine|node)[-_]rank[=\s]+[\"']?0\b|^\s*machine_rank:\s*0\b")
_SEVERAL = re.compile(
    r"--(?:num_machines|nnodes)[=\s]+[\"']?(?:[2-9]|[1-9]\d|\$)|replicas:\s*(?:[2-9]|[1-9]\d|\$)"
)
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_PROGRAM = re.compile(r"([\w.-]+\.py)\b")
_MADE_FILE = re.compile(r"enroot\s+import\s+.*?(?:-o|--output)[\s=]+[\"']?(\S+?\.sqsh)")
_USED_FILE = re.compile(r"([\w.-]+\.sqsh)")
_MADE_TAG = re.compile(r"docker\s+(?:build\s.*?(?:-t|--tag)[\s=]+|tag\s+\S+\s+|pull\s+)[\"']?([^\s\"':]+)")
_USED_TAG = re.compile(r"dockerd://([^\s\"':]+)")
_SUBMITTED = re.compile(
    r"^\s*\$?\s*(?:sbatch|docker build\s.*(?:-f|--file))\s+"
    r"(?:-\S+(?:[= ](?!\S+\.\w+\b)\S+)?\s+)*([\w./-]+\.\w+)\s*[^|>]*$"
)
_MOUNT = re.compile(r"(\w*MOUNTS?)\s*[:=]+\s*(.*)")
_VERSION = re.compile(r"^(\w+_VERSION)=[\"']?v?([\w.-]+)")
_CLAIM = re.compile(r"^\s*claimName:\s*[\"']?([a-z][\w.-]*)")
_RESOURCE = re.compile(
    r"^\s*(nvidia\.com/gpu|aws\.amazon\.com/neuron(?:core|device)?|vpc\.amazonaws\.com/efa):\s*(?:#.*)?$"
)
_HOME = re.compile(r"(?<![\w$}])/(?:home|Users)/([a-z][\w.-]+)/")
# Default users of images; a path below the home folder of one of them is not personal.
_COMMON_USERS = frozenset(
    [
        "ubuntu",
        "ec2-user",
        "sagemaker-user",
        "jovyan",
        "admin",
        "ml",
        "user",
        "runner",
        "nobody",
        "mpiuser",
        "slurm",
        "centos",
        "fedora",
        "root",
        "builder",
    ]
)


def _unset_variable(file: File, _: Tree) -> Iterator[Hit]:
    if "#SBATCH" not in file.text:
        return
    for name in _UNSET:
        if re.search(rf"\b{name}(?::?=|\+=)|\b(?:read|for|declare|local|export)\b.*\b{name}\b", file.text):
            continue
        for number, line in file.code:
            if re.search(rf"\$\{{?{name}(?![\w:])(?!\[)", re.sub(r"'[^']*'", "", line)):
                yield number, f"{name} is set neither here nor by Slurm"
                break


def _fixed_rank(file: File, _: Tree) -> Iterator[Hit]:
    if not _SEVERAL.search(file.text):
        return
    for number, line in file.code:
        if _RANK.search(line):
            yield number, "every node of the job gets rank 0"


def _unknown_option(file: File, tree: Tree) -> Iterator[Hit]:
    programs = {name for _, line in file.code for name in _PROGRAM.findall(line)}
    known = {option for name in programs for option in tree.options_of.get(name, ())}
    for number, line in file.code:
        for option in _OPTION.findall(line):
            other = "--" + (
                option[2:].replace("-", "_") if "-" in option[2:] else option[2:].replace("_", "-")
            )
            if option not in known and other in known and other != option:
                yield number, f"{option}: the program defines {other}"


def _image_name(file: File, tree: Tree) -> Iterator[Hit]:
    """Compare the image names in a file with the names of images that commands in nearby folders build."""
    folder = file.path.parent
    near = [
        other
        for other in tree.of_kind("script", "Makefile", "text")
        if folder.is_relative_to(other.path.parent) or other.path.parent.is_relative_to(folder)
    ]
    made = {_expand(name, other) for other in near for name in _MADE_FILE.findall(other.text)}
    tags = {_expand(name, other) for other in near for name in _MADE_TAG.findall(other.text)}
    for number, line in file.code:
        if file.kind == "script" and "import" not in line:
            yield from _unmade(number, _USED_FILE.findall(line), made)
        yield from _unmade(number, (_expand(name, file) for name in _USED_TAG.findall(line)), tags)


def _unmade(number: int, used: Iterable[str], made: Collection[str]) -> Iterator[Hit]:
    if made and "$" not in "".join(made):
        for name in used:
            if name not in made and "$" not in name:
                yield number, f"{name}: the commands of this folder make {', '.join(sorted(made))}"


def _expand(name: str, file: File) -> str:
    """Return the file name of a path; insert variables that the Makefile or script sets to one word."""
    values = dict(re.findall(r"^\s*(?:export\s+)?(\w+)\s*[:?]?=\s*([\w.-]+)\s*$", file.text, re.MULTILINE))
    return PurePosixPath(re.sub(r"\$[{(](\w+)[})]", lambda found: values.get(found[1], found[0]), name)).name


def _missing_file(file: File, tree: Tree) -> Iterator[Hit]:
    if file.path.suffix != ".md":
        return
    for number, line in file.lines:
        found = _SUBMITTED.match(line)
        if not found or re.search(r"[$<{*]", found[1]):
            continue
        name = PurePosixPath(found[1]).name
        is_made = re.search(rf"(?:>|-o|--output|tee|cp\s.*)\s*\S*{re.escape(name)}", file.text)
        if name not in tree.names and not is_made:
            yield number, f"{found[1]}: no file of this name in the tree"


def _mount_before_value(file: File, _: Tree) -> Iterator[Hit]:
    mounts: dict[str, str] = {}
    for number, line in file.code:
        if found := _MOUNT.search(line):
            mounts |= dict.fromkeys(re.findall(r"\$\{?(\w+)", found[2]), found[1])
        assignment = re.match(r"\s*(?:export\s+)?(\w+)=(?!\$\{?\1\b)", line)
        if assignment and assignment[1] in mounts:
            mount = mounts.pop(assignment[1])
            yield number, f"{assignment[1]} changes after {mount} was made from it"


def _versions_differ(file: File, tree: Tree) -> Iterator[Hit]:
    """Compare the versions in a file with the versions in Dockerfiles of parent folders."""
    above = [
        other
        for other in tree.of_kind("Dockerfile")
        if other.path.parent != file.path.parent and file.path.is_relative_to(other.path.parent)
    ]
    for line, name, version in _versions(file):
        for other in above:
            for at, same, different in _versions(other):
                if same == name and different != version:
                    yield line, f"{name}={version}, but {different} in {other.path}:{at}"


def _versions(file: File) -> Iterator[tuple[int, str, str]]:
    for found in file.instructions:
        if found.name in ("ARG", "ENV") and (version := _VERSION.match(found.text)):
            yield found.line, version[1], version[2]


def _claims_differ(file: File, tree: Tree) -> Iterator[Hit]:
    """Compare a manifest's volume claims with the claims that the tree defines or uses most often."""
    defined = {
        name
        for other in tree.of_kind("manifest")
        for part in re.split(r"^---", other.text, flags=re.MULTILINE)
        if re.search(r"kind:\s*PersistentVolumeClaim\b", part)
        and other.path.is_relative_to(file.path.parent.parent)
        for name in re.findall(r"^\s*name:\s*[\"']?([\w.-]+)", part, re.MULTILINE)
    }
    used = [
        found[1]
        for other in tree.of_kind("manifest")
        for _, line in other.code
        if (found := _CLAIM.match(line))
    ]
    for number, line in file.code:
        found = _CLAIM.match(line)
        if not found or found[1] in defined:
            continue
        common = max(sorted(set(used)), key=used.count)
        if used.count(found[1]) < used.count(common):
            yield (
                number,
                f"claim {found[1]} is defined nowhere; {used.count(common)} other uses name {common}",
            )


def _empty_limit(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        if found := _RESOURCE.match(line):
            yield number, f"{found[1]} has no number, so the container gets no device"


def _metric_name(file: File, _: Tree) -> Iterator[Hit]:
    lines = file.code
    for at, (_number, line) in enumerate(lines[:-1]):
        name = re.match(r"^\s*name:\s*(\S+)\s*$", lines[at + 1][1])
        if re.match(r"^\s*resource:\s*$", line) and name and name[1] not in ("cpu", "memory"):
            yield lines[at + 1][0], f"resource metric {name[1]}: must be cpu or memory"


def _fixed_replicas(file: File, _: Tree) -> Iterator[Hit]:
    names = {name for _, name, _value in file.assigned}
    if not names & {"NUM_NODES", "NNODES"} and not re.search(r"--nnodes[=\s]+\$", file.text):
        return
    for part in re.finditer(r"^\s*Worker:\s*\n\s*replicas:\s*(\d+)\s*$", file.text, re.MULTILINE):
        yield (
            file.text.count("\n", 0, part.end(1)) + 1,
            f"{part[1]} worker, but the number of nodes is a variable",
        )


def _person_path(file: File, _: Tree) -> Iterator[Hit]:
    for number, line in file.code:
        if (found := _HOME.search(line)) and found[1] not in _COMMON_USERS:
            yield number, f"{found[0]} exists for user {found[1]} only"


RULES = (
    Rule(
        id="unset-variable",
        kinds=("script",),
        why="The variable is empty in the job, so conditions take the wrong branch and options lose their"
        " value.",
        fix="Use the variable of Slurm, for example SLURM_JOB_NUM_NODES, or assign it in the script.",
        check=_unset_variable,
    ),
    Rule(
        id="fixed-rank",
        kinds=("script", "manifest"),
        why="Nodes with the same rank wait for each other until the rendezvous times out.",
        fix="Take the rank from the launcher: SLURM_NODEID, or the index of the pod.",
        check=_fixed_rank,
    ),
    Rule(
        id="unknown-option",
        kinds=("script", "manifest"),
        why="The program refuses an option that is spelt with - in place of _, or the other way round.",
        fix="Write the option as the program defines it.",
        check=_unknown_option,
    ),
    Rule(
        id="image-name",
        kinds=("script", "Makefile", "text"),
        why="The job or command uses an image that the commands beside it do not make.",
        fix="Use one name for the image.",
        check=_image_name,
    ),
    Rule(
        id="missing-file",
        kinds=("text",),
        why="A documented command fails, because its file has another name.",
        fix="Correct the name in the document.",
        check=_missing_file,
    ),
    Rule(
        id="mount-before-value",
        kinds=("script",),
        why="The list of mounts keeps the old value of the variable, so the new folder is not in the"
        " container.",
        fix="Assign the variable before the mounts.",
        check=_mount_before_value,
    ),
    Rule(
        id="versions-differ",
        kinds=("Dockerfile",),
        why="Two images of one case have different versions of the same component, and only one of them is"
        " tested.",
        fix="Use one version, or one Dockerfile with a build argument.",
        check=_versions_differ,
    ),
    Rule(
        id="claims-differ",
        kinds=("manifest",),
        why="A pod waits for a volume claim that does not exist.",
        fix="Use one name for the claim, and define it in the tree or in a variable.",
        check=_claims_differ,
    ),
    Rule(
        id="empty-limit",
        kinds=("manifest",),
        why="A limit without a number is null: the pod is scheduled without the device.",
        fix="Write the number of devices.",
        check=_empty_limit,
    ),
    Rule(
        id="metric-name",
        kinds=("manifest",),
        why="The autoscaler cannot read a resource metric of another name, and never scales the job.",
        fix="Use cpu or memory, or a metric of type Pods.",
        check=_metric_name,
    ),
    Rule(
        id="fixed-replicas",
        kinds=("manifest",),
        why="The job waits for nodes that no pod is created for.",
        fix="Use the same variable for replicas.",
        check=_fixed_replicas,
    ),
    Rule(
        id="person-path",
        kinds=("Dockerfile", "script", "manifest"),
        why="A folder of one person's home does not exist on other machines.",
        fix="Use a variable, or a path that every user has.",
        check=_person_path,
    ),
)
