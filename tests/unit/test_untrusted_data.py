"""Values in catalog, lock and site file that could run code, add options or reach other files are refused."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder import catalog, lock, site, sources, tooling
from builder.adapters.ansible import playbook
from builder.errors import CatalogError, FactoryError, IntegrityError
from builder.rehearsal.ec2 import seeds
from builder.requirements import read_requirements, read_source
from tests.support.repository import Repository, knowledge_of

LOOKUP = "{{ lookup('pipe', 'id') }}"
TEMPLATES = (
    LOOKUP,
    "{% for x in [1] %}{% endfor %}",
    "{# comment #}",
    "#jinja2: variable_start_string:'<<', variable_end_string:'>>'<< lookup('pipe', 'id') >>",
)
HASH = f"--hash=sha256:{'0' * 64}"


@contextmanager
def refused(text: str) -> Iterator[None]:
    """Require that the block raises a CatalogError with a problem that contains `text`."""
    with pytest.raises(CatalogError) as caught:
        yield
    assert any(text in problem for problem in caught.value.problems)


def append(repository: Repository, file: str, text: str) -> None:
    path = repository.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + text)


@pytest.mark.parametrize("text", TEMPLATES)
@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("components/base.toml", "[variables]\nbase_user = {}\n"),
        ("components/base.toml", "[variables]\nbase_user = {{ nested = [{}] }}\n"),
        ("components/base.toml", "[variables]\n{} = 1\n"),
        ("stacks/plain-1.toml", "other = {}\n"),
        ("systems/tiny-1.toml", "areas = [{}]\n"),
        ("targets/hello.toml", "policy = {{ fabric = {} }}\n"),
        ("profiles/shared.toml", "summary = {}\n"),
        ("versions/fabric.toml", 'summary = "x"\nside = "image"\nsource = [{}]\n'),
        ("rules/fabric.toml", "subject = {}\n"),
        ("facts.toml", "[word]\nwhat = {}\n"),
        ("sources.toml", "page = {}\n"),
        ("instances.toml", "[m8i]\nnote = {}\n"),
        ("layers.toml", "other = [{}]\n"),
    ],
)
def test_template_in_a_catalog_file_is_refused(
    repository: Repository, file: str, line: str, text: str
) -> None:
    append(repository, f"catalog/{file}", line.format(json.dumps(text)))
    with pytest.raises(CatalogError) as caught:
        knowledge_of(repository.root)
    assert any(
        problem.startswith(f"{file}: ") and "must not contain templates" in problem
        for problem in caught.value.problems
    )


def test_template_in_packer_toml_or_rehearsal_toml_is_refused(repository: Repository) -> None:
    append(repository, "catalog/packer.toml", f'[[plugins]]\nname = "{LOOKUP}"\n')
    append(repository, "catalog/rehearsal.toml", f'account = "{LOOKUP}"\n')
    loaded = repository.load()
    for read in (
        lambda: tooling.read(repository.root),
        lambda: tooling.plugins(repository.root, "x86_64"),
        lambda: seeds.load(repository.root, loaded, arch="x86_64"),
    ):
        with refused("must not contain templates"):
            read()


@pytest.mark.parametrize("text", [*TEMPLATES, "-oProxyCommand=id", "a\nb"])
def test_code_in_the_site_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("BUILDER_SITE_FILE", raising=False)
    (tmp_path / "site.toml").write_text(f'[mirror.prefixes]\n"https://a/" = {json.dumps(text)}\n')
    with pytest.raises(FactoryError, match=r"mirror\.prefixes\.https://a/: ") as caught:
        site.load(tmp_path)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", TEMPLATES)
def test_template_in_the_lock_is_refused(repository: Repository, text: str) -> None:
    path = repository.root / "catalog/lock.json"
    table = json.loads(path.read_text())
    table["entries"]["suite"]["debian tiny"]["snapshot"] = text
    path.write_text(json.dumps(table))
    with pytest.raises(IntegrityError, match="must not contain templates"):
        lock.read(repository.root)


@pytest.mark.parametrize(
    ("file", "old", "new", "key"),
    [
        ("stacks/plain-1.toml", '"1.2-3"', '"-1.2"', "pins.fabric"),
        ("stacks/plain-1.toml", '"1.2-3"', '"1.2;id"', "pins.fabric"),
        ("stacks/plain-1.toml", "[pins]", 'requirements = "../../secret.lock"\n[pins]', "requirements"),
        ("systems/tiny-1.toml", '["python3"]', '["--hook-dir=/tmp"]', "bootstrap.packages[0]"),
        ("systems/tiny-1.toml", '["python3"]', '["./evil.deb"]', "bootstrap.packages[0]"),
        ("systems/tiny-1.toml", "packages", 'areas = ["main\'; id #"]\npackages', "bootstrap.areas[0]"),
        ("systems/tiny-1.toml", '"tiny"', '"--setup-hook=id"', "bootstrap.suite"),
        (
            "systems/tiny-1.toml",
            "packages",
            'dpkg_options = ["post-invoke=id"]\npackages',
            "bootstrap.dpkg_options[0]",
        ),
        ("systems/tiny-1.toml", 'family = "debian"', 'family = "../../evil"', "family"),
        (
            "systems/tiny-1.toml",
            "[bootstrap]",
            '[ami]\nuser = "a\\n ProxyCommand id"\n[bootstrap]',
            "ami.user",
        ),
        ("systems/tiny-1.toml", "[bootstrap]", '[ami]\nuser = "a b"\n[bootstrap]', "ami.user"),
        ("targets/hello.toml", '"hello"', '"../../evil"', "workload"),
        ("components/fabric.toml", 'layer = "system"', 'layer = "system"\nbrought_by = "../x"', "brought_by"),
    ],
)
def test_option_or_path_in_a_catalog_file_is_refused(
    repository: Repository, file: str, old: str, new: str, key: str
) -> None:
    repository.replace(f"catalog/{file}", old, new)
    if key == "ami.user":
        repository.replace(
            f"catalog/{file}", '"\n[bootstrap]', '"\nregions = []\nparameter = "/x"\n[bootstrap]'
        )
    with pytest.raises(CatalogError) as caught:
        repository.load()
    assert any(problem.startswith(f"{file}: {key}: ") for problem in caught.value.problems)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "Ä", "A"])
def test_flavour_name_that_is_a_path_is_refused(repository: Repository, name: str) -> None:
    flavour = next(iter(repository.load().targets["hello"].flavours.values()))
    append(
        repository,
        "catalog/targets/hello.toml",
        f'[flavours."{name}"]\nsummary = "x"\nsystem = "{flavour.system}"\nstack = "{flavour.stack}"\n',
    )
    with refused(f"targets/hello.toml: flavours.{name}: the name of a flavour must match"):
        repository.load()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("url", "--upload-pack=id;false"),
        ("url", "ext::sh -c id"),
        ("url", "http://a/x"),
        ("url", "file:///etc/passwd"),
        ("url", "git@host:x"),
        ("url", "https://a/x y"),
        ("key", "/etc/passwd"),
        ("signature", "file:///etc/passwd"),
        ("ref", "--upload-pack=id"),
        ("ref", "main other"),
    ],
)
def test_download_url_must_be_https_and_its_ref_a_plain_name(
    repository: Repository, key: str, text: str
) -> None:
    fields = {"url": "https://a/x", key: text}
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
    append(repository, "catalog/components/fabric.toml", f'[[downloads]]\nname = "source"\n{lines}')
    with pytest.raises(CatalogError) as caught:
        repository.load()
    place = f"components/fabric.toml: downloads[0].{key}: "
    assert any(problem.startswith(place) and text in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    "text",
    [
        f"greet==1.0 {HASH} --global-option=x\n",
        f"greet==1.0;${{HOME}} {HASH}\n",
        f"greet=={LOOKUP} {HASH}\n",
        f"# comment \\\n--index-url=https://evil.example/\ngreet==1.0 {HASH}\n",
        "--index-url=https://evil.example/\n",
    ],
)
def test_requirements_file_with_options_or_templates_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "requirements.lock"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"needs an exact version|ends in a backslash"):
        read_requirements(path)


@pytest.mark.parametrize(
    "text",
    [
        "greet==${AWS_SECRET_ACCESS_KEY}",
        "greet\\\n==${HOME}",
        "greet --config-settings=x",
        "greet==1.0 -i evil.example",
        "-r other.in",
        "./greet",
        "greet @ file:///etc/passwd",
    ],
)
def test_requirements_in_file_with_options_paths_or_variables_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "requirements.in"
    path.write_text(f"good[extra]>=1.0,<2 ; python_version < '3.12' and sys_platform != 'win32'\n{text}\n")
    with pytest.raises(ValueError, match=r"line 2: .* is not a package name with optional versions"):
        read_source(path)


@pytest.mark.parametrize(
    "value",
    [*TEMPLATES, {"nested": [LOOKUP]}, {LOOKUP: 1}, {"__ansible_vault": "x"}],
    ids=str,
)
def test_template_in_a_variable_never_reaches_ansible(value: object) -> None:
    with refused("variable 'fabric_x' contains a template"):
        playbook.to_variables({"fabric_x": value})
    assert json.loads(playbook.to_variables({"fabric_x": "{a}"})) == {"fabric_x": "{a}"}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "credentials").write_text("secret")
    return folder


@pytest.mark.parametrize(
    ("link", "copied"),
    [
        ("evil/data", "evil/data/credentials"),
        ("evil/data", "evil/data"),
        ("evil/data", "evil/*/credentials"),
        ("evil", "evil/credentials"),
        ("evil", "*/credentials"),
    ],
)
def test_workload_cannot_copy_through_a_symbolic_link(
    repository: Repository, secret: Path, link: str, copied: str
) -> None:
    loaded = repository.load()
    target = loaded.targets["hello"]
    path = repository.root / "containers" / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(secret)
    repository.write("containers/hello/Dockerfile", f"ARG PARENT\nFROM ${{PARENT}}\nCOPY {copied} /x/\n")
    if link == copied:
        # The build context contains the symbolic link instead of the file that it points to.
        read = sources.read(repository.root, loaded, target, target.default)
        assert read.workload_files == ((copied, f"link:{secret}"),)
    else:
        with refused("is behind a symbolic link out of containers/"):
            sources.read(repository.root, loaded, target, target.default)


def test_symlinked_dockerfile_of_a_workload_is_refused(repository: Repository, secret: Path) -> None:
    loaded = repository.load()
    target = loaded.targets["hello"]
    dockerfile = repository.root / "containers/hello/Dockerfile"
    dockerfile.unlink()
    dockerfile.symlink_to(secret / "credentials")
    with refused("symbolic link"):
        sources.read(repository.root, loaded, target, target.default)


@pytest.mark.parametrize(
    "name",
    ["roles/fabric/files/x", "roles/fabric/tasks/x.yml", "roles/base/tests/x.py", "plugins/x", "tasks/x"],
)
def test_symlinked_ansible_file_is_refused(repository: Repository, secret: Path, name: str) -> None:
    loaded = repository.load()
    target = loaded.targets["hello"]
    path = repository.root / "ansible" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(secret / "credentials")
    with refused("symbolic link out of its folder"):
        sources.read(repository.root, loaded, target, target.default)


def test_symlinked_role_is_refused(repository: Repository, secret: Path) -> None:
    loaded = repository.load()
    target = loaded.targets["hello"]
    role = repository.root / "ansible/roles/fabric"
    role.rename(secret / "fabric")
    role.symlink_to(secret / "fabric")
    with refused("symbolic link out of its folder"):
        sources.read(repository.root, loaded, target, target.default)


@pytest.mark.parametrize("name", ["containers", "ansible/roles"])
def test_folder_that_is_a_link_to_itself_is_refused(repository: Repository, name: str) -> None:
    folder = repository.root / name
    folder.rename(repository.root / "elsewhere")
    folder.symlink_to(folder)
    with refused(f"{folder}: is a loop of symbolic links"):
        repository.load()


@pytest.mark.parametrize("name", ["containers", "ansible", "ansible/roles", "catalog/targets"])
@pytest.mark.parametrize("target", ["..", ".", "{root}", "{root}/../..", "/", "link"])
def test_folder_that_is_a_link_out_of_the_repository_is_refused(
    repository: Repository, name: str, target: str
) -> None:
    """If containers/ were a link to "..", COPY could read files outside the checkout."""
    folder, root = repository.root / name, repository.root
    folder.rename(root / "elsewhere")
    (root / "link").symlink_to(root)
    folder.symlink_to(root / target.format(root=root))
    with refused(f"{folder}: is a symbolic link"):
        repository.load()


def test_symlinked_catalog_file_is_refused(repository: Repository, secret: Path) -> None:
    path = repository.root / "catalog/targets/other.toml"
    path.symlink_to(secret / "credentials")
    with refused("is a symbolic link; the catalog may hold files only"):
        catalog.load(repository.root)
