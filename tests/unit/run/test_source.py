"""Packing an application's source."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import requirements
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run import source as packing
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import (
    RunFiles,
    SourceError,
    pack,
)

FILES = {"app/tasks.py": "x = 1\n", "requirements.txt": "celery\n", "run.sh": "#!/bin/sh\n"}


def write(directory: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def git(directory: Path, *arguments: str) -> str:
    """Run git as a person without any configuration."""
    done = subprocess.run(
        ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "GIT_CONFIG_NOSYSTEM": "1"},
    )
    return done.stdout.strip()


def repository(directory: Path, files: Mapping[str, str]) -> Path:
    directory.mkdir(exist_ok=True)
    git(directory, "init", "--quiet", "--initial-branch=main")
    write(directory, files)
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message=first")
    return directory


def packed(
    scratch: Path,
    salt: str = "",
    base: Path = Path("/nowhere"),
    inventories: Iterable[Path] = (),
    others: Iterable[Path] = (),
    **wanted: Any,
) -> tuple[str, dict[str, tarfile.TarInfo]]:
    """The id and the members of the archive."""
    scratch.mkdir(exist_ok=True)
    made = pack(wanted, base, scratch, salt, RunFiles(tuple(inventories), tuple(others)))
    with tarfile.open(fileobj=io.BytesIO(made.archive)) as opened:
        return made.id, {member.name: member for member in opened}


# --- inventories in the source -----------------------------------------------------------------------


INVENTORY = {
    "hosts.yml": "",
    "group_vars/all/main.yml": "a: 1\n",
    "host_vars/redis1.yml": "",
    "pki/ca.key": "a key",
    "pki/hosts/redis1.key": "a key",
    ".vault-password": "a password",
}


@pytest.mark.parametrize("in_git", [True, False])
@pytest.mark.parametrize(
    ("place", "given"),
    [
        ("inventories/shop", "inventories/shop"),
        ("inventories/shop", "inventories/shop/hosts.yml"),
        ("deploy", "deploy/hosts.yml"),
        ("inventories/shop", "inventories/other"),
        ("", "hosts.yml"),
    ],
)
def test_inventories_are_left_out_of_a_release(
    tmp_path: Path, place: str, given: str, in_git: bool
) -> None:
    """Their keys and passwords may not reach other hosts, and a change of them is not a new release."""
    source = tmp_path / "shop"
    write(source, FILES)
    if in_git:
        repository(source, FILES)
    write(source / place, INVENTORY)
    if place.startswith("inventories"):
        write(source / "inventories/other", INVENTORY)
    first = packed(tmp_path / "1", inventories=[source / given], path=str(source))
    write(source / place, {"group_vars/all/main.yml": "a: 2\n", "pki/hosts/redis2.key": "a key"})
    second = packed(tmp_path / "2", inventories=[source / given], path=str(source))
    assert first[0] == second[0]
    assert set(first[1]) == set(FILES)


def test_an_application_keeps_its_own_files_beside_its_inventory(tmp_path: Path) -> None:
    own = {
        "deploy/gunicorn.py": "",
        "deploy/pki/__init__.py": "",
        "ansible/group_vars/all.yml": "a task runs Ansible",
    }
    source = write(tmp_path / "shop", FILES | own)
    write(
        source / "deploy",
        {name: text for name, text in INVENTORY.items() if not name.startswith("pki")},
    )
    _, names = packed(tmp_path / "1", inventories=[source / "deploy/hosts.yml"], path=str(source))
    assert set(names) == {*FILES, *own}


def test_the_application_is_never_taken_for_an_inventory(tmp_path: Path) -> None:
    """The source's root is the inventory, and the application's package has the name of that directory."""
    source = write(tmp_path / "shop", {**FILES, "shop/celery.py": "", "pki/__init__.py": ""})
    write(source, {"hosts.yml": "", "group_vars/all.yml": "", ".secrets/environment": "a key"})
    given = [source, source / "hosts.yml"]
    for inventories in (given[:1], given[1:], given):
        _, names = packed(tmp_path / "1", inventories=inventories, path=str(source))
        assert set(names) - {"hosts.yml"} == {*FILES, "shop/celery.py", "pki/__init__.py"}


def test_a_source_with_nothing_but_an_inventory_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "shop", {"a/hosts.yml": "", "a/group_vars/all.yml": ""})
    with pytest.raises(SourceError, match="belong to the inventory"):
        packed(tmp_path / "1", inventories=[source / "a"], path=str(source))


def test_an_inventory_by_a_link_is_left_out_too(tmp_path: Path) -> None:
    source = write(tmp_path / "shop", FILES | {"terraform/hosts.yml": ""})
    write(source / "inventories/shop", {n: t for n, t in INVENTORY.items() if n != "hosts.yml"})
    link = source / "inventories/shop/hosts.yml"
    link.symlink_to("../../terraform/hosts.yml")
    _, names = packed(tmp_path / "1", inventories=[link], path=str(source))
    assert set(names) == set(FILES)


@pytest.mark.parametrize(
    "other", ["inventories/b/host_vars/x.yml", "inventories/b/pki/hosts/x.key"]
)
def test_a_neighbour_of_another_kind_is_left_out_too(tmp_path: Path, other: str) -> None:
    source = write(tmp_path / "shop", FILES | {other: "", "inventories/b/.vault-password": ""})
    write(source / "inventories/shop", INVENTORY)
    for given in ("inventories/shop", "inventories/shop/hosts.yml"):
        _, names = packed(tmp_path / "1", inventories=[source / given], path=str(source))
        assert set(names) == set(FILES)


def test_files_of_the_run_are_left_out_wherever_they_are(tmp_path: Path) -> None:
    source = write(tmp_path / "shop", FILES | {"secrets/pki/hosts/redis1.key": "", "plan.json": ""})
    others = [source / "secrets/pki", source / "plan.json", tmp_path]
    _, names = packed(tmp_path / "1", others=others, path=str(source))
    assert set(names) == set(FILES)


def test_an_installed_collection_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer one is not a new release."""
    source = write(tmp_path / "shop", FILES | {"collections/ansible_collections/x.py": ""})
    monkeypatch.setattr(packing, "_INSTALLED", [source / "collections/ansible_collections"])
    assert set(packed(tmp_path / "1", path=str(source))[1]) == set(FILES)


def test_directories_of_other_users_beside_an_inventory_are_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "shop", FILES)
    write(source / "inventories/shop", INVENTORY)
    write(source / "inventories/closed", {"x": ""})
    glob = Path.glob

    def refused(path: Path, pattern: str) -> Any:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return glob(path, pattern)

    monkeypatch.setattr(Path, "glob", refused)
    given = [source / "inventories/shop/hosts.yml"]
    assert "inventories/closed/x" in packed(tmp_path / "1", inventories=given, path=str(source))[1]


def test_the_collections_own_files_need_no_git(tmp_path: Path) -> None:
    """A project may have installed it in a directory that git ignores."""
    project = repository(tmp_path / "project", {".gitignore": "/collections/\n"})
    own = write(project / "collections/files", {"requirements.txt": "click\n"})
    with pytest.raises(SourceError, match="no file that git does not ignore"):
        packed(tmp_path / "1", path=str(own))
    assert set(packed(tmp_path / "1", path=str(own), of_collection=True)[1]) == {"requirements.txt"}


def test_a_hooks_own_repository_is_neither_asked_nor_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = repository(tmp_path / "theirs", {"a": "1"})
    source = repository(tmp_path / "shop", FILES)
    monkeypatch.setenv("GIT_DIR", str(theirs / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(theirs))
    assert set(packed(tmp_path / "1", path=str(source))[1]) == set(FILES)
    assert set(packed(tmp_path / "2", git=str(source), version="main")[1]) == set(FILES)
    monkeypatch.delenv("GIT_DIR")
    monkeypatch.delenv("GIT_WORK_TREE")
    assert git(theirs, "branch", "--show-current") == "main"
    assert git(theirs, "remote") == ""


def test_an_inventory_elsewhere_changes_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "shop", FILES)
    elsewhere = write(tmp_path / "ops/inventories/shop", INVENTORY)
    given = [elsewhere, elsewhere / "hosts.yml", tmp_path]
    found = packed(tmp_path / "1", inventories=given, path=str(source))
    assert found[0] == packed(tmp_path / "1", path=str(source))[0]


@pytest.mark.parametrize("in_git", [True, False])
def test_a_virtualenv_of_any_name_is_left_out(tmp_path: Path, in_git: bool) -> None:
    source = write(tmp_path / "shop", FILES)
    if in_git:
        repository(source, FILES)
    write(source, {"env/pyvenv.cfg": "", "env/bin/python": "", "environment.py": ""})
    assert set(packed(tmp_path / "1", path=str(source))[1]) == {*FILES, "environment.py"}


# --- a package of the index --------------------------------------------------------------------------


def test_a_package_of_the_index_is_a_release_without_files(tmp_path: Path) -> None:
    wanted = {"pip": "shop[web]==1.2", "extras": ["mail"]}
    made = pack(wanted, tmp_path, tmp_path, "")
    with tarfile.open(fileobj=io.BytesIO(made.archive)) as opened:
        assert opened.getnames() == [".celery-fleet/requirements.txt"]
    assert made.exported == b"shop[mail,web]==1.2\n"
    needed = requirements.read(made.directory, wanted, made.exported)
    assert (needed.file, needed.local) == (".celery-fleet/requirements.txt", False)
    other = pack({**wanted, "pip": "shop[web]==1.3"}, tmp_path, tmp_path, "")
    assert other.id != made.id
    # Another spelling of the interpreter makes a release, but no virtualenv.
    again = pack(wanted, tmp_path, tmp_path, "3.11")
    assert again.id != made.id
    assert requirements.read(again.directory, wanted, again.exported) == needed


def test_a_packages_release_does_not_depend_on_where_its_lock_is(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("shop==1.2 --hash=sha256:00  # ours\n\ncelery==5.6\n")
    one, two = (
        pack({"pip": "shop==1.2", "requirements": name}, tmp_path, tmp_path, "")
        for name in ("one", "two")
    )
    assert one.exported == b"shop==1.2 --hash=sha256:00\ncelery==5.6\n"
    assert one.id == two.id


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-r base.txt\n", "line 1, includes base.txt"),
        (
            "celery\nShop==1.3\n",
            "line 2, asks for Shop==1.3, but celery_app_source.pip is shop==1.2",
        ),
    ],
)
def test_a_lock_that_does_not_fit_the_package(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "lock.txt").write_text(text)
    with pytest.raises(UserError, match=words):
        pack({"pip": "shop==1.2", "requirements": "lock.txt"}, tmp_path, tmp_path, "")


# --- a directory -------------------------------------------------------------------------------------


def test_the_id_follows_content_alone(tmp_path: Path) -> None:
    one, two = (
        write(tmp_path / "one", FILES),
        write(tmp_path / "two", dict(reversed(FILES.items()))),
    )
    os.utime(two / "run.sh", (1, 1))
    (two / "app/tasks.py").chmod(0o600)
    write(two, {"app/__pycache__/tasks.pyc": "", "x.pyc": "", ".venv/a": "", "node_modules/b": ""})
    made = pack({"path": str(one)}, tmp_path, tmp_path, "")
    first, archive = made.id, made.archive
    same = pack({"path": str(two)}, tmp_path, tmp_path, "")
    assert (same.id, same.archive) == (first, archive)
    assert len(first) == 12
    assert int(first, 16) >= 0
    # gzip notes the time unless it is told not to (RFC 1952, 2.3: the four bytes of MTIME).
    assert archive[4:8] == bytes(4)
    assert gzip.decompress(archive)


@pytest.mark.parametrize(
    "change",
    [
        {"salt": "python3.13"},
        {"directory": "app"},
        {"requirements": "requirements/prod.txt"},
    ],
)
def test_the_id_follows_what_else_makes_a_release(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path / "a", FILES)
    assert packed(tmp_path, path=path)[0] != packed(tmp_path, path=path, **change)[0]
    defaults: dict[str, Any] = {"directory": ".", "requirements": "requirements.txt"}
    assert packed(tmp_path, path=path)[0] == packed(tmp_path, path=path, **defaults)[0]


def test_the_id_follows_names_modes_and_links(tmp_path: Path) -> None:
    path = write(tmp_path / "a", FILES)
    seen = {packed(tmp_path, path=path)[0]}
    (path / "run.sh").chmod(0o755)
    seen.add(packed(tmp_path, path=path)[0])
    (path / "run.sh").rename(path / "start.sh")
    seen.add(packed(tmp_path, path=path)[0])
    (path / "link").symlink_to("start.sh")
    seen.add(packed(tmp_path, path=path)[0])
    assert len(seen) == 4


def test_files_belong_to_root_and_others_may_read_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a", FILES)
    (path / "run.sh").chmod(0o700)
    (path / "requirements.txt").chmod(0o600)
    (path / "current").symlink_to("app")
    _, members = packed(tmp_path, path=path)
    assert sorted(members) == ["app/tasks.py", "current", "requirements.txt", "run.sh"]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members.values()} == {
        (0, 0, "root", "root", 0)
    }
    assert (members["run.sh"].mode, members["requirements.txt"].mode) == (0o755, 0o644)
    assert (members["current"].issym(), members["current"].linkname) == (True, "app")


def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a", FILES)
    os.link(path / "run.sh", path / "again.sh")
    _, members = packed(tmp_path, path=path)
    assert members["again.sh"].isreg()
    assert members["run.sh"].isreg()


def test_a_relative_path_starts_at_the_checkout(tmp_path: Path) -> None:
    write(tmp_path / "apps/shop", FILES)
    assert "run.sh" in packed(tmp_path / "scratch", base=tmp_path, path="apps/shop")[1]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"path": "none"}, "none is not a directory on the control node"),
        ({"path": "file"}, "file is not a directory on the control node"),
        ({"path": "empty"}, "empty has no file that git does not ignore"),
        ({}, "give one of path, git, archive and pip"),
    ],
)
def test_a_source_that_can_not_be_packed_is_refused(
    tmp_path: Path, wanted: dict[str, Any], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match=words):
        pack(wanted, tmp_path, tmp_path, "")


@pytest.mark.parametrize("path", ["~", "."])
def test_the_home_directory_is_never_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    write(tmp_path, {**FILES, ".ssh/id_ed25519": "a key"})
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SourceError, match="a release would take all of its files to the hosts"):
        pack({"path": path}, tmp_path, tmp_path, "")


def test_a_special_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a", FILES)
    os.mkfifo(path / "pipe")
    with pytest.raises(SourceError, match=r"a/pipe is neither a file nor a link"):
        packed(tmp_path, path=path)


# --- a git work tree ---------------------------------------------------------------------------------


def test_files_that_git_ignores_are_not_packed(tmp_path: Path) -> None:
    path = repository(tmp_path / "a", {**FILES, ".gitignore": ".env\n*.log\n", "gone.py": ""})
    write(path, {".env": "SECRET=1\n", "app/debug.log": "", "app/new.py": "", ".git/junk": ""})
    (path / "gone.py").unlink()
    _, members = packed(tmp_path, path=path)
    assert sorted(members) == sorted([*FILES, ".gitignore", "app/new.py"])


def test_a_directory_of_a_work_tree(tmp_path: Path) -> None:
    # With its own part of the rules that stand above it.
    path = repository(
        tmp_path / "a", {"back/app.py": "", "front/x.js": "", ".gitignore": "*.env\n"}
    )
    write(path, {"back/local.env": "SECRET=1\n"})
    assert list(packed(tmp_path, path=path / "back")[1]) == ["app.py"]


def test_file_names_may_have_any_characters(tmp_path: Path) -> None:
    path = repository(tmp_path / "a", {"späße/a b\n.py": ""})
    assert list(packed(tmp_path, path=path)[1]) == ["späße/a b\n.py"]


def test_if_git_fails_nothing_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = repository(tmp_path / "a", {**FILES, ".gitignore": ".env\n"})
    write(path, {".env": "SECRET=1\n"})
    (path / ".git/HEAD").write_text("damaged\n")
    with pytest.raises(SourceError, match=r"git can't list the files of .*: fatal: "):
        packed(tmp_path, path=path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceError, match="git is not installed"):
        packed(tmp_path, path=path)


def test_without_git_a_directory_is_packed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sorted(packed(tmp_path, path=write(tmp_path / "a", FILES))[1]) == sorted(FILES)


# --- a git repository --------------------------------------------------------------------------------


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with a tag v1, a branch `next`, and a commit on main after both."""
    path = repository(tmp_path / "origin", {**FILES, "version": "1\n"})
    git(path, "tag", "v1")
    git(path, "switch", "--quiet", "--create", "next")
    git(path, "commit", "--quiet", "--allow-empty", "--message=next")
    git(path, "switch", "--quiet", "main")
    write(path, {"version": "2\n"})
    git(path, "commit", "--quiet", "--all", "--message=second")
    write(path, {"version": "not committed\n"})
    return path


@pytest.mark.slow
def test_branch_tag_and_commit(origin: Path, tmp_path: Path) -> None:
    def of(version: str | None) -> str:
        scratch = Path(tempfile.mkdtemp(dir=tmp_path))
        return packed(scratch, git=f"file://{origin}", version=version)[0]

    assert of("v1") == of("next") == of(git(origin, "rev-parse", "v1^{commit}"))
    assert of(None) == of("main") == of(git(origin, "rev-parse", "main"))
    assert of("v1") != of("main")


def test_the_same_content_is_the_same_release_wherever_it_comes_from(
    origin: Path, tmp_path: Path
) -> None:
    git(origin, "checkout", "--quiet", "--", "version")
    found = packed(tmp_path / "scratch", git=f"file://{origin}", version="main")
    assert found[0] == packed(tmp_path, path=origin)[0]
    assert not [name for name in found[1] if name.startswith(".git")]


@pytest.mark.parametrize("version", ["v9", "--upload-pack=touch /nowhere", "deadbeef"])
def test_a_version_that_is_not_there(origin: Path, tmp_path: Path, version: str) -> None:
    with pytest.raises(SourceError) as caught:
        packed(tmp_path / "scratch", git=f"file://{origin}", version=version)
    assert f"can't get {version} of file://{origin}: " in str(caught.value)
    assert "Check URL, version and the rights" in str(caught.value)


def test_the_error_keeps_the_password_of_an_address(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        packed(tmp_path / "scratch", git="https://me:hush@localhost:1/shop.git", version="main")
    assert "hush" not in str(caught.value)
    assert "can't get main of https://localhost:1/shop.git" in str(caught.value)


# --- what git has elsewhere ----------------------------------------------------------------------------


@pytest.fixture
def superproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a submodule, which has one of its own; both by addresses that are relative to it."""
    # Git takes submodules from no directory, for the sake of those who clone what strangers have written.
    for number, (key, value) in enumerate([("protocol.file.allow", "always")]):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    repository(tmp_path / "inner", {"inner.txt": "i"})
    for name, below in (("library", "inner"), ("shop", "library")):
        repository(tmp_path / name, {f"{name}.py": "x = 1\n"})
        add = [
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "--quiet",
            "add",
            "--",
            f"../{below}",
        ]
        # As with a clone, to whose origin addresses are relative.
        git(tmp_path / name, "config", "remote.origin.url", str(tmp_path / name))
        git(tmp_path / name, *add)
        git(tmp_path / name, "commit", "--quiet", "--message=submodule")
    return tmp_path / "shop"


def test_submodules_are_fetched_from_git(tmp_path: Path, superproject: Path) -> None:
    _, members = packed(tmp_path / "scratch", git=str(superproject), version="main")
    assert {"shop.py", "library/library.py", "library/inner/inner.txt"} <= members.keys()


def test_submodules_of_a_directory_are_taken_or_refused(tmp_path: Path, superproject: Path) -> None:
    with pytest.raises(SourceError, match=r"submodule inner of .*library is empty.*update --init"):
        packed(tmp_path / "one", path=str(superproject))
    git(
        superproject,
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "update",
        "--init",
        "--recursive",
    )
    _, members = packed(tmp_path / "two", path=str(superproject))
    assert {"shop.py", "library/library.py", "library/inner/inner.txt"} <= members.keys()
    git(superproject, "submodule", "--quiet", "deinit", "--force", "--all")
    with pytest.raises(SourceError, match=r"submodule library of .*shop is empty.*update --init"):
        packed(tmp_path / "three", path=str(superproject))


def test_an_empty_submodule_outside_of_git_is_refused(tmp_path: Path) -> None:
    module = '[submodule "lib"]\n\tpath = vendor/lib\n\turl = ../lib\n'
    source = write(tmp_path / "source", {**FILES, ".gitmodules": module})
    (source / "vendor/lib").mkdir(parents=True)
    with pytest.raises(SourceError, match=r"submodule vendor/lib of .* is empty"):
        packed(tmp_path / "one", path=str(source))
    write(source, {"vendor/lib/lib.py": ""})
    _, members = packed(tmp_path / "two", path=str(source))
    assert "vendor/lib/lib.py" in members


def test_a_repository_in_the_repository_is_taken(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", FILES)
    repository(source / "nested", {"nested.py": ""})
    _, members = packed(tmp_path / "scratch", path=str(source))
    assert "nested/nested.py" in members


@pytest.mark.parametrize("kind", ["path", "git"])
def test_pointers_of_git_lfs_are_refused(tmp_path: Path, kind: str) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    source = repository(tmp_path / "source", {**FILES, "model.bin": pointer})
    with pytest.raises(SourceError, match=r"model\.bin are pointers of Git LFS.*git lfs install"):
        packed(tmp_path / "scratch", **{kind: str(source)})
