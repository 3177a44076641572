"""Building a release with a real virtualenv, real tar, pip and Python, and the test's own check."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.release import (
    build as release_build,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release import (
    ownership,
    virtualenv,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release import (
    pip as pip_of,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.build import (
    build,
    make_wheels,
    prune,
)
from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import (
    Build,
    BuildError,
    Limit,
)
from ansible_collections.celery_fleet.core.plugins.plugin_utils.preflight.checks import sandbox

from tests.unit.release.place import CHECK, PYTHON, USER, Place, wheel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("umask", "ran")]


def test_a_note_is_written_when_everything_else_is_on_disk(
    place: Place, ran: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power loss, a release without a note is built again; one with a note and empty files never would be."""
    noted: list[tuple[str, list[str]]] = []
    replace_file = os.replace

    def replaced(source: Any, target: Any) -> None:
        if str(target).endswith(".json"):
            noted.append((Path(target).name, ran[-1]["command"]))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    build(place.wanted())
    path = place.root / "releases/r1"
    venv = (path / "venv").resolve()
    assert noted == [
        ("virtualenv.json", ["sync", "--file-system", str(venv)]),
        ("release.json", ["sync", "--file-system", str(path)]),
    ]


def test_a_release_is_built_and_checked(place: Place) -> None:
    environment = {"SEEN": str(place.seen), "A": 1, "FLAG": True}
    demands = {"settings": {"timezone": "UTC"}, "schedule": {"e": {"task": "app.x", "interval": 5}}}
    build(place.wanted(demands=demands, environment=environment))
    note = place.note()
    assert {key: note[key] for key in ("id", "directory", "tasks", "versions", "application")} == {
        "id": "r1",
        "directory": "source",
        "tasks": ["app.x"],
        "versions": {"celery": "5.7.0"},
        "application": {"zone": "UTC"},
    }
    path = place.root / "releases/r1"
    assert (path / "source/app.py").read_text() == "x = 1\n"
    assert list((path / "source/__pycache__").glob("app.*.pyc")), "not compiled"
    seen = json.loads(place.seen.read_text())
    assert seen["request"] == {
        "app": "app",
        "directory": str(path / "source"),
        "settings": {"timezone": "UTC"},
    }
    assert seen["cwd"] == str(path / "source")
    # As the unit's environment file has them.
    assert (seen["A"], seen["FLAG"]) == ("1", "true")
    assert seen["path"] == str(path / "venv/bin")
    assert seen["release"] == "r1"
    assert seen["home"] == USER.pw_dir


def test_a_release_with_the_real_pip(place: Place) -> None:
    build(place.wanted(python=PYTHON))
    assert place.note()["id"] == "r1"


@pytest.mark.parametrize("hosts_own", [True, False])
def test_packages_are_installed_by_the_hosts_pip_or_by_the_virtualenvs(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts_own: bool
) -> None:
    if not hosts_own:
        monkeypatch.setattr(virtualenv, "pip_wheel", lambda _build, _user: "")
    wanted = place.wanted(python=PYTHON, files={"requirements.txt": wheel(tmp_path)}, app="")
    assert bool(virtualenv.pip_wheel(wanted, USER)) == hosts_own, (
        "no wheel of pip; run `make setup`"
    )
    build(wanted)
    packages = next((place.root / "releases/r1/venv/lib").glob("python3*/site-packages"))
    assert bool(list(packages.glob("pip"))) == (not hosts_own)
    # Compiled, except files for another Python, which are left as they are.
    assert [p.name.split(".")[0] for p in (packages / "small/__pycache__").iterdir()] == [
        "__init__"
    ]


def test_requirements_may_be_next_to_the_code_or_above_it(place: Place) -> None:
    build(place.wanted(files={"requirements.txt": "", "code/app.py": "x = 1\n"}, directory="code"))
    assert place.note()["directory"] == "source/code"


def test_a_package_with_another_hash_than_locked_is_refused(place: Place, tmp_path: Path) -> None:
    locked = wheel(tmp_path)
    wheel(tmp_path, code="x = 2\n")
    with pytest.raises(BuildError, match=r"(?s)installing the requirements failed.*DO NOT MATCH"):
        build(place.wanted(python=PYTHON, files={"requirements.txt": locked}))
    assert place.releases() == []


# --- virtualenvs that releases share ---------------------------------------------------------------------


def names_in(archive: Path) -> list[str]:
    with tarfile.open(archive) as opened:
        return opened.getnames()


def virtualenvs(place: Place) -> list[str]:
    return sorted(path.name for path in (place.root / "virtualenvs").iterdir())


def test_releases_with_the_same_requirements_share_a_virtualenv(
    place: Place, ran: list[dict[str, Any]]
) -> None:
    build(place.wanted())
    ran.clear()
    build(place.wanted("r2", {"app.py": "x = 2\n", "requirements.txt": ""}))
    words = [" ".join(map(str, each["command"])) for each in ran]
    assert not any(" venv " in text or "pip" in text for text in words), words
    first, second = (os.readlink(place.root / f"releases/{name}/venv") for name in ("r1", "r2"))
    assert first == second
    assert place.note("r2")["packages"] == place.note("r1")["packages"]


def test_a_virtualenv_is_removed_with_the_last_release_that_uses_it(place: Place) -> None:
    build(place.wanted())
    other = {"app.py": "x = 2\n", "requirements.txt": "# other\n"}
    build(place.wanted("r2", other))
    assert len(virtualenvs(place)) == 2
    build(place.wanted("r3", {**other, "app.py": "x = 3\n"}, keep=1))
    assert place.releases() == ["r2", "r3"]
    assert virtualenvs(place) == [Path(os.readlink(place.root / "releases/r3/venv")).name]


def test_a_release_that_does_not_pass_its_check_leaves_no_virtualenv(place: Place) -> None:
    """The fault may be a version that the requirements leave open."""
    place.check("raise SystemExit(1)")
    with pytest.raises(BuildError, match="without an answer"):
        build(place.wanted())
    assert virtualenvs(place) == []
    place.check(CHECK)
    build(place.wanted())
    place.check("raise SystemExit(1)")
    with pytest.raises(BuildError, match="without an answer"):
        build(place.wanted("r2", {"app.py": "x = 2\n", "requirements.txt": ""}))
    # Another release uses it.
    assert len(virtualenvs(place)) == 1


def test_root_creates_nothing_that_the_user_could_replace(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between creating a directory and giving it away, the user could replace it with a link to another."""
    given: list[Path] = []

    def chown(path: Path, *_: Any, **__: Any) -> None:
        given.append(Path(path))

    monkeypatch.setattr(virtualenv.os, "chown", chown)
    # The test's build continues as far as it can.
    with suppress(BuildError, OSError):
        build(place.wanted(local=True, index={"url": "https://a/simple"}))
    users = {path for path in given if path.is_absolute()}
    assert users
    for path in users:
        assert not any(above in users for above in path.parents), path


def test_a_virtualenv_that_was_never_finished_is_made_again(place: Place) -> None:
    wanted = place.wanted()
    half = place.root / "virtualenvs" / wanted.virtualenv / "bin"
    half.mkdir(parents=True)
    (half / "left").touch()
    half.parents[1].chmod(0o755)
    build(wanted)
    assert not (half / "left").exists()
    assert virtualenvs(place) == [wanted.virtualenv]


def test_packages_that_can_not_be_installed_leave_no_virtualenv(place: Place) -> None:
    with pytest.raises(BuildError):
        build(place.wanted(files={"requirements.txt": "nothing-of-the-kind"}))
    assert virtualenvs(place) == []


def test_a_host_passes_its_packages_to_another(place: Place, tmp_path: Path) -> None:
    line = wheel(tmp_path)
    handed = tmp_path / "handed.tar"
    files = {"app.py": "x = 1\n", "requirements.txt": line}
    build(place.wanted(python=PYTHON, files=files, hand_over=str(handed)))
    assert handed.stat().st_mode & 0o777 == 0o600
    assert names_in(handed) == ["small-1.0-py3-none-any.whl"]
    digest = line.rpartition(":")[2].strip()
    packages = [{"name": "small", "version": "1.0", "sha256": digest}]
    assert place.note()["packages"] == packages
    # The other host has no index.
    (tmp_path / "small-1.0-py3-none-any.whl").unlink()
    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "other").chmod(0o755)
    other = Place(tmp_path / "other", PYTHON)
    build(other.wanted(files=files, wheels=str(handed), app=""))
    assert other.note()["packages"] == packages
    (made,) = (other.root / "virtualenvs").iterdir()
    assert list(made.glob("lib/python3*/site-packages/small/__init__.py"))
    assert not (made / "wheels").exists()


@pytest.mark.parametrize("user", ["root", USER.pw_name])
def test_root_installs_no_package_that_another_host_has_replaced(
    place: Place, tmp_path: Path, user: str
) -> None:
    digest = wheel(tmp_path).rpartition("--hash=")[2].strip()
    handed, package = tmp_path / "handed.tar", tmp_path / "small-1.0-py3-none-any.whl"
    right = package.read_bytes()
    wheel(tmp_path, code="evil = 1\n")
    replaced = package.read_bytes()
    files = {"app.py": "x = 1\n", "requirements.txt": f"small==1.0 --hash={digest}\n"}
    wanted = place.wanted(python=PYTHON, files=files, wheels=str(handed), app="")
    for content in (replaced, right):
        package.write_bytes(content)
        with tarfile.open(handed, "w") as opened:
            opened.add(package, package.name)
        if content == replaced and user == "root":
            with pytest.raises(BuildError, match="DO NOT MATCH THE HASHES"):
                build(replace(wanted, user=user))
            assert place.releases() == []
        else:
            build(replace(wanted, user=user))
    (code_of,) = (place.root / "virtualenvs").glob("*/lib/python3*/site-packages/small/__init__.py")
    assert (code_of.read_text() == "x = 1\n") == (user == "root")


def test_root_unpacks_no_file_that_other_users_could_use(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive is from another host or a wheelhouse, and pip has not compared any hash yet."""
    handed, seen = tmp_path / "handed.tar", list[os.stat_result]()
    with tarfile.open(handed, "w") as opened:
        program = tarfile.TarInfo("program")
        program.mode, program.uid, program.gid = 0o6777, USER.pw_uid, USER.pw_gid
        opened.addfile(program)

    def install(_build: Build, _pip: list[str], wheels: Path, *_: Any) -> None:
        seen.extend(path.stat() for path in (wheels / "program", wheels.parent))

    monkeypatch.setattr(virtualenv, "_install", install)
    build(replace(place.wanted(wheels=str(handed), app=""), user="root"))
    unpacked, directory = seen
    assert (unpacked.st_mode & 0o7777, unpacked.st_uid) == (0o755, os.geteuid())
    assert directory.st_mode & 0o077 == 0


def test_build_packages_are_installed_while_wheels_are_made(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[dict[str, Any]]
) -> None:
    handed, during = tmp_path / "handed.tar", []

    @contextmanager
    def installed(names: list[str], _limit: Limit) -> Iterator[None]:
        before = len(ran)
        yield
        during.append((names, ["wheel" in each["command"] for each in ran[before:]]))

    monkeypatch.setattr(virtualenv, "installed", installed)
    build(place.wanted(build_packages=["gcc"], hand_over=str(handed)))
    assert during == [(["gcc"], [True])]
    # Another host installs these wheels.
    other = place.wanted("r2", {"app.py": "", "requirements.txt": "# two\n"})
    build(Build(**{**vars(other), "build_packages": ["gcc"], "wheels": str(handed)}))
    assert len(during) == 1


def test_each_build_removes_the_debian_packages_of_a_killed_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_build, "clean_up", lambda _limit: ["apt is broken"])
    assert build(place.wanted()) == ["apt is broken"]


def test_wheels_are_made_without_a_release(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots: list[str] = []

    def kept_from_others(wanted: Build, warnings: list[str]) -> Any:
        roots.append(wanted.root)
        top = os.stat(wanted.root)
        assert (top.st_uid, top.st_gid) == (os.geteuid(), USER.pw_gid)
        assert stat.S_IMODE(top.st_mode) == 0o750
        return build_one(wanted, warnings)

    build_one = release_build._build
    monkeypatch.setattr(release_build, "_build", kept_from_others)
    handed = tmp_path / "handed.tar"
    files = {"requirements.txt": wheel(tmp_path)}
    make_wheels(place.wanted(python=PYTHON, files=files, hand_over=str(handed)))
    assert names_in(handed) == ["small-1.0-py3-none-any.whl"]
    assert place.releases() == []
    assert not (place.root / "virtualenvs").exists()
    (root,) = roots
    assert not Path(root).exists()


def test_a_new_host_has_venv_only_while_wheels_are_made(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    @contextmanager
    def installed(names: list[str], _limit: Limit) -> Iterator[None]:
        asked.append(names)
        yield

    monkeypatch.setattr(release_build, "installed", installed)
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\n[ "$2" != "import ensurepip" ] && exec {PYTHON} "$@"\n')
    python.chmod(0o755)
    wanted = place.wanted(python=str(python), hand_over=str(tmp_path / "one.tar"))
    make_wheels(wanted)
    make_wheels(replace(wanted, python=PYTHON, hand_over=str(tmp_path / "two.tar")))
    assert asked == [["python3-venv"], []]


def test_without_requirements_an_empty_archive_is_passed_on(place: Place, tmp_path: Path) -> None:
    handed = tmp_path / "handed.tar"
    build(place.wanted(hand_over=str(handed)))
    assert names_in(handed) == []
    other_place = place.wanted("r2", {"app.py": "", "requirements.txt": "# two\n"})
    build(Build(**{**vars(other_place), "wheels": str(handed)}))
    assert place.note("r2")["packages"] == []


def test_a_link_among_the_wheels_is_not_passed_on(place: Place, tmp_path: Path) -> None:
    """What a package builds belongs to the application's user, and root writes the archive."""
    secret, handed, made = (tmp_path / name for name in ("secret", "handed.tar", "wheels"))
    secret.write_text("root's")
    secret.chmod(0o600)
    made.mkdir()
    made.chmod(0o755)
    (made / "a-1-py3-none-any.whl").symlink_to(secret)
    virtualenv._hand_over(place.wanted(hand_over=str(handed)), made, Limit(20), USER)
    with tarfile.open(handed) as opened:
        assert [member.issym() for member in opened] == [True]
    give = made / "b-1-py3-none-any.whl"
    give.write_bytes(b"b")
    found = virtualenv._packages(made)
    assert [package["name"] for package in found] == ["b"]


def test_the_archive_is_given_away_even_if_its_name_leads_elsewhere_by_then(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory belongs to the user who logs in, who may replace the name while tar runs."""
    handed, made, roots = (tmp_path / name for name in ("handed.tar", "wheels", "root's"))
    made.mkdir()
    roots.touch()
    pack, given = virtualenv.run, []

    def replaced(*args: Any, **options: Any) -> Any:
        done = pack(*args, **options)
        handed.rename(tmp_path / "archive")
        handed.symlink_to(roots)
        return done

    def note(target: int | Path, *_: int) -> None:
        given.append(Path(f"/dev/fd/{target}" if isinstance(target, int) else target).resolve())

    monkeypatch.setattr(virtualenv, "run", replaced)
    monkeypatch.setattr(os, "chown", note)
    monkeypatch.setattr(os, "fchown", note)
    virtualenv._hand_over(place.wanted(hand_over=str(handed)), made, Limit(20), USER)
    assert given == [tmp_path / "archive"]


def test_a_project_of_the_source_is_built_in_a_copy(place: Place, tmp_path: Path) -> None:
    """Building writes next to the code, and the release's code belongs to root before any package's code runs."""
    files = setup_py("open('written', 'w').close()")
    build(place.wanted(files=files, local=True))
    assert not (place.root / "releases/r1/source/written").exists()
    (made,) = (place.root / "virtualenvs").iterdir()
    assert not (made / "source").exists()


# --- what a package may do while it is installed ---------------------------------------------------------


def setup_py(*lines: str) -> dict[str, str]:
    """Return a source whose only requirement runs these lines while it is installed."""
    return {"app.py": "x = 1\n", "requirements.txt": "\n".join(["# setup.py", *lines, ""])}


def test_all_of_a_build_runs_as_the_applications_user(
    place: Place, ran: list[dict[str, Any]]
) -> None:
    build(place.wanted())
    words = [" ".join(map(str, each["command"])) for each in ran]
    parts = (
        "tar ",
        "/source",
        "-m venv",
        " wheel ",
        "site-packages",
        "celery_fleet.release.check",
    )
    assert all(any(part in text for text in words) for part in parts), words
    assert {each.get("user") for each in ran} == {USER.pw_uid}
    assert {each.get("group") for each in ran} == {USER.pw_gid}
    assert all(each.get("extra_groups") == [] for each in ran)


def test_no_process_of_a_build_outlives_it(place: Place) -> None:
    """It could go on writing to a file that it has open when root owns that file."""
    files = setup_py(
        "import subprocess",
        "null = subprocess.DEVNULL",
        "streams = {'stdin': null, 'stdout': null, 'stderr': null}",
        "left = subprocess.Popen(['sleep', '300'], start_new_session=True, **streams)",
        "(packages / 'process').write_text(str(left.pid))",
    )
    build(place.wanted(files=files))
    (path,) = place.root.glob("virtualenvs/*/lib/python3*/site-packages/process")
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


def test_other_children_of_a_builds_process_go_on(place: Place) -> None:
    with subprocess.Popen(["sleep", "300"]) as other:
        build(place.wanted())
        assert other.poll() is None
        other.kill()


def test_the_application_can_write_to_nothing_in_a_release(place: Place) -> None:
    files = setup_py(
        "wide = packages / 'wide'",
        "wide.mkdir()",
        "(wide / 'module.py').touch()",
        "(wide / 'program').touch()",
        "(wide / 'link').symlink_to('module.py')",
        "(wide / 'module.py').chmod(0o666)",
        "(wide / 'program').chmod(0o4777)",
        "wide.chmod(0o2777)",
        "packages.chmod(0o777)",
    )
    build(place.wanted(files=files))
    release = place.root / "releases/r1"
    (wide,) = release.glob("venv/lib/python3*/site-packages/wide")
    modes = {path.name: path.lstat().st_mode & 0o7777 for path in (wide, *wide.iterdir())}
    assert modes == {
        "wide": 0o755,
        "module.py": 0o644,
        "program": 0o755,
        "link": 0o777,
        "__pycache__": 0o755,
    }
    for path in (release, *release.rglob("*")):
        status = path.lstat()
        assert status.st_uid == os.geteuid(), path
        assert path.is_symlink() or status.st_mode & 0o022 == 0, path


@pytest.fixture
def stdlib(tmp_path: Path) -> Path:
    """The directory where root's interpreter would look for compiled code."""
    path = tmp_path / "stdlib/__pycache__"
    path.mkdir(parents=True)
    path.parent.chmod(0o755)
    path.chmod(0o555)
    return path


def test_a_package_that_redirects_compiled_code_is_refused(place: Place, stdlib: Path) -> None:
    files = setup_py(
        "(packages / 'a').mkdir()",
        "(packages / 'a/victim.py').touch()",
        f"(packages / 'a/__pycache__').symlink_to({str(stdlib)!r})",
    )
    with pytest.raises(BuildError) as caught:
        build(place.wanted(files=files))
    assert re.search(
        rf"(?m)^  lib/python3[^/]*/site-packages/a/__pycache__ -> {stdlib}$", str(caught.value)
    )
    assert "take it out of the requirements" in str(caught.value)
    assert list(stdlib.iterdir()) == []
    assert place.releases() == []


def test_a_source_that_redirects_compiled_code_writes_nothing_there(
    place: Place, stdlib: Path
) -> None:
    with suppress(BuildError):
        build(place.wanted(links={"__pycache__": str(stdlib)}))
    assert list(stdlib.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("(packages / 'far').symlink_to('/etc/passwd')", "/far -> /etc/passwd"),
        ("(packages / 'gone').symlink_to('/nowhere')", "/gone -> /nowhere"),
        # Its text is inside the virtualenv, but another link leads out of it.
        (
            "(packages / 'a').symlink_to('../../..'); (packages / 'c').symlink_to('a/../x')",
            "/c -> a/../x",
        ),
        (
            "python = packages.parents[2] / 'bin/python3'; python.unlink(); python.symlink_to('/bin/sh')",
            "bin/python3 -> /bin/sh",
        ),
    ],
    ids=["file", "nowhere", "by another link", "interpreter"],
)
def test_links_that_lead_out_of_the_virtualenv_are_refused(
    place: Place, line: str, shown: str
) -> None:
    with pytest.raises(BuildError, match="links that lead out of the virtualenv") as caught:
        build(place.wanted(files=setup_py(line)))
    assert shown in str(caught.value)
    assert place.releases() == []


def test_links_within_the_virtualenv_stay(place: Place) -> None:
    files = setup_py("(packages / 'b').symlink_to('pip')", "(packages / 'c').symlink_to('c')")
    build(place.wanted(files=files))
    (packages,) = (place.root / "releases/r1/venv/lib").glob("python3*/site-packages")
    assert [os.readlink(packages / name) for name in "bc"] == ["pip", "c"]


def test_another_python_has_its_own_pip(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "bundled"
    ours.mkdir()
    (ours / "pip-1.0-py3-none-any.whl").touch()
    python = tmp_path / "own-python"
    python.write_text(f"#!/bin/sh\necho {ours}\n")
    python.chmod(0o755)
    wanted = place.wanted(python=str(python))
    assert pip_of.pip_wheel(wanted, USER) == str(ours / "pip-1.0-py3-none-any.whl")
    python.write_text("#!/bin/sh\nexit 1\n")
    assert pip_of.pip_wheel(wanted, USER) == ""


def test_a_release_that_does_not_suit_the_inventory_leaves_nothing(place: Place) -> None:
    demands = {"schedule": {"e": {"task": "app.none", "interval": 5}}}
    with pytest.raises(BuildError) as caught:
        build(place.wanted(demands=demands))
    assert "does not pass its check:\ncelery_beat_schedule.e: release r1 has no task" in str(
        caught.value
    )
    assert place.releases() == []


def test_the_users_of_the_host_can_read_it(place: Place) -> None:
    build(place.wanted())
    for path in (place.root / "releases/r1").rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o044 == 0o044, path


def test_code_below_the_source(place: Place) -> None:
    files = {"back/app.py": "", "back/requirements/prod.txt": ""}
    build(place.wanted(files=files, directory="./back", requirements="requirements/prod.txt"))
    assert place.note()["directory"] == "source/back"
    assert json.loads(place.seen.read_text())["cwd"].endswith("/source/back")


def test_without_an_application_nothing_is_checked(place: Place) -> None:
    place.check("raise SystemExit(1)")
    build(place.wanted(app=""))
    assert place.note()["tasks"] == []


def test_a_finished_release_is_not_built_again(place: Place) -> None:
    build(place.wanted())
    before = (place.root / "releases/r1/release.json").stat()
    place.check("raise SystemExit(1)")
    build(place.wanted())
    assert (place.root / "releases/r1/release.json").stat().st_mtime_ns == before.st_mtime_ns


def test_a_release_for_the_hosts_previous_python_is_built_again(place: Place) -> None:
    build(place.wanted())
    venv = place.root / "releases/r1/venv"
    (packages,) = venv.glob("lib/python3.*")
    packages.rename(packages.with_name("python3.1"))
    old = place.root / "python3.1"
    shutil.copy("/usr/bin/cat", old)
    with runs_in(place.root, str(old)) as process, pytest.raises(BuildError) as caught:
        build(place.wanted())
    assert re.search(
        rf"still run from it: {process}\. Restart the host, or stop", str(caught.value)
    )
    assert (venv / "lib/python3.1").is_dir()
    # Processes of the new Python end by themselves, and a user's shell is not ours.
    new = str(venv / "bin/python")
    with runs_in(place.root, new, "-c", "input()"), runs_in(place.root, "/usr/bin/cat"):
        build(place.wanted())
    assert [path.name for path in venv.glob("lib/python3.*")] == [packages.name]


@contextmanager
def runs_in(root: Path, *command: str) -> Iterator[int]:
    """A process that runs in the code of r1 until it reads a line; its ID."""
    where = root / "releases/r1/source"
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=where) as process:
        yield process.pid
        process.communicate(b"\n", timeout=20)


def test_files_of_an_interrupted_build_are_removed(place: Place) -> None:
    half = place.root / "releases/r1"
    (half / "venv/bin").mkdir(parents=True)
    (half / "venv/bin/python").write_text("half")
    (half / ".release.json").write_text("{}")
    build(place.wanted())
    assert place.note()["id"] == "r1"
    assert sorted(path.name for path in half.iterdir()) == ["release.json", "source", "venv"]


BROKEN = 'print(\'{"ok": false, "errors": ["app: no module named x"], "details": "Traceback\\\\nline"}\')'


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (BROKEN, ["does not pass its check:", "\napp: no module named x\n", "  Traceback\n  line"]),
        ("import sys; sys.exit('boom')", ["ended without an answer (exit status 1)", "  boom"]),
        ("print('not JSON')", ["ended without an answer (exit status 0)", "  not JSON"]),
        ("", ["ended without an answer (exit status 0)"]),
    ],
)
def test_a_check_that_fails_leaves_nothing(place: Place, check: str, words: list[str]) -> None:
    place.check(check)
    with pytest.raises(BuildError) as caught:
        build(place.wanted())
    for word in words:
        assert word in str(caught.value)
    assert place.releases() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": {"app.py": ""}}, r"the source has no \./requirements.txt \(celery_app_source"),
        (
            {"files": {"requirements.txt": "nothing-of-the-kind"}},
            "installing the requirements failed",
        ),
        (
            {"python": "/nowhere/python3"},
            "compiling the source: /nowhere/python3 is not on this host",
        ),
    ],
)
def test_a_build_that_fails_leaves_nothing(
    place: Place, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(BuildError, match=words):
        build(place.wanted(**change))
    assert place.releases() == []


def test_a_file_that_can_not_be_compiled_is_a_warning(place: Place) -> None:
    broken = {"legacy/old.py": "print 'x'\n", "scaffold/{{ name }}.py": "def {{ name }}\n"}
    warnings = build(place.wanted(files={"app.py": "x = 1\n", "requirements.txt": "", **broken}))
    assert len(warnings) == 1
    assert "can't compile: legacy/old.py, scaffold/{{ name }}.py. " in warnings[0]
    assert place.releases() == ["r1"]
    assert build(place.wanted()) == []


def test_the_log_of_a_failed_installation_outlives_the_next_build(place: Place) -> None:
    """Neither that build nor its pruning takes it for a release."""
    with pytest.raises(BuildError, match="installing the requirements failed"):
        build(place.wanted(files=setup_py("sys.exit('no')")))
    build(place.wanted(keep=0))
    assert (place.root / "releases" / release_build.LOG).is_file()


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "Collecting psycopg2\nerror: subprocess-exited-with-error\nError: pg_config executable not found.",
            [
                "The package is psycopg2.",
                "libpq-dev",
                "celery_release_build_packages",
                "celery_runtime_packages",
            ],
        ),
        (
            (
                "Collecting a\nCollecting uwsgi==2.0\nerror: command 'x86_64-linux-gnu-gcc' failed: No such file or "
                "directory\nERROR: Failed building wheel for uwsgi\nERROR: Could not build wheels"
            ),
            [
                "The package is uwsgi.",
                "a compiler",
                "build-essential",
                "celery_release_build_packages",
            ],
        ),
        (
            "src/a.c:3:10: fatal error: Python.h: No such file or directory\nFailed building wheel for a",
            ["Python's headers", "python3-dev"],
        ),
        pytest.param(
            "src/a.c:3:10: fatal error: ldap.h: No such file or directory\nFailed building wheel for a",
            ["Probably missing: ldap.h.", "celery_release_build_packages"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "ERROR: No matching distribution found for shop-utils==1.2",
            ["The package is shop-utils==1.2.", "celery_release_python"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                "Failed to establish a new connection: [Errno 111] Connection refused'))\n"
                "ERROR: No matching distribution found for celery==5.5"
            ),
            ["a way to the package index", "celery_app_package_index"],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                "Cannot connect to proxy.', OSError('Tunnel connection failed: 500 Unable to connect')\n"
                "ERROR: No matching distribution found for celery==5.5"
            ),
            ["a way to the package index", "celery_app_package_index"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_failed_installation_names_package_cause_and_log(
    place: Place, output: str, words: list[str]
) -> None:
    with pytest.raises(BuildError, match="installing the requirements failed") as caught:
        build(place.wanted(files=setup_py(f"sys.exit({output!r})")))
    for word in words:
        assert word in str(caught.value)
    log = place.root / "releases" / release_build.LOG
    assert f"The whole output is in {log} on this host." in str(caught.value)
    assert output in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_an_interpreter_that_units_cannot_see_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(sandbox.hidden_by_sandbox(place) for place in virtualenv._HIDDEN)
    assert set(virtualenv._HIDDEN) == {one for places in sandbox._HIDDEN.values() for one in places}
    monkeypatch.setattr(virtualenv, "_HIDDEN", (*virtualenv._HIDDEN, "/usr/bin"))
    with pytest.raises(BuildError, match=r"leads to /usr/bin/python3\.\d+, which .* ProtectHome="):
        build(place.wanted())
    assert place.releases() == []


def test_a_malformed_archive_is_refused(place: Place) -> None:
    wanted = place.wanted()
    Path(wanted.archive).write_text("no archive")
    with pytest.raises(BuildError, match="unpacking the source failed"):
        build(wanted)
    assert place.releases() == []


def test_a_build_that_takes_too_long_is_stopped(place: Place, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    with pytest.raises(BuildError, match="source took more than 1 s; raise celery_release_timeout"):
        build(place.wanted(python=str(slow), timeout=0.1))
    assert place.releases() == []


def test_an_import_that_takes_too_long_is_stopped(place: Place) -> None:
    place.check("import time; time.sleep(30)")
    words = r"1 s \(celery_release_import_timeout\): .* in tasks, not during"
    with pytest.raises(BuildError, match=f"importing app took more than {words}"):
        build(place.wanted(import_timeout=1))
    assert place.releases() == []


def test_compiling_that_takes_too_long_is_stopped(place: Place) -> None:
    words = "compiling the source took more than 0 s; raise celery_release_compile_timeout"
    with pytest.raises(BuildError, match=words):
        build(place.wanted(compile_timeout=0.001))
    assert place.releases() == []


def test_the_timeout_applies_to_every_documented_step(
    place: Place, ran: list[dict[str, Any]]
) -> None:
    """Otherwise the remedy `raise celery_release_timeout` would have no effect."""
    build(place.wanted(timeout=5000, compile_timeout=6000))
    other = ("import ensurepip", "celery_fleet.release.check")
    bounds = {
        str(each["command"]): each["timeout"]
        for each in ran
        if not any(part in str(each["command"]) for part in other)
    }
    assert len(bounds) == 7
    assert all(4000 < bound <= 5000 for bound in bounds.values()), bounds


def test_an_unknown_user_is_an_error(place: Place) -> None:
    wanted = place.wanted()
    unknown = Build(**{**vars(wanted), "user": "no-such-user"})
    with pytest.raises(BuildError, match="there is no user no-such-user on this host"):
        build(unknown)
    assert place.releases() == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A virtualenv, and a tree outside of it; all users can write to both."""
    for name in ("outside/shadow", "venv/bin/python", "venv/lib/a.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.chmod(0o666)
    return tmp_path


def test_no_link_on_the_way_is_followed_when_a_tree_is_given_to_root(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that a package left behind replaces a directory with a link to elsewhere."""
    given: list[Path] = []

    def chown(path: Path | str, uid: int, gid: int, **options: Any) -> None:
        handle = options["dir_fd"]
        base = tree if handle is None else Path(os.readlink(f"/proc/self/fd/{handle}"))
        given.append((base / path).relative_to(tree))
        assert (uid, gid, options["follow_symlinks"]) == (0, 0, False)
        if path == "python":
            lib = tree / "venv/lib"
            lib.rename(tree / "lib")
            lib.symlink_to(tree / "outside")

    monkeypatch.setattr(os, "chown", chown)
    # The directory that is entered last is the one that goes.
    walk = os.fwalk
    monkeypatch.setattr(os, "fwalk", lambda *a, **k: _sorted(walk(*a, **k)))
    ownership.give_to_root(tree / "venv")
    assert {str(path) for path in given} == {
        *("venv", "venv/bin", "venv/lib", "venv/bin/python"),
    }
    assert (tree / "outside/shadow").stat().st_mode & 0o777 == 0o666


def test_files_that_appear_while_a_tree_is_given_to_root_are_given_as_well(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that a package left behind adds files for as long as it owns a directory."""
    stat = os.stat

    def late(path: Any, **options: Any) -> os.stat_result:
        if str(path) == "lib" and not (tree / "venv/lib/late").exists():
            (tree / "venv/lib/late").touch()
            (tree / "venv/lib/late").chmod(0o666)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", late)
    ownership.give_to_root(tree / "venv")
    assert (tree / "venv/lib/late").stat().st_mode & 0o777 == 0o644


def _sorted(walk: Iterator[Any]) -> Iterator[Any]:
    for base, directories, names, handle in walk:
        directories.sort()
        yield base, directories, names, handle


# --- what may go -------------------------------------------------------------------------------------


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """Releases r1 (oldest) to r6, and one that was never finished."""
    for number in range(1, 7):
        path = tmp_path / "releases" / f"r{number}"
        path.mkdir(parents=True)
        (path / "release.json").write_text("{}")
        os.utime(path / "release.json", (number, number))
    (tmp_path / "releases/half").mkdir()
    (tmp_path / "pins").mkdir()
    return tmp_path


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "releases").iterdir())


def test_the_newest_stay(six: Path) -> None:
    assert sorted(prune(six, 2)) == ["half", "r1", "r2", "r3", "r4"]
    assert left(six) == ["r5", "r6"]


def test_unfinished_releases_are_removed(six: Path) -> None:
    """They are left by interrupted builds and removals, and nothing else would remove them."""
    for name in ("about-to-be-used", "in-use"):
        (six / "releases" / name).mkdir()
    (six / "pins/beat").symlink_to("../releases/in-use")
    assert prune(six, 6, spared="about-to-be-used") == ["half"]
    assert left(six) == ["about-to-be-used", "in-use", "r1", "r2", "r3", "r4", "r5", "r6"]


def test_releases_in_use_are_kept(six: Path) -> None:
    (six / "current").symlink_to("releases/r1")
    (six / "pins/worker-a").symlink_to("../releases/r2")
    (six / "pins/beat").symlink_to("../releases/gone")
    (six / "pins/file").touch()
    prune(six, 1)
    assert left(six) == ["r1", "r2", "r6"]
    prune(six, 0, spared="r6")
    assert left(six) == ["r1", "r2", "r6"]
    prune(six, 0)
    assert left(six) == ["r1", "r2"]


def test_a_release_in_which_a_process_runs_is_kept(six: Path) -> None:
    """Such as a migration: its run was killed, and the next one, which builds another release, waits for its end."""
    (six / "releases/r1/source").mkdir()
    with runs_in(six, "/usr/bin/cat"):
        prune(six, 0)
        assert left(six) == ["r1"]
    prune(six, 0)
    assert left(six) == []


@pytest.mark.parametrize("linked", [".", "releases", "virtualenvs"])
def test_nothing_is_deleted_behind_a_link(six: Path, linked: str) -> None:
    """The application's user may own a parent of these directories, and so replace them."""
    root = six / "shop"
    for name in ("releases", "virtualenvs"):
        (root / name).mkdir(parents=True)
    place = root / linked
    shutil.rmtree(place)
    place.symlink_to(six if linked == "." else six / "releases")
    with pytest.raises(BuildError, match=f"{place} is a link or does not belong to root"):
        prune(root, 0)
    assert left(six) == ["half", "r1", "r2", "r3", "r4", "r5", "r6"]


@pytest.mark.parametrize("prune", [lambda root: prune(root, 0), virtualenv.prune_virtualenvs])
def test_nothing_is_deleted_in_a_directory_of_another_user(
    six: Path, monkeypatch: pytest.MonkeyPatch, prune: Callable[[Path], object]
) -> None:
    """Its owner may have put links to releases of other applications into it."""
    (six / "virtualenvs/unused").mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: six.stat().st_uid + 1)
    with pytest.raises(BuildError, match=f"{six} is a link or does not belong to root"):
        prune(six)
    assert (six / "virtualenvs/unused").is_dir()
    assert left(six) == ["half", "r1", "r2", "r3", "r4", "r5", "r6"]


def test_a_build_keeps_its_own_release_that_no_link_points_to_yet(place: Place) -> None:
    for identity in ("r1", "r2", "r3"):
        build(place.wanted(identity, keep=0))
    assert place.releases() == ["r3"]


def test_an_interrupted_removal_leaves_no_release(
    six: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fail)
        with pytest.raises(OSError, match="killed"):
            prune(six, 5)
    assert not (six / "releases/r1/release.json").exists()
