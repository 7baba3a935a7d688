"""An edit of an input during a build is detected before a result is stored."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import sources
from builder.adapters.container import workload
from builder.cli.main import main
from builder.errors import IntegrityError
from builder.model import Plan
from tests.support.repository import Repository

Edit = Callable[[Path], object]

EDITS: dict[str, tuple[str, Edit]] = {
    "task": ("ansible/roles/base/tasks/main.yml", lambda path: path.write_text("[] # edited\n")),
    "template": ("ansible/roles/base/templates/profile.j2", lambda path: path.unlink()),
    "new file of a role": ("ansible/roles/fabric/files/new", lambda path: path.write_text("x")),
    "mode of a file": ("ansible/roles/fabric/tasks/main.yml", lambda path: path.chmod(0o755)),
    "file as a link": ("ansible/roles/fabric/defaults/link.yml", lambda path: path.symlink_to("main.yml")),
    "role": ("ansible/roles/fabric", lambda path: shutil.rmtree(path)),
    "settings": ("ansible/ansible.cfg", lambda path: path.write_text("[defaults]\nx = 1\n")),
    "play": ("ansible/image.yml", lambda path: path.write_text("[] # edited\n")),
    "plugin": ("ansible/plugins/modules/new.py", lambda path: path.write_text("x = 1\n")),
    "shared tasks": ("ansible/tasks/new.yml", lambda path: path.write_text("[]\n")),
    "Ansible": ("ansible/requirements.lock", lambda path: path.write_text("# edited\n")),
    "Dockerfile": ("containers/hello/Dockerfile", lambda path: path.write_text("FROM scratch\n")),
    "program": ("containers/hello/src/hello.py", lambda path: path.write_text("evil\n")),
    "removed program": ("containers/hello/src/hello.py", lambda path: path.unlink()),
    "mode of a program": ("containers/hello/src/hello.py", lambda path: path.chmod(0o755)),
}


@pytest.mark.parametrize("name", EDITS)
def test_edit_of_an_input_during_a_build_is_refused(repository: Repository, name: str) -> None:
    plan = repository.plan()
    sources.require_unchanged(repository.root, plan.layers)
    file, edit = EDITS[name]
    path = repository.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    edit(path)
    with pytest.raises(IntegrityError, match="was edited during the build; nothing was stored") as caught:
        sources.require_unchanged(repository.root, plan.layers)
    assert caught.value.exit_code == 7


def test_file_that_is_no_build_input_may_be_edited_during_a_build(repository: Repository) -> None:
    plan = repository.plan()
    repository.write("containers/hello/README.md", "edited")
    repository.write("ansible/roles/base/tests/test_base.py", "def test_base(): ...\n")
    sources.require_unchanged(repository.root, plan.layers)
    with pytest.raises(IntegrityError, match="a check of target 'hello' was edited"):
        sources.require_same_checks(repository.root, plan)


def test_build_context_does_not_change_if_the_workload_is_edited_later(repository: Repository) -> None:
    plan: Plan = repository.plan()
    context = workload.make_context(repository.root, plan, ("run", "a"))
    sources.require_unchanged(repository.root, plan.layers)
    repository.write("containers/hello/src/hello.py", "evil")
    with tarfile.open(fileobj=context.tar) as tar:
        member = tar.extractfile("hello/src/hello.py")
        assert member
        assert member.read() == b"print('hello')\n"


def test_check_that_cannot_be_parsed_is_reported_before_the_build(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.write("ansible/roles/base/tests/test_base.py", "import os\ndef test_base(host)\n")
    assert main(["build", "hello", "--root", str(repository.root)]) == 5
    assert capsys.readouterr().err == (
        "error: ansible/roles/base/tests/test_base.py:2: expected ':'\n"
        "hint: correct ansible/roles/base/tests/test_base.py\n"
    )
