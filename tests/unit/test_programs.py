# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The programs that script/fresh finds in a trace, with programs of this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTED = subprocess.run(
    ["bash", "-c", ". script/lib.sh; apt_packages"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()

Ran = Callable[[str], Path]


@pytest.fixture
def ran(tmp_path: Path) -> Ran:
    """Run a shell script, traced, and return the file with the executed programs."""

    def run(script: str) -> Path:
        executed = tmp_path / "executed"
        with (
            subprocess.Popen(
                ["sh", "-c", f"read -r _; {script}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            ) as shell,
            subprocess.Popen(
                [sys.executable, ROOT / "script" / "execs.py", str(shell.pid), executed],
                stdout=subprocess.PIPE,
                text=True,
            ) as tracer,
        ):
            assert tracer.stdout.readline() == "attached\n"
            shell.communicate(b"\n", timeout=60)
            assert tracer.wait(timeout=60) == 0
        assert shell.returncode == 0
        return executed

    return run


def compare(executed: Path, listed: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        ["/usr/bin/python3", ROOT / "script" / "programs.py", executed, *listed],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def paths(executed: Path) -> list[str]:
    return [json.loads(line)["path"] for line in executed.read_text().splitlines()]


def test_a_program_that_another_program_runs_is_named_when_no_package_brings_it(ran: Ran) -> None:
    executed = ran("env sh -c 'iptables --version; true'")
    without = [package for package in LISTED if package != "iptables"]
    sentence = (
        "/usr/sbin/iptables, started by /usr/bin/dash, belongs to the package iptables, which no listed package "
        "depends on.\n"
    )
    assert compare(executed, without) == (1, sentence)
    assert compare(executed, LISTED) == (0, "")


def test_dependencies_and_the_minimal_system_count(ran: Ran) -> None:
    # podman depends on conmon, ldd is a script of an essential package, and mmdebstrap runs with perl.
    executed = ran("/usr/bin/conmon --version; ldd /bin/true; mmdebstrap --version; apt-get --version; cc --version")
    assert compare(executed, LISTED) == (0, "")
    status, said = compare(executed, ["gcc", "mmdebstrap"])
    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith("/usr/bin/conmon, ")


def test_a_program_of_no_package_is_named_unless_the_run_made_it(ran: Ran) -> None:
    executed = ran("for name in /var/tmp/granary-true /opt/granary-true; do cp /bin/true $name; $name; rm $name; done")
    assert compare(executed, LISTED) == (1, "/opt/granary-true, started by /usr/bin/dash, belongs to no package.\n")


def test_programs_in_another_root_are_another_tree_s(ran: Ran) -> None:
    tree = "mount -t tmpfs none /mnt; cp -a /bin /lib* /mnt; mkdir /mnt/usr; mount --bind /usr /mnt/usr"
    executed = ran(
        f"unshare --mount --pid --fork sh -ec '{tree}; chroot /mnt sh -c \"id; (uname; date) | cat\"'; hostname"
    )
    assert [Path(path).name for path in paths(executed)] == [
        "unshare",
        "sh",
        "mount",
        "cp",
        "mkdir",
        "mount",
        "chroot",
        "hostname",
    ]


PROCESSES = """
import os, signal, subprocess, threading
threads = [threading.Thread(target=subprocess.run, args=(["true"],)) for _each in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
stopped = subprocess.Popen(["sh", "-c", "kill -STOP $$; uname"])
os.waitpid(stopped.pid, os.WUNTRACED)
os.kill(stopped.pid, signal.SIGCONT)
stopped.wait()
subprocess.run(["sh", "-c", "hostname &"])
signal.signal(signal.SIGUSR1, lambda *_: os.execvp("id", ["id"]))
os.kill(os.getpid(), signal.SIGUSR1)
"""


def test_threads_orphans_stops_and_signals_are_as_without_a_tracer(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "processes.py").write_text(PROCESSES)
    executed = ran(f"/usr/bin/python3 {tmp_path}/processes.py")
    names = [Path(path).name for path in paths(executed)]
    assert sorted(names) == sorted(["python3", *["true"] * 20, "sh", "uname", "sh", "hostname", "id"])


def test_a_run_without_programs_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "executed").touch()
    assert compare(tmp_path / "executed", LISTED)[0] == 1
