# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor in the BRIDGE_LIST of a datastore, whose domains use the images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import DatastoreDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.registry import new_driver
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from lab import Lab

BASE = "/srv/bridged/100"


@pytest.fixture
def driver(
    site: Lab, execute: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], DatastoreDriver]]:
    (tmp_path / "ssh").write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]} exec ssh -F "{site.ssh_config}" "$@"\n')
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    execute("hv1", "mkdir", "-p", os.path.dirname(BASE))
    yield lambda: new_driver(Datastore(100, "x", "image", "fs", "shared", BASE, bridge_list=("hv1",)))
    execute("hv1", "rm", "-rf", os.path.dirname(BASE))


def test_domains_of_a_bridge_use_images(
    driver: Callable[[], DatastoreDriver], execute: Callable[..., str], domain: Callable[..., str]
) -> None:
    driver().prepare()
    used, other = (driver().mkfs(1, "raw", None) for _number in range(2))
    name = domain("hv1", "of the bridge")
    execute("hv1", "virsh", "attach-disk", name, used, "vda", "--config")
    asked = driver()
    assert list(asked.users(used)) == ["libvirt's domain 'of the bridge' on the host 'hv1'"]
    assert list(asked.users(used, running=True)) == []
    assert list(asked.users(other)) == []
    execute("hv1", "virsh", "start", name)
    assert any(user.startswith("the program qemu-system-x86") for user in driver().users(used, running=True))
