"""An application's source that is an archive."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.core.plugins.module_utils.errors import UserError
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.archives import unpack
from ansible_collections.celery_fleet.core.plugins.plugin_utils.run.source import pack

FILES = {"app/tasks.py": b"x = 1\n", "requirements.txt": b"celery\n", "run.sh": b"#!/bin/sh\n"}


def tar(path: Path, below: str = "", **links: str) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, text in FILES.items():
            info = tarfile.TarInfo(below + name)
            info.size, info.mode = len(text), 0o755 if name == "run.sh" else 0o644
            opened.addfile(info, io.BytesIO(text))
        for name, target in links.items():
            info = tarfile.TarInfo(below + name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            opened.addfile(info)
    return path


def zipped(path: Path, **links: str) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        for name, text in FILES.items():
            info = zipfile.ZipInfo(f"shop-1.2/{name}")
            info.external_attr = (0o755 if name == "run.sh" else 0o644) << 16
            opened.writestr(info, text)
        for name, target in links.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            opened.writestr(info, target)
    return path


def packed(root: Path, archive: str, **wanted: str) -> tuple[str, dict[str, int]]:
    """The name of the release, and its files with their modes."""
    scratch = root / f"scratch{len(list(root.iterdir()))}"
    scratch.mkdir()
    made = pack({"archive": archive, **wanted}, root, scratch, "")
    with tarfile.open(fileobj=io.BytesIO(made.archive)) as opened:
        return made.id, {member.name: member.mode for member in opened}


def test_every_form_of_an_archive_is_the_same_release(tmp_path: Path) -> None:
    plain, below = tar(tmp_path / "a.tar.gz"), tar(tmp_path / "b.tgz", "shop-1.2/")
    other = zipped(tmp_path / "c.zip")
    made = [packed(tmp_path, path.name) for path in (plain, below, other)]
    assert made[0] == made[1] == made[2]
    assert made[0][1] == {"app/tasks.py": 0o644, "requirements.txt": 0o644, "run.sh": 0o755}


def test_git_is_not_asked_about_an_archive(tmp_path: Path) -> None:
    """A repository's settings name programs that git runs."""
    made = tmp_path / "evil.tar"
    with tarfile.open(made, "w") as opened:
        for name, text in {
            "app.py": b"",
            ".git/config": f"[core]\nfsmonitor = touch {tmp_path}/ran\n".encode(),
            ".git/HEAD": b"ref: refs/heads/main\n",
            ".git/objects/x": b"",
            ".git/refs/x": b"",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            opened.addfile(info, io.BytesIO(text))
    assert packed(tmp_path, "evil.tar")[1] == {"app.py": 0o644}
    assert not (tmp_path / "ran").exists()


def test_names_that_lead_out_of_the_archive_stay_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("../../outside", "x")
        opened.writestr("app.py", "x")
    assert packed(tmp_path, "a.zip")[1] == {"outside": 0o644, "app.py": 0o644}
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        opened.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(UserError, match=r"a.tar can't be unpacked: .*outside.*'\.\.'"):
        packed(tmp_path, "a.tar")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside"])
def test_a_link_that_leads_out_of_the_archive_is_refused(tmp_path: Path, target: str) -> None:
    tar(tmp_path / "a.tar.gz", link=target)
    with pytest.raises(UserError, match=f"its link link leads out of the archive, to {target}"):
        packed(tmp_path, "a.tar.gz")


def test_a_link_in_a_zip_archive_is_refused(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", link="app")
    with pytest.raises(UserError, match="has the link link; use a tar archive"):
        packed(tmp_path, "a.zip")


def test_a_link_within_the_archive_is_kept(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar.gz", link="app")
    assert "link" in packed(tmp_path, "a.tar.gz")[1]


def test_a_link_to_itself_is_kept(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar.gz", link="link")
    assert "link" in packed(tmp_path, "a.tar.gz")[1]


def test_a_pipe_in_an_archive_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        info = tarfile.TarInfo("pipe")
        info.type = tarfile.FIFOTYPE
        opened.addfile(info)
    with pytest.raises(UserError, match="its pipe is neither a file"):
        packed(tmp_path, "a.tar")


def test_a_tar_archive_that_ends_with_a_zip_archive_is_a_tar_archive(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        info = tarfile.TarInfo("inner.zip")
        info.size = len(inner)
        opened.addfile(info, io.BytesIO(inner))
    assert packed(tmp_path, "a.tar")[1] == {"inner.zip": 0o644}


@pytest.mark.parametrize(
    "damage",
    [
        # The bit of an encrypted file, in its header and in the directory at the end.
        pytest.param(
            lambda text: text.replace(b"\x14\0\0\0\x08", b"\x14\0\1\0\x08"), id="encrypted"
        ),
        pytest.param(lambda text: text.replace(b"\0\0\x08\0", b"\0\0\x63\0"), id="unknown method"),
        pytest.param(lambda text: text.replace(text[50:90], b"\xff" * 40), id="damaged"),
    ],
)
def test_a_zip_archive_that_cannot_be_read_is_named(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "shop.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("app.py", "\n".join(f"x{number} = {number}" for number in range(500)))
    before = path.read_bytes()
    path.write_bytes(damage(before))
    assert path.read_bytes() != before
    with pytest.raises(
        UserError, match=r"celery_app_source.archive: shop.zip can't be unpacked: \S"
    ):
        packed(tmp_path, "shop.zip")


def test_a_file_that_is_no_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_text("<html>")
    with pytest.raises(UserError, match=r"celery_app_source.archive: a.tar.gz can't be unpacked"):
        packed(tmp_path, "a.tar.gz")


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that prints nothing."""

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of the test's files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


@pytest.mark.slow
def test_an_archive_comes_from_a_url_if_its_hash_is_right(tmp_path: Path, server: str) -> None:
    path = tar(tmp_path / "a.tar.gz")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    url = f"{server}/a.tar.gz"
    assert packed(tmp_path, url, sha256=digest) == packed(tmp_path, "a.tar.gz")
    with pytest.raises(UserError, match=f"celery_app_source.sha256: .* has the hash {digest}"):
        packed(tmp_path, url, sha256="0" * 64)
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.slow
def test_a_url_without_an_archive_is_named(tmp_path: Path, server: str) -> None:
    (tmp_path / "scratch").mkdir()
    with pytest.raises(UserError, match=rf"can't get {server}/none.tar: .*404.*Check the URL"):
        unpack({"archive": f"{server}/none.tar"}, tmp_path, tmp_path / "scratch")
