"""Brings a host's users, directories, files and links to what a role wants.

Files are compared whole and replaced atomically. If a check refuses them, all of them are restored.
"""

from __future__ import annotations

import contextlib
import fnmatch
import grp
import os
import pwd
import re
import secrets
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from . import systemd
from .desired_state import DesiredState, Directory, File, Link
from .report import Change, HostReport, ReconcileError


@dataclass
class _Undo:
    path: Path
    before: bytes | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int | None = None


def _ids(owner: str, group: str, check: bool) -> tuple[int, int]:
    """Return numeric owner and group; in check mode -1 for a user that does not exist yet."""
    try:
        uid = pwd.getpwnam(owner).pw_uid
        gid = grp.getgrnam(group).gr_gid
    except KeyError as missing:
        if check:
            return -1, -1
        raise ReconcileError(f"no such user or group on this host: {missing.args[0]}") from None
    return uid, gid


# Names of temporary files, as `_beside` makes them: a file is written next to its path and then moved there.
LEFT = re.compile(r"\.(.+)\.fleet-[0-9a-f]{16}")


def _beside(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.fleet-{secrets.token_hex(8)}")


def replace(
    path: Path, content: bytes, mode: int, uid: int, gid: int, mtime: int | None = None
) -> None:
    """Write a temporary file next to a path and move it there, so that readers never see half of it.

    Args:
        path: Path to replace.
        content: Whole content.
        mode: File mode.
        uid: Numeric owner.
        gid: Numeric group.
        mtime: Modification time to set, in nanoseconds; None for now.

    Raises:
        OSError: The write failed; the error names `path`.
    """
    name = _beside(str(path))
    try:
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            if mtime is not None:
                os.utime(stream.fileno(), ns=(mtime, mtime))
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def open_directory(path: str, *, make: bool, follow: bool = False) -> int | None:
    """Open a directory that is not a symbolic link.

    Args:
        path: Absolute path.
        make: Whether to create missing directories, owned by root. Without it, the result is None if one is missing.
        follow: Whether its parents may be links.

    Raises:
        ReconcileError: A part of the path is a link or a file.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if follow:
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.makedirs(path, mode=0o755)
            return os.open(path, flags)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise ReconcileError(f"{path} is not a directory; move it away and run again") from None
    place, handle = "", os.open("/", flags)
    for name in Path(path).parts[1:]:
        place = f"{place}/{name}"
        try:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=handle)
            below = os.open(name, flags, dir_fd=handle)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise ReconcileError(
                f"{path}: {place} is a link or not a directory; write the path that it points to, or move it away"
            ) from None
        finally:
            os.close(handle)
        handle = below
    return handle


class Files:
    """Applies the files of one role; `report` receives the differences."""

    def __init__(
        self,
        part: str,
        wanted: DesiredState,
        report: HostReport,
        *,
        check: bool,
        runner: systemd.Runner,
    ) -> None:
        self.part = part
        self.wanted = wanted
        self.report = report
        self.check = check
        self.run = runner
        self._undo: list[_Undo] = []

    def apply(self, validate: Callable[[], None]) -> None:
        """Apply everything; if `validate` raises, all files are restored."""
        if not self.check:
            self._sweep()
        self._apply_sysusers()
        for directory in self.wanted.directories:
            self._apply_directory(directory)
        try:
            for item in self.wanted.files:
                self._apply_file(item)
            validate()
        except BaseException:
            self._take_back()
            raise
        for link in self.wanted.links:
            self._apply_link(link)

    def try_out(self, validate: Callable[[Iterable[str]], None]) -> None:
        """Write the files that daemons check, call `validate` with their paths, and restore what was there before.

        A file whose directory does not exist yet is left out. One that does not change is checked as well, because a
        run that was killed may have written it.
        """
        self._sweep()
        patterns = [pattern for check in self.wanted.checks for pattern in check.files]
        tried = [
            item
            for item in self.wanted.files
            if any(fnmatch.fnmatch(item.dest, pattern) for pattern in patterns)
            and os.path.isdir(os.path.dirname(item.dest))
        ]
        try:
            for item in tried:
                self._apply_file(item)
            validate([item.dest for item in tried])
        finally:
            self._take_back()

    def _sweep(self) -> None:
        """Remove temporary files that a killed run left next to files and links: they may hold secrets."""
        places = [item.dest for item in (*self.wanted.sysusers, *self.wanted.files)]
        places += [link.path for link in self.wanted.links]
        names: dict[str, set[str]] = {}
        for path in places:
            directory, name = os.path.split(path)
            names.setdefault(directory, set()).add(name)
        for directory, ours in names.items():
            if not os.path.isdir(directory):
                continue
            for entry in os.listdir(directory):
                if (found := LEFT.fullmatch(entry)) and found[1] in ours:
                    os.unlink(os.path.join(directory, entry))

    def _changed(self, path: str, before: str, after: str, link: str = "") -> None:
        self.report.changes.append(Change(self.part, path, link))
        self.report.diff.append(
            {"before_header": path, "after_header": path, "before": before, "after": after}
        )

    def _apply_sysusers(self) -> None:
        """Declare users in sysusers.d and let systemd create them: it knows free IDs and existing users."""
        for item in self.wanted.sysusers:
            # Debian ships no /etc/sysusers.d.
            if not self.check:
                os.makedirs(os.path.dirname(item.dest), mode=0o755, exist_ok=True)
            before = len(self.report.changes)
            self._apply_file(item)
            changed = len(self.report.changes) > before
            due = not _users_exist(item.content or "")
            if due and not changed:
                # A run was killed here, or a user was deleted.
                self._changed(item.dest, "", "its users, created again\n")
            if (changed or due) and not self.check:
                done = self.run(["systemd-sysusers", item.dest])
                if done.returncode != 0:
                    raise ReconcileError(
                        f"systemd-sysusers refused {item.dest}: {done.output.strip()}"
                    )
        self._undo.clear()

    def _apply_directory(self, item: Directory) -> None:
        """Apply a directory by its open handle: other users may be able to write to its parents."""
        uid, gid = _ids(item.owner, item.group, self.check)
        is_new = not os.path.lexists(item.path)
        handle = open_directory(item.path, make=not self.check, follow=item.follow)
        if is_new:
            self._changed(item.path, "", f"directory {item.owner}:{item.group} {item.mode:04o}\n")
        if handle is None:
            return
        try:
            now = os.fstat(handle)
            mode = stat.S_IMODE(now.st_mode)
            if (now.st_uid, now.st_gid, mode) == (uid, gid, item.mode) or uid < 0:
                return
            if not is_new:
                before = f"directory {now.st_uid}:{now.st_gid} {mode:04o}\n"
                self._changed(item.path, before, f"directory {uid}:{gid} {item.mode:04o}\n")
            if not self.check:
                os.fchown(handle, uid, gid)
                os.fchmod(handle, item.mode)
        finally:
            os.close(handle)

    def _apply_file(self, item: File) -> None:
        path = Path(item.dest)
        uid, gid = _ids(item.owner, item.group, self.check)
        if item.content is None:
            self._note_file_to_come(item)
            return
        wanted = item.content.encode()
        before: bytes | None = None
        now: os.stat_result | None = None
        try:
            now = os.lstat(path)
        except FileNotFoundError:
            if not self.check and not path.parent.is_dir():
                raise ReconcileError(f"{path}: its directory does not exist") from None
        if now is not None:
            if not stat.S_ISREG(now.st_mode):
                raise ReconcileError(f"{path} is not a regular file; move it away and run again")
            before = path.read_bytes()
            if before == wanted and (
                uid < 0
                or (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (uid, gid, item.mode)
            ):
                return
        self._note_file(item, before, now, wanted)
        if self.check:
            return
        if now is None:
            self._undo.append(_Undo(path, None))
        else:
            self._undo.append(
                _Undo(
                    path,
                    before,
                    stat.S_IMODE(now.st_mode),
                    now.st_uid,
                    now.st_gid,
                    # systemd considers a unit file changed if this differs.
                    now.st_mtime_ns,
                )
            )
        replace(path, wanted, item.mode, uid, gid)

    def _note_file_to_come(self, item: File) -> None:
        if not self.check:
            raise ReconcileError(f"{item.dest} has no content")
        there = os.path.lexists(item.dest)
        self._changed(item.dest, "<content>\n" if there else "", "<content, to come>\n")

    def _note_file(
        self, item: File, before: bytes | None, now: os.stat_result | None, wanted: bytes
    ) -> None:
        if before == wanted and now is not None:
            self._changed(
                item.dest,
                f"{now.st_uid}:{now.st_gid} {stat.S_IMODE(now.st_mode):04o}\n",
                f"{item.owner}:{item.group} {item.mode:04o}\n",
            )
        elif not item.diff:
            self._changed(
                item.dest, "" if before is None else "<content>\n", "<content, changed>\n"
            )
        elif item.secret:
            self._changed(item.dest, "" if before is None else "<secret>\n", "<secret, changed>\n")
        else:
            self._changed(item.dest, (before or b"").decode(errors="replace"), wanted.decode())

    def _take_back(self) -> None:
        for undo in reversed(self._undo):
            if undo.before is None:
                undo.path.unlink(missing_ok=True)
            else:
                replace(undo.path, undo.before, undo.mode, undo.uid, undo.gid, undo.mtime)
        self._undo.clear()

    def _apply_link(self, link: Link) -> None:
        try:
            now = os.readlink(link.path)
        except OSError:
            now = ""
        if now == link.target:
            return
        if not now and os.path.lexists(link.path):
            raise ReconcileError(f"{link.path} is not a link; move it away and run again")
        before = f"{now} → " if now else ""
        self._changed(
            link.path,
            f"-> {now}\n" if now else "",
            f"-> {link.target}\n",
            link=f"{link.path}: {before}{link.target}",
        )
        if self.check:
            return
        fresh = _beside(link.path)
        os.symlink(link.target, fresh)
        os.replace(fresh, link.path)


def _users_exist(sysusers: str) -> bool:
    """Return whether all users, groups and memberships of a sysusers.d file exist."""
    for line in sysusers.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        try:
            if words[0] == "u":
                pwd.getpwnam(words[1])
            elif words[0] == "g":
                grp.getgrnam(words[1])
            elif words[0] == "m" and words[1] not in grp.getgrnam(words[2]).gr_mem:
                return False
        except KeyError:
            return False
    return True
