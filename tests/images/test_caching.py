"""Layer cache: which changes rebuild which layers, with real builds of a small target."""

import io
import os
import shutil

import docker
import pytest

from tests.support.factory import Factory

pytestmark = pytest.mark.engine


def test_a_changed_variable_rebuilds_its_layer_and_all_layers_above(built: Factory) -> None:
    built.repository.replace("catalog/targets/hello.toml", "fabric_tools = true", "fabric_tools = false")
    assert built.build().outcomes == {
        "base": "reused",
        "system": "reused",
        "final": "built",
        "workload": "built",
        "checks": "passed",
    }


def test_adding_a_component_that_the_target_does_not_use_rebuilds_nothing(built: Factory) -> None:
    built.repository.write("catalog/components/spare.toml", 'summary = "spare"\nlayer = "system"\n')
    built.repository.write("ansible/roles/spare/defaults/main.yml", "spare_size: 1\n")
    assert set(built.build().outcomes.values()) == {"reused"}


def test_changed_file_times_and_folder_order_rebuild_nothing(built: Factory) -> None:
    os.utime(built.repository.root / "ansible/roles/base/templates/greeting.j2")
    shutil.copytree(built.repository.root / "ansible", built.repository.root / "copy")
    shutil.rmtree(built.repository.root / "ansible")
    (built.repository.root / "copy").rename(built.repository.root / "ansible")
    assert set(built.build().outcomes.values()) == {"reused"}


@pytest.mark.usefixtures("one_layer")
def test_a_failed_layer_is_never_reused(factory: Factory) -> None:
    tasks = "ansible/roles/base/tasks/main.yml"
    factory.repository.replace(
        tasks, "- name: Write", "- name: Fail\n  ansible.builtin.command: 'false'\n- name: Write"
    )
    failed = factory.build()
    assert failed.code == 4
    assert "role 'base': Fail failed" in failed.stderr
    assert factory.repository.keys()["system"] not in factory.engine.layers()
    again = factory.build()
    assert again.code == 4
    factory.repository.replace(tasks, "'false'", "'true'")
    assert factory.build().outcomes["system"] == "built"


def test_a_partial_rebuild_gives_the_same_image(factory: Factory) -> None:
    """Rebuild the two upper layers; test_publish does the same with all layers."""
    assert factory.build().code == 0
    key = factory.repository.keys()["workload"]
    cold = factory.engine.layers()[key].id
    assert factory.in_image(cold, "cat", "/etc/fabric-handled") == "handled"
    for layer in ("workload", "final"):
        factory.remove_layer(layer)
    warm = factory.build()
    assert [warm.outcomes[layer] for layer in ("system", "final", "workload")] == ["reused", "built", "built"]
    assert factory.engine.layers()[key].id == cold


def test_an_image_has_at_most_three_layers_more_than_components(built: Factory) -> None:
    image = built.engine.inspect_image(f"factory-layers:{built.repository.keys()['workload']}")
    assert image is not None
    assert len(image["RootFS"]["Layers"]) <= len(built.repository.plan().components) + 3


def test_a_variable_registered_by_a_role_is_undefined_in_other_layers(built: Factory) -> None:
    image = f"factory-layers:{built.repository.keys()['workload']}"
    assert built.in_image(image, "sh", "-c", "ls /etc/leaked 2>&1 | wc -l").strip() == "1"
    assert "No such file" in built.in_image(image, "sh", "-c", "ls /etc/leaked 2>&1; true")


PROBE = """
import sys
from builder.adapters.engine import client
from builder.cli import build

listings = []
list_images = client.list_images
client.list_images = lambda *words: (listings.append(1), list_images(*words))[1]
code = build.run(["--root", {root!r}, "--target", "hello"])
others = ("docker", "requests", "rich", "yaml", "boto3", "pytest", "isal", "ansible", "urllib3")
third_party = set(others) & set(sys.modules)
print(code, len(listings), sorted(third_party), file=sys.stderr)
"""


def test_a_build_without_changes_lists_images_once_and_starts_no_run(built: Factory) -> None:
    runs = built.run_names()
    done = built.python(PROBE.format(root=str(built.repository.root)))
    assert done.stderr.splitlines()[-1] == "0 1 []"
    assert built.run_names() == runs


def test_a_user_image_built_on_a_layer_is_not_used_as_that_layer(built: Factory) -> None:
    key = built.repository.keys()["workload"]
    client = docker.DockerClient(base_url=built.engine.url)
    mine, _ = client.images.build(
        fileobj=io.BytesIO(f"FROM factory-layers:{key}\nENV MINE=1\n".encode()),
        tag="mine:1",
        nocache=True,
        rm=True,
    )
    try:
        assert mine.labels["factory.key"] == key
        assert built.engine.layers()[key].id != mine.id
    finally:
        client.images.remove("mine:1")


def test_an_image_contains_no_trace_of_the_build(built: Factory) -> None:
    image = f"factory-layers:{built.repository.keys()['workload']}"
    found = built.in_image(
        image,
        *(
            "find",
            "/",
            "-xdev",
            "-iname",
            "*ansible*",
            "-o",
            "-path",
            "/dev/factory*",
            "-o",
            "-path",
            "/tmp/*",
        ),
        *("-o", "-path", "/root/.cache*", "-o", "-name", "*.deb", "-o", "-path", "/var/lib/apt/lists/*_*"),
    )
    assert found.strip() == ""
    config = built.engine.inspect_image(image)["Config"]  # type: ignore[index]
    assert not [word for word in config["Env"] or () if word.split("=")[0] != "PATH"]
    assert config["Cmd"] == ["bash"]
    assert config["User"] in ("", "0")
    assert config["Hostname"] == ""
