# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A state that ends when its block ends, at the deadline, and when the process is killed.

The state is a file that exists.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed, TimedOut
from ansible_collections.granary.vmstore.plugins.module_utils._core.guard import guarded
from refusal import refused

DOING = "Holding the state"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """Return a file with one line for each end of the state."""
    return tmp_path / "ended"


@pytest.fixture
def prepare(state: Path, ended: Path) -> Callable[[], Callable[[], None]]:
    def end() -> None:
        state.unlink(missing_ok=True)
        with ended.open("a") as file:
            file.write(f"{os.getpid()}\n")

    return lambda: end


def wait_for(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.01)


def test_the_state_lasts_for_the_block(state: Path, ended: Path, prepare: Callable[[], Callable[[], None]]) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    with guarded(DOING, state.touch, prepare, deadline=60, patience=60):
        assert state.exists() and not ended.exists()
        assert children.read_text() != before
    assert not state.exists() and len(ended.read_text().split()) == 1
    assert children.read_text() == before


def test_the_state_ends_after_an_error(state: Path, ended: Path, prepare: Callable[[], Callable[[], None]]) -> None:
    with pytest.raises(ZeroDivisionError), guarded(DOING, state.touch, prepare, deadline=60, patience=60):
        raise ZeroDivisionError
    assert not state.exists() and len(ended.read_text().split()) == 1


def test_the_state_ends_at_the_deadline(state: Path, ended: Path, prepare: Callable[[], Callable[[], None]]) -> None:
    with (
        refused(TimedOut, says="Holding the state did not end within 0.2 seconds and was stopped."),
        guarded(DOING, state.touch, prepare, deadline=0.2, patience=60),
    ):
        wait_for(lambda: not state.exists())
    assert len(ended.read_text().split()) == 1


def test_a_state_that_did_not_begin_is_ended_in_the_background(
    ended: Path, prepare: Callable[[], Callable[[], None]]
) -> None:
    def begin() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), guarded(DOING, begin, prepare, deadline=60, patience=60):
        pytest.fail("the block must not run")
    wait_for(ended.exists)


def test_the_end_is_tried_again(state: Path, ended: Path, prepare: Callable[[], Callable[[], None]]) -> None:
    fails = state.with_name("fails")
    fails.touch()

    def prepare_failing() -> Callable[[], None]:
        def end() -> None:
            with contextlib.suppress(FileNotFoundError):
                fails.unlink()
                raise ZeroDivisionError
            prepare()()

        return end

    with guarded(DOING, state.touch, prepare_failing, deadline=60, patience=60):
        pass
    assert not state.exists() and len(ended.read_text().split()) == 1


def test_an_end_that_never_succeeds(state: Path) -> None:
    def end() -> None:
        raise ZeroDivisionError

    with (
        refused(CommandFailed, says="Holding the state could not be ended within 0.1 seconds."),
        guarded(DOING, state.touch, lambda: end, deadline=60, patience=0.1),
    ):
        pass


def test_a_guard_that_cant_prepare_itself(state: Path) -> None:
    def prepare() -> Callable[[], None]:
        raise ZeroDivisionError

    with (
        refused(
            CommandFailed,
            says="Holding the state was not begun, because the process that would end it could not start.",
        ),
        guarded(DOING, state.touch, prepare, deadline=60, patience=60),
    ):
        pytest.fail("the block must not run")
    assert not state.exists()


def test_a_guard_that_is_killed(state: Path, ended: Path, prepare: Callable[[], Callable[[], None]]) -> None:
    """This process then ends the state itself."""
    with guarded(DOING, state.touch, prepare, deadline=60, patience=60):
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    assert not state.exists() and ended.read_text().split() == [str(os.getpid())]


#: A process that holds the state until it is killed.
PROGRAM = """
import pathlib, signal, sys, time
from ansible_collections.granary.vmstore.plugins.module_utils._core.guard import guarded
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell without job control ignores it for its children
state = pathlib.Path(sys.argv[1])
with guarded("x", state.touch, lambda: state.unlink, deadline=600, patience=60):
    print("inside", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_state_ends_when_the_process_group_dies(state: Path, number: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(state)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        assert process.stdout and process.stdout.readline() == b"inside\n" and state.exists()
        os.killpg(process.pid, number)
        # The guard holds no descriptor of its parent, so that readers of the output don't wait for the guard.
        assert process.stdout.read() == b""
    wait_for(lambda: not state.exists())
