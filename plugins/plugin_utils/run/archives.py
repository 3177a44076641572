"""Unpacks an application's source that is an archive, on the control node."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.urls import open_url
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError

_NAME = "celery_app_source.archive"

# Errors of the module zipfile: RuntimeError is an encrypted file or an unknown method.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def unpack(source: Mapping[str, Any], base: Path, scratch: Path) -> Path:
    """Unpack an archive and return the directory with its files, without a directory that holds all of them.

    Args:
        source: celery_app_source.
        base: Base of relative paths.
        scratch: An empty directory for temporary files.

    Raises:
        UserError: The archive is missing, does not match `sha256`, or is not safe to unpack.
    """
    text = str(source["archive"])
    archive = _download(text, scratch) if "://" in text else base / Path(text).expanduser()
    target = scratch / "unpacked"
    target.mkdir()
    try:
        with open(archive, "rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            # Don't use is_zipfile(): it looks at the end of the file, and a tar archive may end with a zip archive.
            zipped = stream.read(4) == b"PK\x03\x04"
        if source.get("sha256") and digest != str(source["sha256"]).lower():
            raise UserError(
                f"celery_app_source.sha256: {text} has the hash {digest}. If this is the archive that you want, write "
                "this hash; if not, name the right archive."
            )
        if zipped:
            _unzip(archive, target)
        else:
            _untar(archive, target)
    except (OSError, *_BAD_ZIP) as error:
        raise UserError(f"{_NAME}: {text} can't be unpacked: {error}") from None
    _refuse_what_is_no_source(target)
    inside = list(target.iterdir())
    alone = len(inside) == 1 and inside[0].is_dir() and not inside[0].is_symlink()
    return inside[0] if alone else target


def _download(url: str, scratch: Path) -> Path:
    path = scratch / "archive"
    try:
        # It takes proxies from the environment and a login from ~/.netrc.
        with open_url(url, timeout=60) as answer, open(path, "wb") as stream:
            shutil.copyfileobj(answer, stream)
    except Exception as error:  # noqa: BLE001 - anything from a wrong name to a broken connection
        raise UserError(
            f"{_NAME}: can't get {url}: {error}. Check the URL, and the login in ~/.netrc if {urlsplit(url).hostname} "
            "needs one."
        ) from None
    return path


def _untar(archive: Path, target: Path) -> None:
    # Don't use tarfile: its filters against unsafe names came with Python 3.11.4. tar has its own.
    done = subprocess.run(
        ["tar", "--extract", "--no-same-owner", "--file", str(archive.absolute())],
        cwd=target,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise OSError("; ".join(done.stderr.strip().splitlines()[:3]))


def _unzip(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for item in opened.infolist():
            mode = item.external_attr >> 16
            if stat.S_ISLNK(mode):
                raise UserError(
                    f"{_NAME}: {archive.name} has the link {item.filename}; use a tar archive for links"
                )
            # zipfile changes names that lead out of the directory.
            path = Path(opened.extract(item, target))
            if mode & 0o100 and path.is_file():
                path.chmod(0o755)


def _refuse_what_is_no_source(directory: Path) -> None:
    """Refuse links that lead out of the archive, and files such as pipes, which block when they are read."""
    root = directory.resolve()
    for base, directories, names in os.walk(root):
        for path in (Path(base, name) for name in (*directories, *names)):
            mode = path.lstat().st_mode
            # Path.resolve() raises an error for a link to itself.
            if stat.S_ISLNK(mode) and not Path(os.path.realpath(path)).is_relative_to(root):
                raise UserError(
                    f"{_NAME}: its link {path.relative_to(root)} leads out of the archive, to {os.readlink(path)}. "
                    "Take it out of the archive."
                )
            if not (stat.S_ISLNK(mode) or stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(
                    f"{_NAME}: its {path.relative_to(root)} is neither a file, a directory nor a link. Take it out of "
                    "the archive."
                )
