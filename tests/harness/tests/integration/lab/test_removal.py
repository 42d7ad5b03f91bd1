# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The complete removal of a lab: by down, after a kill at any moment, after a kill of pytest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

NAME = "removal"
LAB = f"name: {NAME}\nhosts:\n  hv1: {{kind: debian13}}\nguests:\n  rw: {{host: hv1}}\n"


@pytest.fixture
def lab_file(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yml"
    path.write_text(LAB, encoding="utf-8")
    return path


def down() -> None:
    subprocess.run(["lab", "down", "--lab", NAME], check=True, timeout=120)


def test_down_leaves_nothing_and_can_be_repeated(lab_file: Path, traces: Any) -> None:
    subprocess.run(["lab", "up", str(lab_file)], check=True, timeout=600)
    subprocess.run(["lab", "ssh", "--lab", NAME, "rw", "true"], check=True, timeout=60)
    ids, links = traces.containers(NAME), traces.bridges(NAME)
    assert ids and links and traces.all_of(NAME, ids, links)["mounts"]
    down()
    assert traces.all_of(NAME, ids, links) == traces.NOTHING
    down()


@pytest.mark.parametrize("moment", ["network", "keys, ssh_config", "host hv1", "guests defined", "is up"])
def test_after_a_kill(lab_file: Path, moment: str, traces: Any) -> None:
    """Kill the lab after its line *moment*: between two steps, during the creation of the container, during the guest's
    boot, and at the end.
    """
    with subprocess.Popen(["lab", "up", str(lab_file)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if moment in line:
                break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    ids, links = traces.containers(NAME), traces.bridges(NAME)
    down()
    assert traces.all_of(NAME, ids, links) == traces.NOTHING


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_removes_what_it_made(lab_file: Path, number: signal.Signals, traces: Any) -> None:
    with subprocess.Popen(["lab", "up", str(lab_file)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if "host hv1" in line)
        ids, links = traces.containers(NAME), traces.bridges(NAME)
        process.send_signal(number)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 128 + number
    assert ids and links
    assert traces.all_of(NAME, ids, links) == traces.NOTHING


def test_after_a_kill_while_podman_starts_the_host(lab_file: Path, traces: Any) -> None:
    with subprocess.Popen(["lab", "up", str(lab_file)], stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 300
        while (
            not any(f"--name lab-{NAME}-hv1" in line for line in traces.processes(NAME))
            and time.monotonic() < end
            and process.poll() is None
        ):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    # Only here podman still runs after the kill.
    ids, links = traces.containers(NAME), traces.bridges(NAME)
    down()
    assert traces.all_of(NAME, ids, links) == traces.NOTHING


def test_up_after_a_kill_begins_anew(lab_file: Path, traces: Any) -> None:
    for _time in range(2):
        with subprocess.Popen(["lab", "up", str(lab_file)], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            next(line for line in process.stderr if "host hv1" in line)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    subprocess.run(["lab", "up", str(lab_file)], check=True, timeout=600)
    assert (
        subprocess.run(
            ["lab", "ssh", "--lab", NAME, "rw", "hostname"], check=True, timeout=60, capture_output=True, text=True
        ).stdout
        == "rw\n"
    )
    ids, links = traces.containers(NAME), traces.bridges(NAME)
    assert len(ids) == 1
    down()
    assert traces.all_of(NAME, ids, links) == traces.NOTHING


def test_a_killed_build_of_a_tree_leaves_no_process_and_no_mount(lab_file: Path, tmp_path: Path, traces: Any) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    before = set(Path("/tmp").glob("mmdebstrap*"))
    with subprocess.Popen(["lab", "up", str(lab_file)], stderr=subprocess.DEVNULL, env=environment) as process:
        end = time.monotonic() + 120
        while not list(tmp_path.glob("granary-vmstore/.tree-*.tmp/usr")) and time.monotonic() < end:
            time.sleep(0.05)
        assert list(tmp_path.glob("granary-vmstore/.tree-*.tmp/usr"))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    end = time.monotonic() + 30
    while _builders(str(tmp_path)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _builders(str(tmp_path))
    assert set(Path("/tmp").glob("mmdebstrap*")) <= before
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    subprocess.run(["lab", "down", "--lab", NAME], check=True, env=environment, timeout=120)
    assert traces.all_of(NAME, [], []) == traces.NOTHING


def _builders(word: str) -> list[str]:
    return [
        line
        for line in subprocess.run(
            ["ps", "axww", "-o", "stat=,args="], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if word in line and "mmdebstrap" in line and not line.startswith("Z")
    ]


def test_a_failed_up_removes_what_it_made(lab_file: Path, tmp_path: Path, traces: Any) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "mine").touch()
    done = subprocess.run(
        ["lab", "up", str(lab_file), "--state", str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1 and "isn't empty" in done.stderr and "Traceback" not in done.stderr
    assert (tmp_path / "state" / "mine").exists()
    lab_file.write_text(LAB.replace("{host: hv1}", "{host: hv1, memory: 65536}"), encoding="utf-8")
    done = subprocess.run(["lab", "up", str(lab_file)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1 and "lab: " in done.stderr and "Traceback" not in done.stderr
    assert traces.all_of(NAME, [], []) == traces.NOTHING


KILLED_PYTEST = f"""
import os, signal
def test_killed(lab_factory):
    lab = lab_factory({{"name": "{NAME}", "hosts": {{"hv1": {{"kind": "debian13"}}}}}})
    assert lab.ssh("hv1", "hostname") == "hv1\\n"
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_watchdog_takes_the_lab_down_when_pytest_is_killed(tmp_path: Path, traces: Any) -> None:
    (tmp_path / "test_killed.py").write_text(KILLED_PYTEST, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--rootdir",
            str(tmp_path),
            "-c",
            "/dev/null",
            str(tmp_path / "test_killed.py"),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout
    end = time.monotonic() + 60
    while (left := traces.all_of(NAME, [], [])) != traces.NOTHING and time.monotonic() < end:
        time.sleep(0.2)
    assert left == traces.NOTHING
