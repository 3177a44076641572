"""Every plugin and role is documented for `ansible-doc`, with the options that it has."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.plugin_docs import read_docstring
from ansible.template import Templar, trust_as_template
from ansible_collections.celery_fleet.core.plugins.filter.fleet import FilterModule
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired import nginx
from ansible_collections.celery_fleet.core.plugins.plugin_utils.pki.wanted import PkiVariables

from tests.collection import replaced

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
COLLECTION = "celery_fleet.core"
IMPORTED = f"ansible_collections.{COLLECTION}.plugins"
# ansible-doc's names for the kinds of plugins that have one plugin in each file.
KINDS = ("callback", "inventory", "lookup", "modules", "vars")
ACTIONS = sorted(path.stem for path in (PLUGINS / "action").glob("*.py"))
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
FILTERS: dict[str, Callable[..., Any]] = FilterModule().filters()
# Functions of filters that pass on further keywords, and the keywords that they don't pass on.
HANDED_ON: dict[str, tuple[Callable[..., Any], set[str]]] = {
    "pki_state": (PkiVariables, {"source"}),
    "nginx_site": (nginx.site, {"password_line"}),
    "nginx_location": (nginx.location, {"password_line"}),
}
# Python's types in a filter's signature, and their names in documentation.
TYPES = {
    **dict.fromkeys(
        ("Mapping", "Facts", "Workers", "BeatSchedule", "RedisServers", "Address"), "dict"
    ),
    "Sequence": "list",
    "Iterable": "list",
    "Literal": "str",
}


def plugins() -> list[Path]:
    """Return every file that has one documented plugin."""
    return sorted(path for kind in KINDS for path in (PLUGINS / kind).glob("*.py"))


@cache
def read(path: Path) -> Mapping[str, Any]:
    """Return the documentation in a file, as Ansible reads it."""
    return read_docstring(str(path), verbose=False, ignore_errors=False)


def doc(path: Path) -> dict[str, Any]:
    return typing.cast("dict[str, Any]", read(path)["doc"])


def descriptions(found: Any) -> Iterator[Any]:
    """Yield every description, including those of suboptions; None for an option without one."""
    for option in (found or {}).values():
        yield option.get("description")
        yield from descriptions(option.get("suboptions") or option.get("contains"))


# --- plugins -----------------------------------------------------------------------------------------


def test_every_action_has_a_page() -> None:
    assert sorted(path.stem for path in (PLUGINS / "modules").glob("*.py")) == ACTIONS


@pytest.mark.parametrize("path", plugins(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_plugin_is_documented(path: Path) -> None:
    found = doc(path)
    assert found.get("name", found.get("module")) == path.stem
    assert found["short_description"]
    assert not found["short_description"].endswith(".")
    assert found["description"]
    assert all(descriptions(found.get("options")))


@pytest.mark.parametrize("name", ACTIONS)
def test_a_modules_examples_and_answers_are_documented(name: str) -> None:
    found = read(PLUGINS / "modules" / f"{name}.py")
    tasks = yaml.safe_load(found["plainexamples"])
    assert f"{COLLECTION}.{name}" in {key for task in tasks for key in task}
    options = set(doc(PLUGINS / "modules" / f"{name}.py")["options"])
    for task in tasks:
        assert set(task.get(f"{COLLECTION}.{name}") or {}) <= options
    answers = found["returndocs"]
    assert answers
    assert all(descriptions(answers))
    assert all(answer["returned"] and answer["type"] for answer in answers.values())


def test_sanity_exceptions_name_existing_files_and_have_a_reason() -> None:
    lines = (ROOT / "tests/sanity/ignore-2.19.txt").read_text().splitlines()
    assert lines == sorted(set(lines))
    found = set()
    for line in lines:
        entry, _, reason = line.partition(" # ")
        path, code = entry.split()
        assert (ROOT / path).is_file(), line
        assert reason, line
        found.add((path, code))
    for plugin in plugins():
        path = plugin.relative_to(ROOT).as_posix()
        assert (path, "validate-modules:missing-gplv3-license") in found


# --- actions and modules -----------------------------------------------------------------------------


def is_args(node: ast.expr) -> bool:
    """Return whether an expression is the task's arguments: `self._task.args`, or a plugin's own name for them."""
    return (isinstance(node, ast.Name) and node.id == "args") or (
        isinstance(node, ast.Attribute) and node.attr in ("args", "_args")
    )


def text(node: ast.expr) -> str | None:
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else None


def arguments(path: Path) -> set[str]:
    """Return the names that an action plugin reads from its task's arguments, or lists in `OPTIONS`."""
    found: set[str | None] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Subscript) and is_args(node.value):
            found.add(text(node.slice))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("get", "pop") and is_args(node.func.value):
                found.add(text(node.args[0]))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OPTIONS":
            found |= set(ast.literal_eval(node.value))
    return {name for name in found if name}


class AskedError(Exception):
    """The module was asked for its arguments; this carries them."""


def spec(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the arguments of the module that an action plugin calls; none if the action plugin does all the work."""
    asked: dict[str, Any] = {}

    def ask(self: AnsibleModule, argument_spec: dict[str, Any], **options: Any) -> None:
        asked.update(argument_spec)
        raise AskedError

    module = importlib.import_module(f"{IMPORTED}.modules.{name}")
    if hasattr(module, "main"):
        monkeypatch.setattr(AnsibleModule, "__init__", ask)
        with pytest.raises(AskedError):
            module.main()
    return asked


@pytest.mark.parametrize("name", ACTIONS)
def test_the_options_are_those_that_the_action_takes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = arguments(PLUGINS / "action" / f"{name}.py")
    module = spec(name, monkeypatch)
    options = doc(PLUGINS / "modules" / f"{name}.py")["options"]
    # The module gets all of a task's arguments, and the action plugin reads some of them.
    assert set(options) == (set(module) or taken)
    assert taken <= set(options)
    for option, told in options.items():
        assert told["type"], option
        assert ("elements" in told) == (told["type"] == "list"), option
        if module:
            assert told["type"] == module[option]["type"]
            assert told.get("required", False) == module[option].get("required", False)
            assert told.get("default") == module[option].get("default")
            assert told.get("choices") == module[option].get("choices")
    action = importlib.import_module(f"{IMPORTED}.action.{name}").ActionModule
    assert action._VALID_ARGS in (frozenset(), frozenset(options))


def tasks(document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names of our actions in a file of a role or playbook, with the options that each gets."""
    if isinstance(document, list):
        for item in document:
            yield from tasks(item)
    elif isinstance(document, dict):
        for key, value in document.items():
            name = str(key).removeprefix(f"{COLLECTION}.")
            if name != key and name in ACTIONS:
                yield name, dict(value or {})
            else:
                yield from tasks(value)


def test_tasks_only_use_documented_options() -> None:
    files = [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/*.yml")]
    found = [(path, *task) for path in files for task in tasks(yaml.safe_load(path.read_text()))]
    assert {name for _, name, _ in found} == set(ACTIONS)
    for path, name, given in found:
        options = doc(PLUGINS / "modules" / f"{name}.py")["options"]
        needed = {option for option, told in options.items() if told.get("required")}
        assert needed <= set(given) <= set(options), (path, name)
        for option, value in given.items():
            choices = options[option].get("choices")
            if choices and isinstance(value, str) and "{{" not in value:
                assert value in choices, (path, name, option)


def test_modules_that_only_document_an_action_have_no_code() -> None:
    """A direct run prints nothing, and so fails; the last test of this file shows that."""
    for name in ACTIONS:
        if hasattr(importlib.import_module(f"{IMPORTED}.modules.{name}"), "main"):
            continue
        body = ast.parse((PLUGINS / "modules" / f"{name}.py").read_text()).body
        kinds = [ast.unparse(node).split()[0] for node in body[1:]]
        assert kinds == ["from", "DOCUMENTATION", "EXAMPLES", "RETURN"], name


# --- filters -----------------------------------------------------------------------------------------


@cache
def page(name: str) -> Mapping[str, Any]:
    text = (PLUGINS / "filter" / f"{name}.yml").read_text()
    return typing.cast("Mapping[str, Any]", yaml.load(text, Loader=yaml.CSafeLoader))


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters, with types instead of their text."""
    found = inspect.signature(function, eval_str=True).parameters
    return {name: one for name, one in found.items() if one.kind is not one.VAR_KEYWORD}


def taken_by(name: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a filter, including those that its function passes on."""
    found = parameters(FILTERS[name])
    if name in HANDED_ON:
        function, own = HANDED_ON[name]
        found |= {
            key: one.replace(kind=one.KEYWORD_ONLY)
            for key, one in parameters(function).items()
            if key not in found and key not in own
        }
    return found


def kind(annotation: Any) -> str:
    """Return the documentation's name of a type; nothing for Any."""
    if annotation in (Any, None):
        return ""
    given = typing.get_args(annotation)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return kind(next(one for one in given if one is not type(None)))
    name = getattr(typing.get_origin(annotation) or annotation, "__name__", str(annotation))
    return TYPES.get(str(name), str(name))


def test_every_filter_has_a_page() -> None:
    assert sorted(FILTERS) == sorted(path.stem for path in (PLUGINS / "filter").glob("*.yml"))


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_is_documented(name: str) -> None:
    found, answer = page(name)["DOCUMENTATION"], page(name)["RETURN"]["_value"]
    assert found["name"] == name
    assert not found["short_description"].endswith(".")
    assert found["description"]
    assert all(descriptions(found["options"]))
    assert answer["description"]
    returned = inspect.signature(FILTERS[name], eval_str=True).return_annotation
    assert answer["type"] == kind(returned)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filters_parameters_are_those_of_its_function(name: str) -> None:
    found, taken = page(name)["DOCUMENTATION"], taken_by(name)
    first, *others = taken
    assert list(found["options"]) == ["_input", *others]
    positional = [one for one in others if taken[one].kind is not inspect.Parameter.KEYWORD_ONLY]
    assert found.get("positional", "") == ", ".join(positional)
    for option, told in found["options"].items():
        parameter = taken[first if option == "_input" else option]
        needed = parameter.default is parameter.empty
        assert told.get("required", False) is needed, option
        default = None if needed else parameter.default
        assert told.get("default") == (list(default) if isinstance(default, tuple) else default)
        assert kind(parameter.annotation) in ("", told["type"]), option
        assert ("elements" in told) == (told["type"] == "list"), option


def calls(text: str) -> Iterator[jinja2.nodes.Filter]:
    """Return the fleet's filters in a text."""
    for node in jinja2.Environment(autoescape=False).parse(text).find_all(jinja2.nodes.Filter):  # noqa: S701  # nothing is rendered
        if node.name.startswith(f"{COLLECTION}."):
            yield node


def texts(value: Any) -> Iterator[str]:
    """Yield all texts in data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Iterable):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from texts(item)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filters_examples_use_its_parameters(name: str) -> None:
    found = texts(yaml.safe_load(page(name)["EXAMPLES"]))
    [call] = [one for text in found for one in calls(text) if one.name == f"{COLLECTION}.{name}"]
    assert call.dyn_args is call.dyn_kwargs is None
    signature = inspect.Signature(list(taken_by(name).values()))
    signature.bind(None, *call.args, **{pair.key: pair.value for pair in call.kwargs})


ANSWERED = [name for name in FILTERS if "\n# " in page(name)["EXAMPLES"]]


@pytest.mark.parametrize("name", ANSWERED)
def test_a_filters_example_gives_the_documented_answer(name: str) -> None:
    example = str(page(name)["EXAMPLES"])
    [template] = texts(yaml.safe_load(example))
    templar = Templar(loader=DataLoader(), variables={"hostvars": {"worker1": {}, "worker2": {}}})
    answer = example.rpartition("\n# ")[2]
    assert templar.template(trust_as_template(template)) == yaml.safe_load(answer)


# --- ansible-doc -------------------------------------------------------------------------------------


def ansible(
    *command: str, home: Path, collections: str = str(ROOT / "collections")
) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs without any configuration."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        command,
        env={
            **kept,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "ANSIBLE_COLLECTIONS_PATH": collections,
        },
        cwd=home,
        text=True,
        capture_output=True,
        check=False,
    )


NAMES = {
    "module": ACTIONS,
    "role": ROLES,
    "filter": sorted(FILTERS),
    **{
        kind: sorted(path.stem for path in (PLUGINS / kind).glob("*.py"))
        for kind in KINDS
        if kind != "modules"
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("module", "role", "filter") else pytest.param(kind, marks=pytest.mark.long)
        for kind in NAMES
    ],
)
def test_ansible_doc_shows_all_of_a_kind(kind: str, tmp_path: Path) -> None:
    names = [f"{COLLECTION}.{name}" for name in NAMES[kind]]
    listed = ansible("ansible-doc", "--json", "-t", kind, "-l", COLLECTION, home=tmp_path)
    assert listed.stderr == ""
    assert sorted(json.loads(listed.stdout)) == names
    shown = ansible("ansible-doc", "--json", "-t", kind, *names, home=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    found = json.loads(shown.stdout)
    assert sorted(found) == names
    for name in names:
        if kind == "role":
            tasks = ROOT / "roles" / name.rpartition(".")[2] / "tasks/main.yml"
            entry = "main" if tasks.is_file() else "variables"
            assert found[name]["entry_points"][entry]["short_description"], name
        else:
            assert found[name]["doc"]["short_description"], name
    # As it is displayed, without markup.
    page = ansible("ansible-doc", "-t", kind, *names, home=tmp_path)
    assert (page.returncode, page.stderr) == (0, "")


@pytest.mark.slow
def test_without_its_action_a_module_that_only_documents_fails(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    collections = replaced(tmp_path, parts={"plugins/action": nothing})
    name = f"{COLLECTION}.host_facts"
    done = ansible("ansible", "localhost", "-m", name, home=tmp_path, collections=collections)
    assert done.returncode == 2
    assert "FAILED" in done.stdout
    assert "No start of json char found" in done.stdout + done.stderr
