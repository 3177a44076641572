"""Rules for the whole repository, checked by reading its files."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

# The address on pages until the project has its own.
PLACEHOLDER = "https://git.example.com/platform/celery-fleet"

# If an application's name were here, the project would depend on one of its users.
NEUTRAL = ("roles/", "plugins/", "src/", "templates/", "playbooks/")


class Loader(yaml.CSafeLoader):
    """Reads Ansible's YAML; tags such as !vault and !unsafe give their plain value."""


def _plain(loader: Loader, suffix: str, node: yaml.Node) -> Any:
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


Loader.add_multi_constructor("!", _plain)


@cache
def files() -> tuple[str, ...]:
    """Return every file that is in git, or about to be."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = tuple(name for name in listing.stdout.splitlines() if (ROOT / name).is_file())
    assert found, "git lists no files"
    return found


@cache
def text(name: str) -> str:
    """Return a file's text; an empty string if it is not text."""
    try:
        return (ROOT / name).read_text()
    except UnicodeDecodeError:
        return ""


def load(path: Path) -> Any:
    """Return a YAML file's content."""
    return yaml.load(path.read_text(), Loader)  # noqa: S506 - a SafeLoader that knows Ansible's tags


def hits(pattern: str, names: list[str]) -> list[str]:
    """Return the places where a pattern is found, as FILE:LINE: TEXT."""
    found = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()}"
        for name in names
        for number, line in enumerate(text(name).splitlines(), 1)
        if found.search(line)
    ]


def names_under(*prefixes: str) -> list[str]:
    """Return the files below some directories."""
    return [name for name in files() if name.startswith(prefixes)]


def others() -> list[str]:
    """Return all files except this one, which has to name what it forbids, and users' applications."""
    here = str(Path(__file__).relative_to(ROOT))
    return [name for name in files() if name != here and not name.startswith("examples/")]


def roles() -> list[Path]:
    """Return the directories of the roles."""
    return sorted(path for path in (ROOT / "roles").glob("*") if path.is_dir())


def playbooks() -> list[Path]:
    """Return every playbook that `ansible-playbook` is called with."""
    candidates = [ROOT / "site.yml", *(ROOT / "playbooks").glob("*.yml")]
    molecule = [
        path
        for path in (ROOT / "molecule").glob("*/*.yml")
        if path.stem in ("create", "prepare", "converge", "side_effect", "cleanup", "destroy")
    ]
    return sorted(path for path in [*candidates, *molecule] if path.exists())


# --- nothing of one application, one machine ---------------------------------------------------------


def test_no_application_is_known_by_name() -> None:
    applications = [path.parent.name for path in (ROOT / "examples").glob("*/README.md")]
    assert applications, "examples/ holds no application to look for"
    assert hits(rf"(?i)({'|'.join(map(re.escape, applications))})", names_under(*NEUTRAL)) == []


def test_pages_and_examples_name_one_address() -> None:
    """This is the address in galaxy.yml, or the placeholder while it has none."""
    address = load(ROOT / "galaxy.yml").get("repository", PLACEHOLDER).removesuffix(".git")
    found = [
        (name, one)
        for name in files()
        if name.startswith(("README.md", "docs/", "examples/automation/"))
        for one in re.findall(r"\S+/celery-fleet\.git", text(name))
    ]
    assert len(found) > 4
    wrong = [one for one in found if one[1].removeprefix("git+") != f"{address}.git"]
    assert wrong == []


def test_no_path_of_one_machine() -> None:
    places = [
        rf"{re.escape(str(ROOT))}/",
        r"/root/",
        r"/home/(?!admin\b)\w",
        r"/Users/",
        r"file:///",
    ]
    assert hits("|".join(places), others()) == []


def test_no_package_mirror() -> None:
    lines = hits(
        # Addresses for documentation and tests belong to no real host.
        r"(https?://(?!(packages\.)?example\.org|pypi\.org|services1/|localhost|[abc][:/])\S+/(simple|debian|debian-security)\b"
        r"|--find-links[= ]+\w+:/|index-url\s*=(?!\s*(\{|https://a/|\\n|\"|$)))",
        others(),
    )
    assert lines == []


def test_locks_name_versions_and_hashes_only() -> None:
    # An example's lock comes from its author.
    locks = [name for name in others() if re.search(r"requirements[^/]*(/[^/]+)?\.txt$", name)]
    assert "requirements/dev.txt" in locks
    # Options that say whether packages may be built are allowed.
    assert hits(r"https?:|file:|^-(?!-only-binary )", locks) == []
    for name in locks:
        pins = re.findall(r"^[A-Za-z0-9]\S*", text(name), re.MULTILINE)
        assert pins, name
        assert [pin for pin in pins if "==" not in pin] == [], name
        assert text(name).count("--hash=sha256:") >= len(pins), name


def test_no_private_key() -> None:
    assert hits(r"-----BEGIN [A-Z ]*PRIVATE KEY-----", list(files())) == []


# --- no silenced failures -----------------------------------------------------------------


def test_marks_of_kinds_are_in_files_that_have_the_tests() -> None:
    """scripts/check.sh passes only such files to pytest when it runs slow or long tests."""
    marked = [
        name
        for name in files()
        if name.startswith("tests/") and re.search(r"mark\.(slow|long|soak)\b", text(name))
    ]
    assert marked
    found = {Path(name).name for name in marked if not Path(name).name.startswith("test_")}
    assert found <= {"conftest.py"}


def test_no_failure_is_swallowed() -> None:
    forbidden = [
        r"\|\| *(true|:)(\s|$|[;)&|'\"])",
        r"\bignore_errors: *(true|yes)",
        r"ignore_unreachable: *true",
    ]
    assert hits("|".join(forbidden), others()) == []


def test_no_check_is_silenced_without_a_reason() -> None:
    silent = [
        r"# type: ignore(?!\[[\w, -]+\]  ?#? ?\S)",  # names the error, then a reason
        r"# noqa(?!: ([A-Z0-9, ]+|[a-z-]+\[[a-z-]+\]) ?(-|#|\() ?\S)",  # names of ruff and ansible-lint
        r"yamllint disable(?!-line rule:\S+)",
        r"#\s*(TODO|FIXME|XXX)\b",
        r"^\s*skip_list:|^\s*warn_list:",
    ]
    assert hits("|".join(silent), others()) == []


# --- roles -------------------------------------------------------------------------------------------


def options_of(role: Path) -> dict[str, dict[str, Any]]:
    """Return the documented options of a role's entry point `main`, or of its only one."""
    specs = load(role / "meta" / "argument_specs.yml")["argument_specs"]
    options: dict[str, dict[str, Any]] = (specs.get("main") or next(iter(specs.values()))).get(
        "options"
    ) or {}
    return options


def defaults_of(role: Path) -> set[str]:
    """Return the names in a role's defaults, without the internal ones."""
    path = role / "defaults" / "main.yml"
    content: dict[str, Any] = (load(path) if path.exists() else None) or {}
    return {name for name in content if not name.startswith("__")}


def undescribed(options: dict[str, dict[str, Any]], prefix: str = "") -> list[str]:
    """Return the options without a description, at any depth."""
    found = []
    for name, option in options.items():
        if not option.get("description"):
            found.append(prefix + name)
        found += undescribed(option.get("options") or {}, f"{prefix}{name}.")
    return found


def test_there_are_roles() -> None:
    assert roles(), "roles/ is empty"


@pytest.mark.parametrize("role", roles(), ids=lambda role: role.name)
class TestRole:
    """Rules for each role."""

    def test_documents_its_variables(self, role: Path) -> None:
        assert (role / "meta" / "argument_specs.yml").exists()

    def test_defaults_and_documentation_agree(self, role: Path) -> None:
        options = options_of(role)
        required = {name for name, option in options.items() if option.get("required")}
        # No default can be a secret. If one is only needed sometimes, preflight asks for it.
        asked = {n for n, option in options.items() if option.get("no_log")} - defaults_of(role)
        optional = set(options) - required - asked
        assert defaults_of(role) == optional, "a default without an option, or the other way round"
        assert not required & defaults_of(role), "required, and yet with a default"

    def test_documented_defaults_are_the_defaults(self, role: Path) -> None:
        path = role / "defaults" / "main.yml"
        defaults = (load(path) if path.exists() else None) or {}
        documented = {n: o["default"] for n, o in options_of(role).items() if "default" in o}
        assert documented == {name: defaults.get(name) for name in documented}

    def test_defaults_are_values(self, role: Path) -> None:
        """An expression that needs several lines belongs into `vars`."""
        path = role / "defaults" / "main.yml"
        text = path.read_text() if path.exists() else ""
        assert re.findall(r"^\w+: *[|>].*$", text, re.MULTILINE) == []

    def test_every_option_has_a_description(self, role: Path) -> None:
        assert undescribed(options_of(role)) == []

    def test_variables_carry_a_role_as_prefix(self, role: Path) -> None:
        # All roles read celery_app's facts, and a role may pass its variables to another. Other prefixes are not
        # allowed.
        prefixes = tuple(f"{other.name}_" for other in roles())
        wrong = [n for n in {*options_of(role), *defaults_of(role)} if not n.startswith(prefixes)]
        assert wrong == []


# --- playbooks ---------------------------------------------------------------------------------------


def plays_without(path: Path, key: str) -> list[str]:
    """Return the plays of a playbook with neither `key` nor a comment that names it."""
    source = path.read_text()
    # A play begins at the left margin; the text before the first belongs to no play.
    parts = re.split(r"^(?=- )", source, flags=re.MULTILINE)[1:]
    found = []
    for play, part in zip(load(path) or [], parts, strict=True):
        imported = any(name.endswith("import_playbook") for name in play)
        if not imported and key not in play and not re.search(rf"#.*\b{key}\b", part):
            found.append(f"{path.relative_to(ROOT)}: {play.get('name', 'a play has no name')}")
    return found


def test_every_play_stops_at_an_error_or_says_why_not() -> None:
    assert playbooks()
    assert [line for path in playbooks() for line in plays_without(path, "any_errors_fatal")] == []


def test_no_variables_beside_playbooks() -> None:
    # They would silently override the inventory's.
    found = names_under(
        "playbooks/group_vars/", "playbooks/host_vars/", "group_vars/", "host_vars/"
    )
    assert found == []


# --- what runs as root --------------------------------------------------------------------------------


def test_python_on_hosts_is_isolated() -> None:
    """Programs that root runs import neither from the working directory nor from a place that the environment names."""
    without_site = hits(r"-SE?\b", names_under("plugins/", "roles/", "src/", "templates/"))
    assert len(without_site) > 20
    assert [
        line for line in without_site if not re.search(r"-S -I\b|\"-S\", \"-I\"|-SI\b", line)
    ] == []


def test_tasks_on_the_control_node_become_no_other_user() -> None:
    """`ansible_become` of an inventory is valid for localhost too, and wins over the keyword `become`."""
    found = []
    for path in (*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/*.yml")):
        for task in _local_tasks(yaml.safe_load(path.read_text())):
            found.append(path)
            assert task.get("vars", {}).get("ansible_become") is False, (path, task["name"])
    assert found


def _local_tasks(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, list):
        for item in document:
            yield from _local_tasks(item)
    elif isinstance(document, dict):
        if document.get("delegate_to") == "localhost":
            yield document
        for value in document.values():
            yield from _local_tasks(value)
