"""The options `--keep-failed` and `--rebuild` of `builder build`, with the real container engine."""

import re
from collections.abc import Iterator

import pytest

from builder.adapters.engine.client import LEFTOVERS
from tests.support.factory import Build, Factory

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

_TASKS = "ansible/roles/fabric/tasks/main.yml"
_BROKEN = """
    - name: Write a file that remains
      ansible.builtin.copy:
        content: "so far"
        dest: /etc/before-the-failure
        mode: "0644"
    - name: Fail
      ansible.builtin.command: /bin/false
      changed_when: true
"""

# Two builds of this role give different images.
_RANDOM = """
    - name: Write a random number
      ansible.builtin.copy:
        content: "{{ 999999999 | random }}"
        dest: /etc/random
        mode: "0644"
"""


def container_of(build: Build) -> str:
    """Return the container that the hint of a failed build names for `docker exec` and `docker rm`."""
    entered = re.search(r"look inside: docker exec -it (\S+) bash\n", build.stderr)
    removed = re.search(r"remove it: docker rm --force (\S+)\n", build.stderr)
    assert entered, build.stderr
    assert removed
    assert entered[1] == removed[1]
    return entered[1]


def names(factory: Factory) -> list[str]:
    found = [factory.engine.inspect_container(container) for container in factory.containers()]
    return [record["Name"].removeprefix("/") for record in found if record]


def file_in(factory: Factory, container: str, path: str) -> str:
    lines: list[str] = []
    assert factory.engine.execute(container, ["bash", "-c", f"cat {path}"], lines.append) == 0
    return "\n".join(lines)


@pytest.fixture
def site(built: Factory) -> Iterator[Factory]:
    """Factory with a built target; the tests change only the upper layers of the target."""
    yield built
    for container in built.containers():
        built.engine.remove_container(container)
    built.call("clean", "--yes")


def test_container_of_a_failed_role_is_kept_and_found_by_clean(site: Factory) -> None:
    site.repository.write(_TASKS, _BROKEN)
    failed = site.build("hello", "--keep-failed")
    assert failed.code == 4
    kept = container_of(failed)
    assert file_in(site, kept, "/etc/before-the-failure") == "so far"
    site.repository.write(_TASKS, _RANDOM)
    again = site.build("hello", "--keep-failed")
    assert again.code == 0, again.stderr
    assert names(site) == [kept]
    assert f"container {kept} of run" in site.call("clean").stdout
    assert site.call("clean", "--yes").code == 0
    assert site.containers() == []


def test_keep_failed_keeps_a_copy_of_the_container_of_a_failed_dockerfile(site: Factory) -> None:
    text = "ARG PARENT\nFROM ${PARENT}\nCOPY hello/src/ /hello/\nRUN echo so far > /seen && false\n"
    site.repository.write("containers/hello/Dockerfile", text)
    failed = site.build("hello", "--keep-failed")
    assert failed.code == 4
    kept = container_of(failed)
    assert file_in(site, kept, "/seen") == "so far"
    assert names(site) == [kept]
    assert site.build("hello").code == 4
    assert names(site) == [kept]


def test_rebuild_option_rebuilds_a_layer_and_all_layers_above_it(site: Factory) -> None:
    site.repository.write(_TASKS, _RANDOM)
    assert site.build("hello").code == 0
    before = site.engine.layers()
    build = site.build("hello", "--rebuild", "final")
    assert build.code == 0, build.stderr
    assert {name for name, outcome in build.outcomes.items() if outcome == "built"} == {"final", "workload"}
    assert build.outcomes["checks"] == "passed"
    after, keys = site.engine.layers(), site.repository.keys()
    changed = {name for name, key in keys.items() if after[key].id != before[key].id}
    assert changed == {"final", "workload"}
    replaced = {image.id for image in site.engine.images(reference=LEFTOVERS)}
    assert {before[keys[name]].id for name in changed} <= replaced
    assert site.build("hello").outcomes.get("workload") == "reused"
    assert site.call("clean", "--yes").code == 0
    assert not {before[keys[name]].id for name in changed} & {
        image.id for image in site.engine.images(reference=LEFTOVERS)
    }
