"""Computes nginx sites and locations of Flower and the web process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .facts import Facts
from .producer_options import SITE

_PREFIX = "celery_producer_web_"
# Variables that only nginx itself can check.
_BY_USERS = ("certificate", "certificate_key", "site_snippet", "location_snippet")
_CERTBOT = "/etc/letsencrypt"


def site(
    facts: Facts,
    name: str,
    *,
    port: int,
    socket: str,
    protected: Sequence[str],
    password_line: str,
    proxy: Mapping[str, Any],
    web: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the desired state of an nginx site in front of a socket.

    Other components add their locations to the site `web` in a separate directory, which the site includes.

    Args:
        facts: The application's facts.
        name: `web`, `flower` or `metrics`; it follows the application's name in the names of files.
        port: TLS port.
        socket: Path of the Unix socket that answers, or `ADDRESS:PORT`. If it is empty, the site only has what others
            add to it.
        protected: Path prefixes that ask for a password; `/` is all of them.
        password_line: Name and password for them, as a line of an htpasswd file.
        proxy: The variables of web_proxy: `read_timeout`, `send_timeout` and `ipv6`. For the site `metrics` also
            `others`: addresses that answer at one path each, by its name, as nginx takes them.
        web: For the site `web`, the variables in the table `producer_options.SITE`.
    """
    configuration = site_file(facts["name"], name)
    directory = facts["directory"]
    parts = locations_directory(directory)
    given = {option.name.removeprefix(_PREFIX): option.default for option in SITE} | dict(web or {})
    file = {
        "dest": configuration,
        "src": "nginx/site.conf.j2",
        "vars": {
            "site": {
                **given,
                **proxy,
                "name": name,
                "port": port,
                "socket": socket,
                "protected": list(protected),
                "static": _static(given["static"], protected) if socket else [],
                "htpasswd": _htpasswd(directory, name),
                "added": parts if name == "web" else "",
            }
        },
    }
    line = password_line if protected else ""
    found = _proxied(name, directory, file, line, [{"path": parts}] if name == "web" else [])
    if name == "web":
        _add_hook(found, certificate_hook(facts["name"]), str(given["certificate"]))
    if hints := _hints(configuration, given, ipv6=bool(proxy.get("ipv6"))):
        found["checks"][0]["hint"] = "\n".join(hints)
    return found


def location(
    name: str,
    *,
    directory: str,
    prefix: str,
    socket: str,
    password_line: str,
    proxy: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the desired state of a location of the site `web`: another component's socket behind a password.

    Args:
        name: Name of the component.
        directory: Directory of the application's configuration.
        prefix: Path without slashes at its ends.
        socket: Unix socket that answers.
        password_line: Name and password, as a line of an htpasswd file.
        proxy: The variables of web_proxy.
    """
    parts = locations_directory(directory)
    file = {
        "dest": f"{parts}/{name}.conf",
        "src": "nginx/location.conf.j2",
        "vars": {
            "site": {
                **proxy,
                # It uses the variables of the site's map.
                "name": "web",
                "realm": name,
                "prefix": prefix,
                "socket": socket,
                "htpasswd": _htpasswd(directory, name),
            }
        },
    }
    return _proxied(name, directory, file, password_line, [{"path": parts}])


def site_file(app: str, name: str) -> str:
    """Return the path of the file that makes nginx listen on an application's port."""
    return f"/etc/nginx/conf.d/{app}-{name}.conf"


def certificate_hook(app: str) -> str:
    """Return the path of certbot's hook that reloads nginx after a renewal."""
    return f"{_CERTBOT}/renewal-hooks/deploy/celery-fleet-{app}-web"


def path_prefix(text: str | None) -> str:
    """Return a path prefix without slashes at its ends."""
    return (text or "").strip("/")


def locations_directory(directory: str) -> str:
    """Return the directory of the locations that other components add to the site `web`."""
    return f"{directory}/nginx-web"


def _static(
    given: Mapping[str, Mapping[str, Any]], protected: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the locations of celery_producer_web_static, each with whether it asks for the password.

    A protected path below one of them is another location, because its files need the password as well.
    """
    found = {
        prefix: (str(one["path"]).rstrip("/") + "/", one.get("max_age"))
        for prefix, one in given.items()
    }
    for path in protected:
        around = max((prefix for prefix in given if path.startswith(prefix)), key=len, default="")
        if around:
            directory, max_age = found[around]
            found.setdefault(path, (directory + path.removeprefix(around), max_age))
    return [
        {
            "prefix": prefix,
            "path": path,
            "max_age": max_age,
            "protected": any(prefix.startswith(one) for one in protected),
        }
        for prefix, (path, max_age) in found.items()
    ]


def _hints(configuration: str, given: Mapping[str, Any], *, ipv6: bool) -> list[str]:
    """Return what to do if nginx refuses a site."""
    hints = []
    if by_users := [f"{_PREFIX}{key}" for key in _BY_USERS if given[key]]:
        hints.append(
            f"{configuration} has values of {', '.join(by_users)}: correct the one that nginx complains about, and "
            "run again."
        )
    if ipv6:
        hints.append(
            "If it says “Address family not supported”, the host's kernel has no IPv6: set web_proxy_ipv6: false, and "
            "run again."
        )
    return hints


def _add_hook(state: dict[str, Any], hook: str, certificate: str) -> None:
    """Add certbot's hook if the certificate is certbot's, otherwise remove it."""
    if not certificate.startswith(f"{_CERTBOT}/"):
        state.setdefault("owned", {"files": []})["files"].append(hook)
        return
    state["directories"] += [
        {"path": f"{_CERTBOT}/renewal-hooks"},
        {"path": f"{_CERTBOT}/renewal-hooks/deploy"},
    ]
    text = "#!/bin/sh\n# Written by Celery Fleet.\nexec systemctl reload nginx.service\n"
    state["files"].append({"dest": hook, "content": text, "mode": "0755"})


def _htpasswd(directory: str, name: str) -> str:
    return f"{directory}/credentials-nginx/{name}.htpasswd"


def _proxied(
    name: str,
    directory: str,
    file: dict[str, Any],
    password_line: str,
    directories: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the desired state of one file of nginx, the password that it asks for, and nginx itself."""
    drop_in = "/etc/systemd/system/nginx.service.d"
    files = [{"dest": f"{drop_in}/10-celery-fleet.conf", "src": "systemd/nginx.conf.j2"}, file]
    if password_line:
        files.append(
            {
                "dest": _htpasswd(directory, name),
                "content": password_line,
                "group": "www-data",
                "mode": "0640",
                "secret": True,
            }
        )
    passwords = {"path": f"{directory}/credentials-nginx", "group": "www-data", "mode": "0750"}
    return {
        # Without a protected path a previous password file is removed.
        **({} if password_line else {"owned": {"files": [_htpasswd(directory, name)]}}),
        # The package creates conf.d; if someone has deleted it because it was empty, it comes back.
        "directories": [passwords, *directories, {"path": drop_in}, {"path": "/etc/nginx/conf.d"}],
        "files": files,
        "checks": [{"command": ["nginx", "-t", "-q"], "files": [file["dest"]]}],
        "units": [
            {
                "name": "nginx.service",
                "on_change": "reload",
                "hint": "If an address is already in use, only /var/log/nginx/error.log says so.",
                # The sites of all applications on the host, which share one nginx.
                "files": [
                    "/etc/nginx/conf.d/*.conf",
                    "/etc/celery-fleet/*/nginx-web/*.conf",
                    "/etc/celery-fleet/*/pki/host.*",
                ],
            }
        ],
    }
