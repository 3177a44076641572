"""Fixtures: the application of the load, which is not on the import path, and a checkout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.restarts.runs import Checkout

APPLICATION = Path(__file__).resolve().parents[3] / "molecule" / "restarts" / "application"


@pytest.fixture(scope="session")
def load_plan() -> ModuleType:
    spec = importlib.util.spec_from_file_location("load_plan", APPLICATION / "load" / "plan.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look up their own module.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)
