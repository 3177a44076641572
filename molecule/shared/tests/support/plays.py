"""Run the delivered playbooks as an operator does, and keep a transcript of each run."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

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


def play(
    fleet: Fleet, title: str, *arguments: str, playbook: str = "site.yml", root: Path = ROOT
) -> Run:
    """Run a playbook with -vvv and --diff, since other tests search its output for secrets.

    `root` is the checkout, or a copy of it in which a test has broken something.
    """
    directory = transcripts(fleet)
    directory.mkdir(mode=0o700, exist_ok=True)
    transcript = directory / f"{title}.log"
    command = [
        "ansible-playbook",
        *inventory_arguments(fleet.sources),
        "-vvv",
        "--diff",
        *arguments,
        playbook,
    ]
    with open(os.open(transcript, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
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
