"""Replaces the action plugin of this name."""

from tests.unit.plays.stand_ins import ActionModule as ActionModule
