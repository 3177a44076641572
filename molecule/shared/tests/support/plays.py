"""Run the delivered playbooks as an operator does, and keep a transcript of each run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from support.inventory import ROOT, Fleet, ansible_environment, inventory_arguments

_RECAP = re.compile(
    r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE
)


@dataclass(frozen=True)
class Run:
    """The result of a run of ansible-playbook."""

    status: int
    text: str

    @property
    def changed(self) -> dict[str, int]:
        """Return by host the number of tasks that changed something."""
        return {found[1]: int(found[3]) for found in _RECAP.finditer(self.text)}

    @property
    def contacts(self) -> int:
        """Return how often hosts were contacted."""
        return len(re.findall(r"SSH: EXEC|ESTABLISH SSH CONNECTION", self.text))

    @property
    def end(self) -> str:
        """Return the last lines, for the message of a failing test."""
        return "\n".join(self.text.splitlines()[-60:])


def transcripts(fleet: Fleet) -> Path:
    """Return the directory of the transcripts."""
    return fleet.state / "transcripts"


def _transcript(fleet: Fleet, title: str) -> tuple[Path, BinaryIO]:
    """Return the path of a new transcript, and the file."""
    directory = transcripts(fleet)
    directory.mkdir(mode=0o700, exist_ok=True)
    path = directory / f"{title}.log"
    return path, open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def play(
    fleet: Fleet, title: str, *arguments: str, playbook: str = "site.yml", root: Path = ROOT
) -> Run:
    """Run a playbook with -vvv and --diff, since other tests search its output for secrets.

    `root` is the checkout, or a copy of it in which a test has broken something.
    """
    command = [
        "ansible-playbook",
        *inventory_arguments(fleet.sources),
        "-vvv",
        "--diff",
        *arguments,
        playbook,
    ]
    transcript, stream = _transcript(fleet, title)
    with stream:
        done = subprocess.run(
            command,
            cwd=root,
            env={**ansible_environment(), "ANSIBLE_CONFIG": str(root / "ansible.cfg")},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return Run(done.returncode, transcript.read_text(errors="replace"))


@dataclass(frozen=True)
class Started:
    """A run of ansible-playbook in a process group of its own."""

    process: subprocess.Popen[bytes]
    transcript: Path
    began: float

    @classmethod
    def site(cls, fleet: Fleet, title: str, *arguments: str) -> Started:
        """Start site.yml."""
        command = ["ansible-playbook", *inventory_arguments(fleet.sources), *arguments, "site.yml"]
        transcript, stream = _transcript(fleet, title)
        with stream:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=ansible_environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, transcript, time.monotonic())

    def kill(self) -> str:
        """SIGKILL to the whole group; where it was, in words."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        tasks = [
            line for line in self._text().splitlines() if line.startswith(("TASK [", "PLAY ["))
        ]
        where = tasks[-1].rstrip("* ") if tasks else "before its first play"
        return f"after {time.monotonic() - self.began:.2f} s, in {where}"

    def kill_when(self, look: Callable[[], bool], seconds: float) -> str:
        """The same as soon as something is so; AssertionError if it isn't before the run has ended."""
        try:
            while not look():
                assert self.process.poll() is None, f"the run ended before: {self._text()[-3000:]}"
                assert time.monotonic() - self.began < seconds, "it did not come to that"
        finally:
            where = self.kill()
        return where

    def _text(self) -> str:
        return self.transcript.read_text(errors="replace")
