# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Make `ansible_collections.granary.vmstore` importable, wherever the checkout is, and give each test its tier.

`ansible_collections` and `granary` are namespace packages. One symbolic link in a directory on the import path is
therefore enough.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
from nfs_host import NfsHost  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
COLLECTIONS = ROOT / ".cache" / "collections"

#: A user without an account, who attacks actions of root.
TENANT = 61001


def link_collection() -> None:
    """Create the same link as script/lib.sh."""
    link = COLLECTIONS / "ansible_collections" / "granary" / "vmstore"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(ROOT, link.parent), target_is_directory=True)


# Tests compare allocated blocks, and /tmp can be a tmpfs, for example on a new Debian 13.
tempfile.tempdir = os.environ["TMPDIR"] = "/var/tmp"
link_collection()
sys.path[:0] = [str(COLLECTIONS), str(ROOT / "tests")]
pytest.register_assert_rewrite("refusal")
# Tests also start Python and Ansible as separate processes, and some run a test file there.
os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(COLLECTIONS)
os.environ["ANSIBLE_NOCOLOR"] = "1"
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(ROOT / ".cache" / "hypothesis")
# Pipelining makes Ansible use one connection for each task instead of six.
os.environ["ANSIBLE_PIPELINING"] = "1"


# A loaded machine fails no property test, and examples leave no files in the checkout.
settings.register_profile("vmstore", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vmstore")

#: Folders and files below tests/unit whose tests need root, or programs of QEMU, sshd(8) or mkfs(8).
HOST = (
    "_catalog/test_catalog.py",
    "_catalog/test_catalog_of_another_user.py",
    "_catalog/test_file_system.py",
    "_core/test_deadline_of_another_user.py",
    "_core/test_directory.py",
    "_core/test_files.py",
    "_driver/",
    "_face/driver_script/test_attacks.py",
    "_face/driver_script/test_entry.py",
    "_face/driver_script/test_existing_drivers.py",
    "_face/driver_script/test_monitor_daemon.py",
    "_host/metrics/test_disk.py",
    "_host/test_condition.py",
    "_host/test_directory.py",
    "_host/test_exportfs.py",
    "_host/test_mount_point.py",
    "_host/test_open_files.py",
    "_host/test_other_types.py",
    "_host/test_shadow_lock.py",
    "_host/test_shared_directory.py",
    "_host/test_ssh.py",
    "_host/test_store.py",
    "_host/test_subid.py",
    "_host/test_usability.py",
    "_host/test_virtiofsd_process.py",
    "_host/test_virtiofsd_wrapper.py",
    "_image/",
    "_service/cluster_ssh/test_files.py",
    "_service/container_disk/",
    "_service/image_work/",
    "_service/metrics/test_program.py",
    "_service/shared_mount/",
    "_service/test_data_users.py",
    "_service/test_datastore_check.py",
    "_service/test_datastore_info_hung.py",
    "_service/test_directory.py",
    "_service/test_export_owner.py",
    "_service/test_foretelling.py",
    "_service/test_full_file_system.py",
    "_service/test_image.py",
    "_service/test_image_data.py",
    "_service/test_image_origins.py",
    "_service/test_image_urls.py",
    "_service/test_nfs_export.py",
    "_service/test_parallel.py",
    "_service/test_subid.py",
    "_service/test_virtiofs_export.py",
    "_service/test_virtiofs_mount.py",
    "_service/volume/test_found_sources.py",
    "_service/volume/test_purge.py",
    "_service/test_vm_context.py",
    "simulated_datastore/test_capacity.py",
    "simulated_datastore/test_durability.py",
    "simulated_datastore/test_policies.py",
    "test_programs.py",
    "test_scripts.py",
)


#: Parts of the paths of tests that start a lab by a command, and not by its fixture.
LAB = ("/integration/lab/", "/integration/test_demo.py", "/integration/test_fresh.py", "/integration/test_testing.py")
#: The tiers, beginning with the one whose tests take longest.
TIERS = ("lab", "host", "pure")
#: Files whose tests share a lab. A key begins with the fixture that starts the lab. One process of pytest-xdist runs
#: all tests of a key, so that no lab is started twice. The fixture ``site`` has two keys, because its tests take longer
#: than all others.
SHARED = {
    "site 1": (
        "test_bridge_domains.py",
        "test_cloud_init.py",
        "test_disk_attachment.py",
        "test_disks_of_a_guest.py",
        "test_readme.py",
        "test_running_disk_copies.py",
        "test_running_disks.py",
        "test_site.py",
        "test_vm_disk.py",
    ),
    "site 2": (
        "test_domain_volumes.py",
        "test_domain_volumes_info.py",
        "test_domain_volumes_in_use.py",
        "test_domain_volumes_role.py",
        "test_domain_volumes_steps.py",
        "test_hostile_guest.py",
        "test_kubevirt_examples.py",
        "test_live_calls.py",
        "test_virtiofs_daemon.py",
        "test_virtiofs_export.py",
        "test_virtiofs_export_xml.py",
        "test_virtiofs_mount.py",
        "test_volume_xml.py",
        "test_volumes_of_a_guest.py",
        "test_wrapper.py",
    ),
    "nfs_lab": ("test_nfs_export.py", "test_shared_mount.py"),
    "migration_lab": (
        "test_vm_migrate.py",
        "test_vm_migrate_checks.py",
        "test_vm_migrate_failures.py",
        "test_vm_migrate_guest.py",
    ),
}


def tier_of(item: pytest.Item) -> str:
    """Return the tier of a test, according to the needs of its fixtures, its folder and its file."""
    path = item.path.as_posix()
    if "lab_factory" in getattr(item, "fixturenames", ()) or any(part in path for part in LAB):
        return "lab"
    unit = path.rpartition("/tests/unit/")[2]
    return "host" if "/integration/" in path or unit.startswith(HOST) else "pure"


def shared_lab_of(path: str) -> str:
    """Return the key of the lab that the file shares, or an empty text."""
    folder, _slash, name = path.rpartition("/")
    return next((lab for lab, names in SHARED.items() if folder.endswith("/integration") and name in names), "")


def fixture_of(lab: str) -> str:
    return lab.partition(" ")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, and put files that take long first, so that two workers end at the same time."""
    sizes = Counter(item.path for item in items)
    tiers = {item: tier_of(item) for item in items}
    labs = {item.path: shared_lab_of(item.path.as_posix()) for item in items}
    for item, tier in tiers.items():
        item.add_marker(tier)
        fixtures = [fixture_of(lab) for lab in reversed(SHARED)]
        lab = next((lab for lab in fixtures if lab in getattr(item, "fixturenames", ())), "")
        if tier == "lab" and lab != fixture_of(labs[item.path]) and lab:
            raise pytest.UsageError(f"{item.path}: a file that uses the fixture {lab} must be in SHARED.")
    first: dict[Path, int] = {}
    for item, tier in tiers.items():
        first[item.path] = min(TIERS.index(tier), first.get(item.path, len(TIERS)))
    order = [*SHARED, ""]
    items.sort(key=lambda item: (order.index(labs[item.path]), first[item.path], -sizes[item.path], item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let one process run all tests of a file, or of a shared lab."""
    from xdist.scheduler import LoadFileScheduling

    class LoadLabScheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return shared_lab_of(f"/{file}") or file

    return LoadLabScheduling(config, log)


@pytest.fixture
def tenant() -> Iterator[Path]:
    """Return a directory of the user TENANT, in which all parent directories can be searched by this user."""
    name = tempfile.mkdtemp(prefix="tenant-")
    try:
        os.chown(name, TENANT, TENANT)
        os.chmod(name, 0o755)
        yield Path(name)
    finally:
        subprocess.run(["rm", "-rf", name], check=True)  # no depth of directories stops it


@pytest.fixture
def swapping() -> Callable[[Path, Path], contextlib.AbstractContextManager[None]]:
    """Let the user TENANT exchange two names repeatedly during a block."""

    @contextlib.contextmanager
    def swap(name: Path, other: Path) -> Iterator[None]:
        command = [sys.executable, "-I", ROOT / "tests" / "swapping.py", str(TENANT), name, other]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout and process.stdout.readline() == b"begun\n"
                yield
                assert process.poll() is None
            finally:
                process.kill()

    return swap


@pytest.fixture
def nfs_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NfsHost:
    """Return a host whose exportfs(8) is on the PATH."""
    host = NfsHost(tmp_path)
    monkeypatch.setenv("PATH", f"{host.bin}:{os.environ['PATH']}")
    return host


@pytest.fixture
def opened_by_qemu() -> Iterator[Callable[..., None]]:
    """Let qemu-io open a file until the end of the test, with QEMU's locks, like a virtual machine."""
    running = []

    def opened(path: Path, *options: str) -> None:
        process = subprocess.Popen(["qemu-io", *options, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        running.append(process)
        process.stdin.write(b"read 0 512\n")
        process.stdin.flush()
        assert b"read 512/512" in process.stdout.readline()

    yield opened
    for process in running:
        process.communicate(b"quit\n", 10)
