"""The built front-end: put this environment's values where the build has left placeholders.

The document uses `sed -i` on the container's files. A release is never changed, and `sed` interprets `|`, `&` and `\\`
in a value. So this makes a copy, and writes the value into each kind of file as its language requires.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

SUFFIX = "_PLACEHOLDER"

# These mean the same within all three kinds of JavaScript's quotes, in JSON, and in CSS.
_PLAIN = re.compile(r"[A-Za-z0-9 _.,:/@%+=?#~()*;|^-]")
_HTML_PLAIN = re.compile(r"[A-Za-z0-9_.,:/@%+?#-]")
_SCRIPT = re.compile(r"(<script\b[^>]*>)(.*?)(</script\s*>)", re.IGNORECASE | re.DOTALL)


class FrontendError(Exception):
    """An error that says what can't be done, and what to do."""


def for_javascript(value: str) -> str:
    """Return a value as a part of a JavaScript string, with any quotes, or of JSON."""

    def escaped(character: str) -> str:
        if _PLAIN.fullmatch(character):
            return character
        units = character.encode("utf-16-be")
        return "".join(f"\\u{units[n]:02x}{units[n + 1]:02x}" for n in range(0, len(units), 2))

    return "".join(map(escaped, value))


def for_css(value: str) -> str:
    """Return a value as a part of a string or an address in CSS."""
    # Within url(…) without quotes these would end it.
    ending = " ();"
    return "".join(
        c if _PLAIN.fullmatch(c) and c not in ending else f"\\{ord(c):06x}" for c in value
    )


def for_html(value: str) -> str:
    """Return a value as text, or as a part of an attribute, also of one that a minifier has left without quotes."""
    return "".join(c if _HTML_PLAIN.fullmatch(c) else f"&#x{ord(c):x};" for c in value)


def _in_html(text: str, replace: Callable[[str, Callable[[str], str]], str]) -> str:
    """Replace in HTML; the text between <script> and </script> is JavaScript."""
    parts = _SCRIPT.split(text)
    # In turn: text, <script …>, its content, </script>.
    ways = (for_html, for_html, for_javascript, for_html)
    return "".join(replace(part, ways[n % 4]) for n, part in enumerate(parts))


_WAYS: Mapping[str, Callable[[str], str]] = {
    ".js": for_javascript,
    ".mjs": for_javascript,
    ".json": for_javascript,
    ".map": for_javascript,
    ".webmanifest": for_javascript,
    ".css": for_css,
    ".svg": for_html,
    ".xml": for_html,
}
_PAGES = (".html", ".htm")
_COMPRESSED = (".gz", ".br", ".zst")


def render(build: Path, values: Mapping[str, str]) -> dict[Path, bytes]:
    """All files of the build, by their path in it, with the values in place.

    Raises:
        FrontendError: there is no build, or a file of it can't be given a value.
    """
    paths = sorted(path for path in build.rglob("*") if path.is_file())
    if build / "index.html" not in paths:
        raise FrontendError(f"{build} has no index.html: build the front-end first")
    for name, value in values.items():
        if any(other + SUFFIX in value for other in values):
            raise FrontendError(f"{name} has a placeholder in it: give the value itself")
    return {path.relative_to(build): _rendered(path, values) for path in paths}


def _rendered(path: Path, values: Mapping[str, str]) -> bytes:
    if path.suffix in _COMPRESSED:
        raise FrontendError(
            f"{path} is compressed, so that its placeholders can't be seen: leave that to collectstatic"
        )
    content = path.read_bytes()
    if not any(_marker(name) in content for name in values):
        return content

    def replace(text: str, way: Callable[[str], str]) -> str:
        for name, value in values.items():
            text = text.replace(name + SUFFIX, way(value))
        return text

    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise FrontendError(f"{path} has a placeholder and is no text") from None
    if path.suffix in _PAGES:
        return _in_html(text, replace).encode()
    way = _WAYS.get(path.suffix)
    if way is None:
        raise FrontendError(
            f"{path} has a placeholder, and how its kind of file writes a value is not known:"
            " leave the placeholder to .html, .js, .css, .json or .svg"
        )
    return replace(text, way).encode()


def _marker(name: str) -> bytes:
    return (name + SUFFIX).encode()


def inject(build: Path, target: Path, values: Mapping[str, str]) -> bool:
    """Write the build with its values into `target`, whole or not at all; whether anything had to be done.

    Raises:
        FrontendError: see `render`.
    """
    files = render(build, values)
    if _content(target) == files:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    # Left by a run that was killed.
    for left in target.parent.glob(f".{target.name}-*"):
        shutil.rmtree(left)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, content in files.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).write_bytes(content)
        if target.exists():
            # On a developer's machine, where the build changes and no release has a separate directory.
            os.rename(target, fresh / ".before")
        os.rename(fresh, target)
    except BaseException:
        shutil.rmtree(fresh)
        raise
    shutil.rmtree(target / ".before", ignore_errors=True)
    return True


def _content(directory: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def unfinished(directory: Path, values: Mapping[str, str]) -> list[str]:
    """Return files with a placeholder left, each as PATH (PLACEHOLDER)."""
    return [
        f"{path} ({name}{SUFFIX})"
        for path in sorted(directory.rglob("*"))
        if path.is_file()
        for name in values
        if _marker(name) in path.read_bytes()
    ]


def refuse_unfinished(directory: Path, values: Mapping[str, str]) -> None:
    """Raise ImproperlyConfigured if a front-end that is to be served is missing, or has a placeholder left."""
    remedy = "run manage.py inject_frontend, then manage.py collectstatic"
    if not (directory / "index.html").is_file():
        raise ImproperlyConfigured(f"there is no front-end in {directory}: {remedy}")
    if left := unfinished(directory, values):
        raise ImproperlyConfigured(
            f"the front-end has placeholders left in {', '.join(left)}: {remedy}"
        )
