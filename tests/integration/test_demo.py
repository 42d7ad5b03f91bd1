# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""script/demo when a signal ends it early. molecule/virtiofs tests everything else of the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "script" / "demo.py"


def podman(*arguments: str) -> str:
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout


def find_leftovers() -> str:
    """Return the remains of the demo's lab: directories, containers with their processes, and network bridges."""
    containers = podman("ps", "--all", "--noheading", "--filter", "label=granary.lab=demo")
    networks = podman("network", "ls", "--quiet", "--filter", "label=granary.lab=demo")
    directories = [str(path) for path in Path("/run/granary-lab").glob("demo*")]
    return "\n".join([containers, networks, *directories]).strip()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_of_a_demo_that_is_ended(number: signal.Signals, status: int) -> None:
    with subprocess.Popen([sys.executable, DEMO], stdout=subprocess.PIPE, text=True, start_new_session=True) as demo:
        line = next(line for line in demo.stdout or () if "TASK" in line)  # within the first playbook
        assert line
        assert find_leftovers()
        # Ctrl-C in a terminal reaches all processes, SIGTERM of a service manager only the first one.
        (os.killpg if number == signal.SIGINT else os.kill)(demo.pid, number)
        output, _nothing = demo.communicate(timeout=120)
    assert demo.returncode == status, output
    assert find_leftovers() == ""
    assert subprocess.run(["pgrep", "--session", str(demo.pid)], capture_output=True, check=False).stdout == b""


def test_it_takes_no_arguments() -> None:
    done = subprocess.run([sys.executable, DEMO, "--fast"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "script/demo: '--fast' is not accepted: it takes no arguments.\n")
