"""Tells pip where packages come from: index, logins, authorities and proxy, in files that live as long as a build.

pip and what it starts read them from a directory that root owns and the build's user can read. So no login is in a
command line, in an environment or in a release.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

# Debian's authorities. pip's `cert` replaces them, and an extra index may need them.
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"


@contextmanager
def settings(
    index: Mapping[str, Any], directory: Path, user: pwd.struct_passwd
) -> Iterator[dict[str, str]]:
    """Write the files, and yield the environment that points to them; remove them at the end.

    Args:
        index: `celery_app_package_index`.
        directory: Where to write them; it must not exist.
        user: Who runs pip.
    """
    if not index:
        yield {}
        return
    # The group is the user's own.
    directory.mkdir(mode=0o750)
    os.chown(directory, 0, user.pw_gid)
    try:
        for name, text in _files(index, directory).items():
            path = directory / name
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w") as stream:
                os.fchown(stream.fileno(), 0, user.pw_gid)
                stream.write(text)
        yield {"HOME": str(directory), "PIP_CONFIG_FILE": f"{directory}/pip.conf", **_proxy(index)}
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _files(index: Mapping[str, Any], directory: Path) -> dict[str, str]:
    lines = ["[global]"]
    files = {}
    if index.get("url"):
        lines.append(f"index-url = {index['url']}")
    extra = [str(url) for url in index.get("extra_urls") or []]
    if extra:
        lines += ["extra-index-url =", *(f"    {url}" for url in extra)]
    # Preflight has warned of these.
    plain = [urlsplit(url) for url in [str(index.get("url") or ""), *extra] if _is_plain(url)]
    if plain:
        lines += ["trusted-host =", *(f"    {url.netloc}" for url in plain)]
    if index.get("ca"):
        files["ca.pem"] = _text(_AUTHORITIES) + _ended(index["ca"])
        lines.append(f"cert = {directory}/ca.pem")
    if index.get("client_certificate"):
        files["client.pem"] = _ended(index["client_certificate"])
        lines.append(f"client-cert = {directory}/client.pem")
    if index.get("proxy"):
        lines.append(f"proxy = {_with_login(str(index['proxy']), index)}")
    logins = [
        f'machine {login["host"]} login "{_quoted(login["user"])}" password "{_quoted(login["password"])}"'
        for login in index.get("logins") or []
    ]
    if logins:
        files[".netrc"] = "\n".join(logins) + "\n"
    return {**files, "pip.conf": "\n".join(lines) + "\n"}


def _proxy(index: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment for other programs that a build starts, such as git, if the proxy needs no login."""
    proxy = str(index.get("proxy") or "")
    if not proxy or _login(proxy, index):
        return {}
    return {"http_proxy": proxy, "https_proxy": proxy}


def _login(url: str, index: Mapping[str, Any]) -> Mapping[str, Any] | None:
    host = urlsplit(url).hostname
    found = (login for login in index.get("logins") or [] if login["host"] == host)
    return next(found, None)


def _with_login(url: str, index: Mapping[str, Any]) -> str:
    login, parts = _login(url, index), urlsplit(url)
    if login is None:
        return url
    name, password = (quote(str(login[key]), safe="") for key in ("user", "password"))
    return parts._replace(netloc=f"{name}:{password}@{parts.netloc}").geturl()


def _is_plain(url: str) -> bool:
    return url.startswith("http://")


def _quoted(text: object) -> str:
    return str(text).replace("\\", "\\\\").replace('"', '\\"')


def _ended(text: object) -> str:
    return str(text).strip() + "\n"


def _text(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.read()
    except OSError:
        return ""
