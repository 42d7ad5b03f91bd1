# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The monitoring of VM disks in a system datastore whose file system fails or hangs."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import FileAccessFailed, TimedOut
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import VmUsage
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.directory import SystemDriver
from ansible_collections.granary.vmstore.plugins.module_utils._image import vm_usage
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused
from simulated_datastore.testing import FaultRule, SimulatedDatastore

MIB = 2**20


def driver(store: Path, timeout: float = 60) -> SystemDriver:
    return SystemDriver(Datastore(100, "x", "system", None, "shared", str(store)), timeout=timeout)


def monitor_ds(store: Path, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the script of a host with another deadline."""
    source = f"{Path(vm_usage.__file__).read_text()}\nimport sys\nos._exit(main(sys.argv[1:], {seconds}))\n"
    command = [sys.executable, "-IS", "-c", source, store]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def vms_in(output: str) -> list[int]:
    return [int(number) for number in re.findall(r"VM = \[ ID = ([0-9]+),", output)]


@pytest.fixture
def datastore(datastore_factory) -> SimulatedDatastore:
    """Return a datastore with three VMs. Each has a disk with a snapshot."""
    datastore = datastore_factory({"host1": {"strict": True}})
    for vm in (1, 2, 3):
        (snapshots := datastore.path() / str(vm) / "disk.0.snap").mkdir(parents=True)
        (snapshots.parent / "disk.0").write_bytes(os.urandom(MIB))
        (snapshots / "0").write_bytes(os.urandom(2 * MIB))
    return datastore


WHOLE = tuple(VmUsage(vm, ((0, 1),), ((0, 0, 2),)) for vm in (1, 2, 3))


def test_a_sound_datastore(datastore: SimulatedDatastore) -> None:
    store = datastore.path()
    assert driver(store).vm_usage() == WHOLE
    done = monitor_ds(store)
    assert (done.returncode, done.stderr, vms_in(done.stdout)) == (0, "", [1, 2, 3])


@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("path", ["2", "2/disk.0.snap"])
@pytest.mark.parametrize("operation", ["opendir", "readdir"])
def test_a_vm_that_cannot_be_read(datastore: SimulatedDatastore, operation: str, path: str, error: int) -> None:
    store = datastore.path()
    with datastore.fault(operation, error, path=path) as rule:
        found = driver(store).vm_usage()
        done = monitor_ds(store)
        assert rule.hits
    assert found == (WHOLE[0], VmUsage(2, (), (), os.strerror(error)), WHOLE[2])
    assert (done.returncode, vms_in(done.stdout)) == (0, [1, 3])
    assert done.stderr == f"INFO: The disks of VMs in '{store}' could not be read: 2 ({os.strerror(error)}).\n"


@pytest.mark.parametrize("operation", ["statfs", "opendir", "readdir"])
def test_a_datastore_that_cannot_be_read(datastore: SimulatedDatastore, operation: str) -> None:
    store = datastore.path()
    with datastore.fault(operation, errno.ESTALE, path="/"):
        if operation != "statfs":
            with refused(FileAccessFailed, names=[store, os.strerror(errno.ESTALE)]):
                driver(store).vm_usage()
        done = monitor_ds(store)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"The datastore '{store}' could not be read: {os.strerror(errno.ESTALE)}.\n"


@pytest.mark.parametrize("operation", ["statfs", "opendir", "readdir"])
def test_a_server_that_stops_answering(datastore: SimulatedDatastore, operation: str) -> None:
    store = datastore.path()
    rule = FaultRule(datastore.control, datastore.control.call("rule.add", ops=[operation], action="hang"))
    done = monitor_ds(store, 1)
    assert rule.hits
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Reading the datastore '{store}' did not end within 1 seconds and was stopped.\n"
    if operation != "statfs":
        with refused(TimedOut, names=[store, "1 seconds"]):
            driver(store, 1).vm_usage()
    rule.delete()
    if operation != "statfs":
        os.waitpid(-1, 0)  # the process whose request hung ends now
    assert driver(store).vm_usage() == WHOLE


def test_10000_snapshots(datastore: SimulatedDatastore) -> None:
    store = datastore.path()
    for number in range(1, 10_001):
        (store / "2" / "disk.0.snap" / str(number)).touch()
    (found,) = [one for one in driver(store, 300).vm_usage() if one.vm == 2]
    assert found.snapshots == ((0, 0, 2), *((number, 0, 0) for number in range(1, 10_001)))


def test_a_script_that_is_killed(datastore: SimulatedDatastore) -> None:
    """Without its child process, the script has no report."""
    store = datastore.path()
    rule = FaultRule(datastore.control, datastore.control.call("rule.add", ops=["opendir"], action="hang"))
    source = f"{Path(vm_usage.__file__).read_text()}\nimport sys\nos._exit(main(sys.argv[1:]))\n"
    command = [sys.executable, "-IS", "-c", source, store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as script:
        datastore.wait_for(hanging=1)
        (child,) = Path(f"/proc/{script.pid}/task/{script.pid}/children").read_text().split()
        os.kill(int(child), 9)
        rule.delete()
        out, err = script.communicate(timeout=60)
    assert (script.returncode, out) == (1, "")
    assert err == f"Reading the datastore '{store}' was stopped by another program.\n"
