# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""script/fresh with a short demo in place of the real one. The suite ``fresh`` runs the real demo."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Checkout = Callable[[str], Path]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """Create a checkout with a shell script as its demo. The script is an uncommitted change."""

    def make(demo: str) -> Path:
        directory = tmp_path / "checkout"
        subprocess.run(["git", "-c", "safe.directory=*", "clone", "--quiet", ROOT, directory], check=True)
        for path in (ROOT / "script").iterdir():
            if path.is_file():
                shutil.copy(path, directory / "script")
        (directory / "script" / "demo").write_text(f"#!/bin/bash\n{demo}\n")
        subprocess.run(["git", "-C", directory, "add", "script"], check=True)
        return directory

    return make


def start(directory: Path) -> subprocess.Popen[str]:
    command = [sys.executable, directory / "script" / "fresh.py", "bookworm", "--cached"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def find_leftovers(fresh: subprocess.Popen[str], directory: Path) -> str:
    """Return the remains of a run: its container, mounts, the clone, and the tracer."""
    names = subprocess.run(
        ["podman", "ps", "--all", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    ).stdout
    tracer = subprocess.run(
        ["pgrep", "-af", f"execs.py .*{directory}"], capture_output=True, text=True, check=False
    ).stdout
    lines = [
        *names.splitlines(),
        *Path("/proc/self/mountinfo").read_text().splitlines(),
        *map(str, Path("/var/tmp").iterdir()),
    ]
    return "\n".join([*(line for line in lines if f"vmstore-fresh-{fresh.pid}" in line), tracer]).strip()


def expect_failure(directory: Path) -> tuple[str, str]:
    """Return the output of a run that fails and leaves no remains."""
    with start(directory) as fresh:
        told = fresh.communicate(timeout=300)
    assert fresh.returncode == 1, told
    assert find_leftovers(fresh, directory) == ""
    return told


def test_a_failure_tells_the_reason_and_the_end_of_the_output(checkout: Checkout) -> None:
    directory = checkout("echo '==> about to fail'; ls; id -u; exit 3")
    (directory / "untracked").touch()
    printed, said = expect_failure(directory)
    assert "s:   about to fail\n" in printed
    assert printed.endswith("failed\n")
    lines = said.strip().splitlines()
    assert lines[0] == "script/fresh: bookworm: script/demo ended with 3, and its output with:"
    # The clone doesn't have files that git doesn't track.
    assert "roles" in lines and "untracked" not in lines
    assert lines[-2:] == ["0", "fresh: ended with 3"]


def test_a_program_of_no_listed_package_fails(checkout: Checkout) -> None:
    # The minimal tree has this package, and no list.
    _printed, said = expect_failure(
        checkout(". script/lib.sh; mkdir .cache; apt_install python3; update-ca-certificates")
    )
    name = "/usr/sbin/update-ca-certificates, started by /usr/bin/bash, belongs to the package ca-certificates"
    assert f"not every program that ran is in a list of packages:\n{name}" in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_when_it_is_ended(checkout: Checkout, number: signal.Signals, status: int) -> None:
    directory = checkout("echo '==> at work'; mount --bind /srv /mnt; sleep 1000")
    with start(directory) as fresh:
        next(line for line in fresh.stdout or () if "at work" in line)
        assert find_leftovers(fresh, directory)
        (os.killpg if number == signal.SIGINT else os.kill)(fresh.pid, number)
        told = fresh.communicate(timeout=120)
    assert fresh.returncode == status, told
    assert find_leftovers(fresh, directory) == ""


def test_another_release_is_refused_with_those_that_there_are() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "script" / "fresh.py", "noble"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "invalid choice: 'noble' (choose from" in done.stderr
