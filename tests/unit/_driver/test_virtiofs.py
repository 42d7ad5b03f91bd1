# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import PathNotAllowed
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.virtiofs import VirtiofsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused


def driver(
    base_path: str = "/var/lib/one/datastores/100", protected: tuple[str, ...] = (), **dirs: tuple[str, ...]
) -> VirtiofsDriver:
    return VirtiofsDriver(Datastore(100, "x", "image", "virtiofs", "virtiofs", base_path, **dirs), protected=protected)


@pytest.mark.parametrize(
    "path", ["/mnt/data", "/srv/data", "/home/x", "/var/tmp/x", "/mnt", "/data", "/etcetera", "/opt/x"]
)
def test_by_default_a_data_directory_is_allowed(path: str) -> None:
    driver().check(path)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/",
            "/etc",
            "/etc/ssh",
            "/root",
            "/root/.ssh",
            "/boot",
            "/dev/shm",
            "/proc",
            "/sys",
            "/run",
            "/usr",
            "/usr/share/x",
            "/bin",
            "/sbin",
        ),
        *(
            "/lib",
            "/lib64",
            "/var",
            "/var/lib",
            "/var/lib/one",
            "/var/lib/one/datastores",
            "/var/lib/one/datastores/100",
            "/var/lib/one/datastores/7",
        ),
        *("/var/lib/one/vmstore", "/var/lib/libvirt", "/var/lib/libvirt/images"),
    ],
)
def test_by_default_system_directories_are_refused(path: str) -> None:
    with refused(PathNotAllowed, option="path", value=path):
        driver().check(path)


@pytest.mark.parametrize(
    "path", ["/srv/one/datastores", "/srv/one/datastores/100", "/srv/one/datastores/5/x", "/srv/one", "/srv"]
)
def test_the_place_of_all_datastores_is_refused_wherever_it_is(path: str) -> None:
    with pytest.raises(PathNotAllowed):
        driver(base_path="/srv/one/datastores/100").check(path)


def test_a_base_path_of_its_own_restricts_nothing_beside_it() -> None:
    driver(base_path="/mnt/store").check("/mnt/data")
    with pytest.raises(PathNotAllowed):
        driver(base_path="/mnt/store").check("/mnt/store/x")


def test_protected_directories_are_refused_with_their_ancestors() -> None:
    for path in ("/mnt/catalog/c.sqlite", "/mnt/catalog", "/mnt"):
        with pytest.raises(PathNotAllowed):
            driver(protected=("/mnt/catalog/c.sqlite",)).check(path)


def test_a_safe_directory_opens_what_is_in_it() -> None:
    driver(safe_dirs=("/var/www",)).check("/var/www/data")
    with pytest.raises(PathNotAllowed):
        driver(safe_dirs=("/var/www",)).check("/var/www-evil")


def test_a_safe_directory_does_not_open_what_is_restricted_in_it() -> None:
    with pytest.raises(PathNotAllowed):
        driver(safe_dirs=("/var/lib/one",)).check("/var/lib/one/datastores/5")


def test_restricting_the_root_leaves_the_safe_directories() -> None:
    strict = driver(safe_dirs=("/mnt/data",), restricted_dirs=("/",))
    strict.check("/mnt/data/x")
    with pytest.raises(PathNotAllowed):
        strict.check("/mnt/other")


def test_own_restrictions_do_not_lift_the_default_ones() -> None:
    with pytest.raises(PathNotAllowed):
        driver(restricted_dirs=("/srv/private",)).check("/etc")
