"""A place for building releases in tests: an application's root, a runtime with the test's own check, and archives."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pwd
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from ansible_collections.celery_fleet.core.plugins.module_utils.release.process import Build

# Root builds as another user, so that files that root must not run and files that this user must not write differ.
USER = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
# As on hosts. The tests' own interpreter may be where that user can't go.
PYTHON = "/usr/bin/python3"
# Records the request, and answers as `celery_fleet.release.check` would.
CHECK = """
import json, os, sys
request = json.load(sys.stdin)
print("the application prints")
seen = {"cwd": os.getcwd(), "A": os.environ.get("A"), "FLAG": os.environ.get("FLAG"), "request": request,
        "release": os.environ.get("CELERY_FLEET_RELEASE"),
        "home": os.environ["HOME"], "path": os.environ["PATH"].split(":")[0]}
import app
print(json.dumps({"ok": True, "errors": [], "tasks": ["app.x"], "versions": {"celery": "5.7.0"}, "seen": seen,
                  "application": {"zone": "UTC"}}))
open(os.environ["SEEN"], "w").write(json.dumps(seen))
"""


class Place:
    """An application's root, the runtime, and archives."""

    def __init__(self, root: Path, python: str) -> None:
        self.root = root / "opt"
        self.runtime = root / "runtime"
        self.seen = root / "seen/seen.json"
        self.python = python
        (self.runtime / "celery_fleet/release").mkdir(parents=True)
        self.check(CHECK)
        for path, mode in (
            (self.seen.parent, 0o777),
            (self.root, 0o755),
            (self.root / "releases", 0o755),
            (self.runtime, 0o755),
            (self.runtime / "celery_fleet", 0o755),
            (self.runtime / "celery_fleet/release", 0o755),
        ):
            path.mkdir(exist_ok=True)
            path.chmod(mode)

    def check(self, text: str) -> None:
        path = self.runtime / "celery_fleet" / "release" / "check.py"
        path.write_text(text)
        path.chmod(0o644)

    def wanted(
        self,
        identity: str = "r1",
        files: dict[str, str] | None = None,
        links: dict[str, str] | None = None,
        **more: Any,
    ) -> Build:
        given = {"app.py": "x = 1\n", "requirements.txt": ""} if files is None else files
        archive = self.root.parent / f"{identity}.tar.gz"
        with tarfile.open(archive, "w:gz") as opened:
            for name, text in given.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(text.encode()), 0o644
                opened.addfile(info, io.BytesIO(text.encode()))
            for name, target in (links or {}).items():
                info = tarfile.TarInfo(name)
                info.type, info.linkname = tarfile.SYMTYPE, target
                opened.addfile(info)
        options: dict[str, Any] = {
            "directory": ".",
            "requirements": "requirements.txt",
            # The control node's name for the virtualenv, which depends on the requirements.
            "virtualenv": hashlib.sha256(given.get("requirements.txt", "").encode()).hexdigest()[
                :12
            ],
            "app": "app",
            "python": self.python,
            "environment": {"SEEN": str(self.seen)},
            **more,
        }
        return Build(
            id=identity,
            archive=str(archive),
            root=str(self.root),
            runtime=str(self.runtime),
            user=USER.pw_name,
            **options,
        )

    def releases(self) -> list[str]:
        found = (self.root / "releases").glob("*")
        return sorted(path.name for path in found if path.is_dir())

    def note(self, identity: str = "r1") -> dict[str, Any]:
        text = (self.root / "releases" / identity / "release.json").read_text()
        note: dict[str, Any] = json.loads(text)
        return note


def wheel(directory: Path, name: str = "small", code: str = "x = 1\n") -> str:
    """A wheel, and the line of requirements that asks for it by its hash."""
    path = directory / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", code)
        archive.writestr(f"{name}/old.py", "print 'Python 2'\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")
    path.chmod(0o644)
    return f"{name} @ file://{path} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
