# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cloud image with real cloud-init mounts the entries of its NoCloud seed.

Nobody logs in. The report comes over the serial console.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lab import Lab

SEED = "/var/lib/libvirt/images/cloud-seed.iso"
Execute = Callable[..., str]
Module = Callable[..., dict[str, Any]]


@pytest.fixture
def export(site: Lab, module: Module, execute: Execute) -> Iterator[Callable[..., dict]]:
    host = site.guest("cloud").host.name

    def run(tag: str, **options: object) -> dict:
        result = module(host, "virtiofs_export", domain="cloud", mount_tag=tag, seed=SEED, **options)
        assert "msg" not in result, result["msg"]
        return result

    yield run
    site.guest("cloud").stop()
    for tag in ("data", "more"):
        run(tag, state="absent")
    execute(host, "rm", "-f", SEED)


def boot(site: Lab, execute: Execute) -> list[str]:
    """Start the guest, and return its report after the end of cloud-init."""
    guest = site.guest("cloud")
    guest.stop()
    offset = guest.console_size()
    guest.start()
    guest.wait_ready(offset)
    text = execute(guest.host.name, "tail", "-c", f"+{offset + 1}", guest.console)
    return re.split(r"\r*\n", text[text.index("lab: report begins") :])


def test_a_cloud_image_mounts_by_its_seed(
    site: Lab, export: Callable[..., dict], directory: Callable[..., str], execute: Execute
) -> None:
    host = site.guest("cloud").host.name
    data, more = (directory(host, f"/srv/cloud-{name}") for name in ("data", "more"))
    assert export("data", source=data, mount_point="/srv/data")["changed"]
    assert export("more", source=more, mount_point="/mnt/more", read_only=True)["changed"]
    assert not export("data", source=data, mount_point="/srv/data")["changed"]

    report = boot(site, execute)
    assert {"status: done", "errors: []", "recoverable_errors: {}"} <= set(report)
    assert {"/srv/data data virtiofs rw,relatime", "/mnt/more more virtiofs ro,relatime"} <= set(report)
    assert "data\t/srv/data\tvirtiofs\tnofail,comment=cloudconfig\t0\t0" in report

    # cloud-init applies mounts once per instance. The seed overrides this, because the instance is the same.
    export("more", state="absent")
    assert export("data", source=data, mount_point="/srv/moved")["changed"]
    report = boot(site, execute)
    assert {"status: done", "recoverable_errors: {}", "/srv/moved data virtiofs rw,relatime"} <= set(report)
    assert [line for line in report if "comment=cloudconfig" in line] == [
        "data\t/srv/moved\tvirtiofs\tnofail,comment=cloudconfig\t0\t0"
    ]
