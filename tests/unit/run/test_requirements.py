"""What pip is asked to install for a release, as the control node reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.requirements import (
    Requirements,
    read,
)


def wanted(root: Path, files: dict[str, str], directory: str = ".") -> Requirements:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read(root, {"directory": directory})


@pytest.mark.parametrize(
    "text",
    [
        "celery==5.5\nredis>=5\n",
        "# comment\n\ncelery==5.5   # why\nredis>=5",
        "celery==5.5\r\nredis>=5\r\n",
        "celery==5.5\n    # via app\nredis>=5\n",
    ],
)
def test_comments_and_blanks_make_no_difference(tmp_path: Path, text: str) -> None:
    plain = wanted(tmp_path / "a", {"requirements.txt": "celery==5.5\nredis>=5\n"})
    assert wanted(tmp_path / "b", {"requirements.txt": text}) == plain


@pytest.mark.parametrize(
    "line", ["-r base.txt", "-rbase.txt", "--requirement base.txt", "--requirement=base.txt"]
)
def test_included_files_are_part_of_it(tmp_path: Path, line: str) -> None:
    files = {"requirements.txt": f"{line}\n", "base.txt": "celery==5.5\n"}
    first = wanted(tmp_path, files)
    assert wanted(tmp_path, {**files, "base.txt": "celery==5.6\n"}) != first
    assert wanted(tmp_path, files) == first


def test_a_constraint_is_no_requirement(tmp_path: Path) -> None:
    files = {"base.txt": "celery==5.5\n"}
    required = wanted(tmp_path, {**files, "requirements.txt": "-r base.txt\n"})
    assert wanted(tmp_path, {**files, "requirements.txt": "-c base.txt\n"}) != required


def test_files_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    files = {"requirements.txt": "-r base.txt\n", "base.txt": "-r requirements.txt\nx\n"}
    assert wanted(tmp_path, files).digest


def test_an_include_is_relative_to_its_file(tmp_path: Path) -> None:
    files = {
        "requirements.txt": "-r needs/a.txt\n",
        "needs/a.txt": "-r b.txt\n",
        "needs/b.txt": "x\n",
    }
    assert wanted(tmp_path, files).digest


def test_where_a_line_stands_makes_a_difference(tmp_path: Path) -> None:
    inside = {"requirements.txt": "-c limits.txt\ncelery\n", "limits.txt": "kombu\nredis==5.2\n"}
    below = {"requirements.txt": "-c limits.txt\nredis==5.2\ncelery\n", "limits.txt": "kombu\n"}
    assert wanted(tmp_path / "a", inside) != wanted(tmp_path / "b", below)


def test_a_comment_does_not_go_on_after_a_backslash(tmp_path: Path) -> None:
    one = wanted(tmp_path / "a", {"requirements.txt": "# needs \\\ncelery==5.5\n"})
    assert wanted(tmp_path / "b", {"requirements.txt": "# needs \\\ncelery==5.6\n"}) != one


def test_an_include_in_quotes(tmp_path: Path) -> None:
    assert wanted(tmp_path, {"requirements.txt": '-r "base.txt"\n', "base.txt": "x\n"}).digest


def test_hashes_on_continued_lines_count(tmp_path: Path) -> None:
    one = wanted(tmp_path, {"requirements.txt": "x==1 \\\n    --hash=sha256:aa\n"})
    assert wanted(tmp_path, {"requirements.txt": "x==1 \\\n    --hash=sha256:bb\n"}) != one


@pytest.mark.parametrize(
    ("line", "local"),
    [
        ("celery==5.5", False),
        ("celery[redis]", False),
        ("-e git+https://example.com/x.git#egg=x", False),
        ("x @ https://example.com/x-1.0-py3-none-any.whl", False),
        ("x @ file:/opt/x-1.0-py3-none-any.whl --hash=sha256:aa", False),
        ("https://example.com/x.tar.gz#egg=x", False),
        (".", True),
        (".[web]", True),
        ("./lib", True),
        ("../lib", True),
        ("/opt/lib", True),
        ("-e .", True),
        ("-e.", True),
        ("--editable ./lib", True),
        ("--editable=./lib", True),
        ("lib @ file:/opt/lib", True),
        ("file:./lib", True),
        ("-e lib", True),
        ("-e libs/shared", True),
        ("libs/shared", True),
        ("vendor/foo-1.0-py3-none-any.whl", True),
        ("foo-1.0.tar.gz", True),
        ("foo-1.0.tar.xz", True),
        ("foo-1.0.TAR", True),
        ("foo-1.0-py3-none-any.whl;python_version>'3.10'", True),
        ("foo;python_version>'3.10'", False),
        ("-f vendor", True),
        ("--find-links=./wheels", True),
        ("-f https://example.com/wheels", False),
        ("--extra-index-url https://example.com/x", False),
        ("--no-binary :all:", False),
    ],
)
def test_what_is_built_from_files(tmp_path: Path, line: str, local: bool) -> None:
    assert wanted(tmp_path, {"requirements.txt": f"{line}\n"}).local is local


def test_it_stands_beside_the_code_or_above_it(tmp_path: Path) -> None:
    above = wanted(tmp_path, {"requirements.txt": "x\n", "code/app.py": ""}, "code")
    beside = wanted(tmp_path, {"code/requirements.txt": "y\n"}, "code")
    assert above != beside


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"app.py": ""}, "the source has no code/requirements.txt. Name the file"),
        (
            {"requirements.txt": "x\n\n-r base.txt\n"},
            "requirements.txt, line 3, includes base.txt, which the source lacks",
        ),
        (
            {"requirements.txt": "x==1 \\\n  --hash=sha256:aa\n-r base.txt\n"},
            "requirements.txt, line 3, includes base.txt",
        ),
        (
            {"requirements.txt": "-r needs/a.txt\n", "needs/a.txt": "-c b.txt"},
            "needs/a.txt, line 1, includes b.txt",
        ),
    ],
)
def test_a_file_that_is_missing(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        wanted(tmp_path, files, "code")
    assert str(caught.value).startswith("celery_app_source.requirements: ")
    assert words in str(caught.value)


def test_exact_versions_for_every_platform_are_pins(tmp_path: Path) -> None:
    lines = [
        "celery[redis]==5.6.0 --hash=sha256:00",
        "redis>=5",
        "colorama==0.4 ; sys_platform == 'win32'",
        "kombu==5.6.1",
    ]
    needed = wanted(tmp_path, {"requirements.txt": "\n".join(lines)})
    assert needed.pins == ("celery==5.6.0", "kombu==5.6.1")
