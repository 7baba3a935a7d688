"""Errors in catalog files: each message names file and key and, if possible, suggests the right name."""

import json
import re
from pathlib import Path

import pytest

from builder import catalog
from builder.errors import CatalogError, FactoryError
from builder.patterns import RESERVED_TARGETS
from builder.tables import RENAMED, did_you_mean
from tests.support.repository import Repository, knowledge_of

NO_KEY = "missing (URL of the public key that verifies the signature)"


def problems(repository: Repository) -> list[str]:
    with pytest.raises(CatalogError) as caught:
        repository.load()
    return list(caught.value.problems)


def test_repository_catalog_is_valid(root: Path) -> None:
    loaded = catalog.load(root)
    assert {"cpu-ddp", "pytorch-fsdp"} <= set(loaded.targets)


def test_every_component_has_a_role_and_checks(root: Path) -> None:
    loaded = catalog.load(root)
    roles = {path.name for path in (root / "ansible" / "roles").iterdir() if path.is_dir()}
    assert roles == set(loaded.components)
    for name in roles:
        assert (root / "ansible" / "roles" / name / "tests" / f"test_{name}.py").is_file()


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        (
            "targets/hello.toml",
            "components =",
            "component =",
            "targets/hello.toml: component: unknown key (did you mean 'components'?)",
        ),
        (
            "targets/hello.toml",
            '"fabric"',
            '"fabrik"',
            "targets/hello.toml: components[0]: no component 'fabrik' (did you mean 'fabric'?)",
        ),
        (
            "targets/hello.toml",
            '"plain-1"',
            '"plain-2"',
            "targets/hello.toml: flavours.plain.stack: no stack 'plain-2' (did you mean 'plain-1'?)",
        ),
        (
            "targets/hello.toml",
            '"tiny-1"',
            '"big-1"',
            "targets/hello.toml: flavours.plain.system: no system 'big-1' (available: tiny-1)",
        ),
        (
            "targets/hello.toml",
            '"container"',
            '"contaner"',
            "targets/hello.toml: kind: no kind 'contaner' (did you mean 'container'?)",
        ),
        (
            "targets/hello.toml",
            '["fabric", "workload_env"]',
            '["fabric"]',
            "targets/hello.toml: components: containers/hello has requirements, but no component has"
            " requirements = 'workload'",
        ),
        (
            "targets/hello.toml",
            'workload = "hello"',
            'workload = "hallo"',
            "targets/hello.toml: workload: no file containers/hallo/Dockerfile",
        ),
        (
            "stacks/plain-1.toml",
            'fabric = "1.2-3"',
            "",
            "targets/hello.toml: flavours.plain.stack: stack 'plain-1' has no pin for component 'fabric'",
        ),
        (
            "stacks/plain-1.toml",
            "fabric =",
            "fabrics =",
            "stacks/plain-1.toml: pins.fabrics: no pinned component 'fabrics' (did you mean 'fabric'?)",
        ),
        (
            "stacks/plain-1.toml",
            '"1.2-3"',
            "1.2",
            "stacks/plain-1.toml: pins: must be a table of strings, not {'fabric': 1.2}",
        ),
        (
            "components/base.toml",
            'layer = "system"',
            'layer = "system"\nrequires = ["fabric"]',
            "components/base.toml: requires: dependency cycle: base → fabric → base",
        ),
        (
            "components/base.toml",
            'layer = "system"',
            'layer = "system"\nsource_packages = ["zero==1.0"]',
            "components/base.toml: source_packages[0]: 'zero==1.0' is not NAME==VERSION --hash=sha256:DIGEST",
        ),
        (
            "components/fabric.toml",
            'layer = "system"',
            'layer = "sytem"',
            "components/fabric.toml: layer: no layer 'sytem' (did you mean 'system'?)",
        ),
        (
            "components/base.toml",
            'layer = "system"',
            'layer = "final"',
            "components/fabric.toml: layer: 'system' comes before layer 'final' of 'base',"
            " on which 'fabric' depends",
        ),
        (
            "components/fabric.toml",
            "pinned = true",
            'kinds = ["ami"]\npinned = true',
            "targets/hello.toml: components: component 'fabric' does not support kind 'container'",
        ),
        (
            "components/fabric.toml",
            "pinned = true",
            "pinned = true\n[variables]\nfabric_tool = false",
            "components/fabric.toml: variables.fabric_tool: no variable 'fabric_tool'"
            " (did you mean 'fabric_tools'?)",
        ),
        (
            "systems/tiny-1.toml",
            "[bootstrap]",
            "[bootstrp]",
            "systems/tiny-1.toml: bootstrp: unknown key (did you mean 'bootstrap'?)",
        ),
        (
            "systems/tiny-1.toml",
            "suite =",
            "suit =",
            "systems/tiny-1.toml: bootstrap.suite: missing (a string)",
        ),
        ("layers.toml", "order", "ordr", "layers.toml: ordr: unknown key (did you mean 'order'?)"),
    ],
)
def test_error_names_file_and_key(
    repository: Repository, file: str, old: str, new: str, expected: str
) -> None:
    repository.replace(f"catalog/{file}", old, new)
    assert expected in problems(repository)


def test_all_problems_are_reported_at_once(repository: Repository) -> None:
    repository.replace("catalog/targets/hello.toml", "summary", "sumary")
    repository.replace("catalog/stacks/plain-1.toml", "summary", "sumary")
    repository.write("catalog/systems/broken.toml", "= what\n")
    files = {problem.split(":")[0] for problem in problems(repository)}
    assert files == {"targets/hello.toml", "stacks/plain-1.toml", "systems/broken.toml"}


@pytest.mark.parametrize("image", ["tiny", "tiny@sha256:" + "0" * 64, "host:5000/tiny"])
def test_base_image_must_have_a_tag_and_no_digest(repository: Repository, image: str) -> None:
    repository.replace("catalog/systems/tiny-1.toml", 'suite = "tiny"\npackages = ["python3"]', "")
    repository.replace("catalog/systems/tiny-1.toml", "[bootstrap]", f'image = "{image}"')
    assert any(
        "must be an image reference with a tag and no digest" in problem for problem in problems(repository)
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'url = "https://x/{versoin}"',
            "downloads[0].url: no placeholder 'versoin' (did you mean 'version'?)",
        ),
        ('url = "https://x/{version:uper}"', "downloads[0].url: no filter 'uper'"),
        ('url = "https://x"\nkind = "gti"', "downloads[0].kind: no kind 'gti' (did you mean 'git'?)"),
        ('url = "https://x"\nkind = "git"', "downloads[0].ref: must be set if kind is 'git', and only then"),
        ('url = "https://x"\nref = "v1"', "downloads[0].ref: must be set if kind is 'git', and only then"),
        ('url = "https://x"\nkind = "repository"', f"downloads[0].key: {NO_KEY}"),
        (
            'url = "https://x"\nsignature = "https://x.sig"',
            f"downloads[0].key: {NO_KEY}",
        ),
        ('url = "https://x"\nsuit = "a"', "downloads[0].suit: unknown key (did you mean 'suite'?)"),
    ],
)
def test_invalid_download_is_refused(repository: Repository, text: str, problem: str) -> None:
    path = repository.root / "catalog/components/fabric.toml"
    path.write_text(path.read_text() + f'[[downloads]]\nname = "archive"\n{text}\n')
    assert f"components/fabric.toml: {problem}" in problems(repository)


def test_ami_source_needs_a_parameter_or_owner_and_name(repository: Repository) -> None:
    path = repository.root / "catalog/systems/tiny-1.toml"
    path.write_text(path.read_text() + '[ami]\nuser = "admin"\nregions = ["us-east-1"]\nowner = "1"\n')
    assert "systems/tiny-1.toml: ami: needs either parameter, or owner and name" in problems(repository)


def test_requirement_without_hash_is_refused(repository: Repository) -> None:
    repository.replace("catalog/stacks/plain-1.toml", "[pins]", 'requirements = "r.lock"\n[pins]')
    repository.write("catalog/stacks/r.lock", "greet==1.0\n")
    assert problems(repository) == [
        "stacks/plain-1.toml: requirements: r.lock: line 1: "
        "'greet==1.0' needs an exact version and a sha256 hash"
    ]


def test_missing_catalog_folder_suggests_the_root_option(tmp_path: Path) -> None:
    with pytest.raises(FactoryError) as caught:
        catalog.load(tmp_path)
    assert "--root" in caught.value.hint


@pytest.mark.parametrize(
    ("word", "known", "suggestion"),
    [
        ("driver", ["neuron_driver", "nvidia_driver"], " (did you mean 'nvidia_driver'?)"),
        ("fabric_manager", ["nvidia_fabric_manager", "efa"], " (did you mean 'nvidia_fabric_manager'?)"),
        ("efa_instaler", ["efa", "nccl"], " (did you mean 'efa'?)"),
        ("driver", ["hello", "driven"], " (did you mean 'driven'?)"),
        ("k8s", ["efa", "nccl"], " (available: efa, nccl)"),
    ],
)
def test_former_name_of_a_fact_suggests_its_current_name(
    word: str, known: list[str], suggestion: str
) -> None:
    assert did_you_mean(word, known) == suggestion


def test_renamed_facts_exist_only_under_their_new_names(root: Path) -> None:
    facts = knowledge_of(root).vocabulary.facts
    assert set(RENAMED.values()) <= set(facts)
    assert not set(RENAMED) & set(facts)


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        (
            "targets/hello.toml",
            '["fabric", ',
            '["fabric", "fabric", ',
            "components[1]: component 'fabric' is listed twice",
        ),
        (
            "components/fabric.toml",
            '["base"]',
            '["base", "base"]',
            "requires[1]: component 'base' is listed twice",
        ),
        ("targets/hello.toml", 'workload = "hello"', 'workload = ""', "workload: '' must match"),
        ("targets/hello.toml", '"hello"', '"../../hello"', "workload: '../../hello' must match"),
        (
            "targets/hello.toml",
            '"says hello"',
            json.dumps("x" * 4001),
            "has 4001 characters; the limit is 4000",
        ),
        ("targets/hello.toml", '"says hello"', r'"\u001b[31m"', "contains a control character"),
        ("targets/hello.toml", '"says hello"', r'"a\nb"', "contains a control character"),
    ],
)
def test_catalog_value_that_a_build_cannot_use_is_refused(
    repository: Repository, file: str, old: str, new: str, problem: str
) -> None:
    repository.replace(f"catalog/{file}", old, new)
    (found,) = problems(repository)
    assert found.startswith(f"{file}: ")
    assert problem in found


@pytest.mark.parametrize(
    ("group", "name", "problem"),
    [
        ("targets", "all", "'all' is reserved"),
        ("targets", "clean", "'clean' is reserved"),
        ("stacks", "all", "'all' is reserved"),
        ("targets", "hello-", "must be kebab-case"),
        ("stacks", "plain.", "must be kebab-case"),
        ("targets", "x" * 61, "longer than 60 characters"),
    ],
)
def test_reserved_or_invalid_target_or_stack_name_is_refused(
    repository: Repository, group: str, name: str, problem: str
) -> None:
    source = {"targets": "hello", "stacks": "plain-1"}[group]
    text = (repository.root / f"catalog/{group}/{source}.toml").read_text()
    repository.write(f"catalog/{group}/{name}.toml", text)
    assert [problem in found for found in problems(repository)] == [True]


def test_make_targets_are_reserved_and_cannot_name_catalog_targets(root: Path) -> None:
    makefile = (root / "Makefile").read_text()
    named = re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)
    assert set(named) | {"all"} == RESERVED_TARGETS
