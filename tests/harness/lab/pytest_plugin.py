# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The pytest fixture ``lab_factory``."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from . import watchdog
from .running import Lab
from .spec import load_spec

LabFactory = Callable[[Mapping[str, Any] | str | Path], Lab]


@pytest.fixture(scope="session")
def lab_factory() -> Iterator[LabFactory]:
    """Return a function that creates a :class:`Lab` from a lab file or its mapping.

    The lab is removed when the session ends, also when the session is killed.
    """
    with contextlib.ExitStack() as stack:

        def factory(source: Mapping[str, Any] | str | Path) -> Lab:
            spec = load_spec(source)
            lab = Lab(spec.name)
            instance = uuid.uuid4().hex
            stack.enter_context(_watch(lab, instance))
            lab.up(spec, instance=instance)
            return lab

        yield factory


@contextlib.contextmanager
def _watch(lab: Lab, instance: str) -> Iterator[None]:
    """Take the lab down at the end. If this process is killed, the watchdog does."""
    dog = watchdog.start(lab.name, instance)
    try:
        yield
    finally:
        lab.down(instance)
        if dog.stdin:
            dog.stdin.close()
        dog.wait()
