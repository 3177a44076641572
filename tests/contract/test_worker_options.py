"""A worker of the inventory takes every option that `celery worker` has a flag for."""

from __future__ import annotations

import pytest
from ansible_collections.celery_fleet.core.plugins.plugin_utils.desired.worker_options import (
    WORKER,
)
from celery.bin.worker import worker

# Flags that the fleet sets itself, or that belong to a way of running which systemd takes the place of.
OURS = {
    "--hostname",
    "--queues",
    "--detach",
    "--pidfile",
    "--logfile",
    "--uid",
    "--gid",
    "--umask",
    "--executable",
    # Beat inside of a worker: with two workers every entry would be sent twice.
    "--beat",
    "--schedule-filename",
    "--schedule",
    "--scheduler",
    "--help",
}


def flags() -> list[str]:
    """The long flags of the installed Celery's `celery worker`, or the short one of an option that has no long."""
    found = []
    for option in worker.params:
        long = [name for name in option.opts if name.startswith("--")]
        found += long[:1] or option.opts[:1]
    return [flag for flag in found if flag not in OURS]


def test_there_are_flags() -> None:
    assert len(flags()) > 15


@pytest.mark.parametrize("flag", flags())
def test_each_flag_has_an_option(flag: str) -> None:
    ours = {option.flag for option in WORKER}
    # Celery knows the scheduling of tasks as -O alone.
    names = {flag, "-O"} if flag in ("--optimization", "-O") else {flag}
    assert names & ours, f"celery worker has {flag}, an instance has no option for it"
