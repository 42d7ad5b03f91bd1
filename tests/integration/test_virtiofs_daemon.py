# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exports that stop working, and the restart that repairs them.

Causes are a dead virtiofsd, a replaced directory, and ids that another user got.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    LibvirtFailed,
    PartlyDone,
)
from lab import Lab
from refusal import require_failure

Execute = Callable[..., str]
Make = Callable[..., str]
Module = Callable[..., dict]


def names(result: dict) -> list[str]:
    assert "msg" not in result, result["msg"]
    return [action["name"] for action in result["actions"]]


def warnings(result: dict) -> str:
    return " ".join(result["warnings"].split())


@pytest.fixture
def export(module: Module) -> Callable[..., dict]:
    def run(machine: str = "hv1", **options: object) -> dict:
        return module(machine, "virtiofs_export", **options)

    return run


@pytest.fixture
def daemon(module: Module) -> Callable[..., str | None]:
    """Return the state of the daemon of a domain's only device."""

    def read(domain: str, machine: str = "hv1") -> str | None:
        [device] = module(machine, "virtiofs_export_info", domain=domain)["domains"][0]["devices"]
        return device["daemon"]

    return read


def kill(execute: Execute, words: str, signal: str = "KILL", machine: str = "hv1") -> None:
    """Send a signal to the virtiofsd whose command line has ``words``; after KILL, wait for its end."""
    script = 'p=$(pgrep -of "$0"); kill -"$1" "$p"; while [ "$1" = KILL ] && [ -e "/proc/$p" ]; do :; done'
    execute(machine, "sh", "-c", script, f"[v]irtiofsd.*{words}", signal)


def test_a_dead_daemon_is_reported_until_a_restart_heals_it(
    site: Lab, export: Callable[..., dict], daemon: Callable[..., str], directory: Make, execute: Execute
) -> None:
    directory("hv1", "/srv/dies")
    desired = {"domain": "hot", "source": "/srv/dies", "mount_tag": "dies"}
    hot = site.guest("hot")
    assert names(export(**desired)) == ["add virtiofs device", "plug virtiofs device"]
    try:
        assert daemon("hot") == "running"
        site.ssh(
            "hot",
            "mkdir -p /mnt/dies; until mount -t virtiofs dies /mnt/dies 2>/dev/null; do sleep 0.1; done; echo before > "
            "/mnt/dies/f",
        )
        kill(execute, "srv/dies")
        site.ssh("hot", "(echo lost > /mnt/dies/g) >/dev/null 2>&1 & sleep 0")
        assert daemon("hot") == "dead"
        result = export(**desired)
        assert (result["changed"], result["restart_required"]) == (False, True)
        assert result["restart_reasons"] == [
            "the virtiofsd of the device 'dies' has died, and only a start of the domain starts another one"
        ]
        assert "then 'virsh start hot'" in warnings(result)
        # The guest can't release a device while it waits for the device. A repeated request can't use this device
        # either.
        result = export(domain="hot", mount_tag="dies", state="absent")
        assert (names(result), result["restart_required"]) == (["remove virtiofs device"], True)
        assert result["restart_reasons"][0].endswith(", because its virtiofsd has died")
        result = export(**desired)
        assert (names(result), result["restart_required"]) == (["add virtiofs device"], True)
        # The restart on request.
        assert names(export(**desired, restart="when_needed", check=True)) == ["restart domain"]
        result = export(**desired, restart="when_needed", restart_timeout=2)
        require_failure(result, PartlyDone, names=["'hot'", "2 seconds"])
        assert (result["changed"], result["restart_required"]) == (False, True)
        result = export(**desired, restart="when_needed_force", restart_timeout=1)
        assert (names(result), result["restart_required"], result["restart_reasons"]) == (["restart domain"], False, [])
        for check in (False, True):
            again = export(**desired, restart="when_needed_force", check=check)
            assert (again["changed"], again["restart_required"]) == (False, False)
        assert daemon("hot") == "running"
        hot.wait_ready()
        site.ssh("hot", "mount -t virtiofs dies /mnt/dies; cat /mnt/dies/f; echo after > /mnt/dies/f")
        assert execute("hv1", "cat", "/srv/dies/f") == "after\n"
        # A guest that isn't stuck shuts down by itself.
        execute("hv1", "truncate", "-s", "0", "/var/log/libvirt/qemu/hot.log")
        result = export(**desired, cache="always", restart="when_needed")
        assert (names(result), result["restart_required"]) == (["change virtiofs device", "restart domain"], False)
        assert "<cache mode='always'/>" in execute("hv1", "virsh", "dumpxml", "hot")
        assert "shutting down, reason=shutdown" in execute("hv1", "cat", "/var/log/libvirt/qemu/hot.log")
        hot.wait_ready()
    finally:
        removed = export(domain="hot", mount_tag="dies", state="absent")
    assert not removed["restart_required"]


def test_absent_restarts_a_guest_that_keeps_the_device(
    export: Callable[..., dict], domain: Make, directory: Make, execute: Execute
) -> None:
    domain("hv1", "keeps", shared=True, start=True)
    directory("hv1", "/srv/keeps")
    assert names(export(domain="keeps", source="/srv/keeps", mount_tag="t")) == [
        "add virtiofs device",
        "plug virtiofs device",
    ]
    execute("hv1", "virsh", "suspend", "keeps")
    result = export(domain="keeps", mount_tag="t", state="absent", restart="when_needed")
    require_failure(result, PartlyDone, names=["'keeps'", "paused"])
    assert [action["name"] for action in result["actions"]] == ["remove virtiofs device"]
    result = export(domain="keeps", mount_tag="t", state="absent", restart="when_needed_force")
    assert (names(result), result["restart_required"]) == (["restart domain"], False)
    assert execute("hv1", "virsh", "domstate", "keeps").strip() == "running"
    assert "<filesystem" not in execute("hv1", "virsh", "dumpxml", "keeps")


def test_a_domain_that_does_not_start_again_runs_as_before(
    export: Callable[..., dict], domain: Make, directory: Make, execute: Execute
) -> None:
    domain("hv1", "falls", start=True)
    directory("hv1", "/srv/falls")
    program = "/usr/local/bin/refusing-virtiofsd"
    script = (
        '#!/bin/sh\ncase "$1" in --help|--print-capabilities) exec /usr/local/libexec/granary-virtiofsd "$@";; esac\n'
        'echo "no such luck" >&2\nexit 1\n'
    )
    execute("hv1", "sh", "-c", 'cat > "$0"; chmod 755 "$0"', program, stdin=script)
    before = execute("hv1", "virsh", "dumpxml", "--inactive", "falls")
    started = execute("hv1", "virsh", "domid", "falls")
    desired = {"domain": "falls", "source": "/srv/falls", "mount_tag": "t", "binary": program}
    result = export(**desired, restart="when_needed_force", restart_timeout=1)
    require_failure(result, LibvirtFailed, names=["no such luck", "'falls'"])
    assert execute("hv1", "virsh", "domstate", "falls").strip() == "running"
    assert execute("hv1", "virsh", "domid", "falls") != started
    assert execute("hv1", "virsh", "dumpxml", "--inactive", "falls") == before


def test_a_daemon_is_found_whatever_the_domain_is_called(
    export: Callable[..., dict], daemon: Callable[..., str], domain: Make, directory: Make, execute: Execute
) -> None:
    name = 'it\'s a "näme" that libvirt shortens -fs0'
    domain("hv1", name, shared=True, start=True)
    directory("hv1", "/srv/shortened")
    desired = {"domain": name, "source": "/srv/shortened", "mount_tag": "t"}
    assert names(export(**desired)) == ["add virtiofs device", "plug virtiofs device"]
    assert daemon(name) == "running"
    kill(execute, "srv/shortened", "STOP")
    result = export(**desired)
    assert "was stopped by a signal" in warnings(result)
    assert daemon(name) == "stopped"
    kill(execute, "srv/shortened", "CONT")
    execute("hv1", "virsh", "suspend", name)
    assert daemon(name) == "running"
    kill(execute, "srv/shortened")
    # The number in the pid file can belong to another process by then.
    execute(
        "hv1",
        "sh",
        "-c",
        'test -s "$0" && printf 1 > "$0"',
        execute("hv1", "sh", "-c", "printf %s /run/libvirt/qemu/*that*-fs.pid"),
    )
    assert daemon(name) == "dead"
    assert export(**desired)["restart_required"]
    execute("hv1", "virsh", "destroy", name)
    assert daemon(name) is None


def test_an_old_daemon_is_seen_too(
    export: Callable[..., dict], daemon: Callable[..., str], domain: Make, directory: Make, execute: Execute
) -> None:
    domain("old", "ages", shared=True, start=True)
    directory("old", "/srv/ages")
    desired = {"machine": "old", "domain": "ages", "source": "/srv/ages", "mount_tag": "t", "allow_unmapped": True}
    assert names(export(**desired)) == ["add virtiofs device", "plug virtiofs device"]
    assert daemon("ages", "old") == "running"
    kill(execute, "srv/ages", machine="old")
    assert daemon("ages", "old") == "dead"
    assert export(**desired)["restart_required"]


@pytest.mark.parametrize(
    ("sandbox", "change"),
    [
        ("namespace", "umount /srv/live"),
        ("namespace", "umount /srv/live; rmdir /srv/live"),
        ("chroot", "mount -t tmpfs none /srv/live"),
    ],
)
def test_another_directory_below_a_live_export(
    sandbox: str, change: str, export: Callable[..., dict], daemon: Callable[..., str], domain: Make, execute: Execute
) -> None:
    domain("hv1", "lives", shared=True, start=True)
    execute("hv1", "sh", "-c", "mkdir -p /srv/live; mount -t tmpfs none /srv/live; chown 100000:100000 /srv/live")
    desired = {"domain": "lives", "source": "/srv/live", "mount_tag": "t", "sandbox": sandbox}
    if sandbox == "chroot":
        desired.update(binary="/usr/libexec/virtiofsd", allow_unmapped=True)
    try:
        assert names(export(**desired)) == ["add virtiofs device", "plug virtiofs device"]
        assert daemon("lives") == "running"
        execute("hv1", "sh", "-c", change)
        assert daemon("lives") == "other_directory"
        if change == "umount /srv/live":
            require_failure(export(**desired), Conflict, names=["'/srv/live'", "'/'"])
        if change.startswith("mount"):
            result = export(**desired, restart="when_needed_force", restart_timeout=1)
            assert (result["changed"], result["restart_required"]) == (False, True)
            assert result["restart_reasons"] == [
                "the device 't' serves another directory than the one that is at '/srv/live' now"
            ]
            assert "still uses the directory that was at '/srv/live'" in warnings(result)
        if change.startswith("mount"):
            execute("hv1", "umount", "/srv/live")
            assert daemon("lives") == "running"
    finally:
        execute("hv1", "virsh", "destroy", "lives")
        execute("hv1", "sh", "-c", "while umount /srv/live; do :; done 2>/dev/null; rm -rf /srv/live")


def test_ids_that_somebody_else_got_later(
    export: Callable[..., dict], module: Module, domain: Make, directory: Make, execute: Execute
) -> None:
    domain("hv1", "shares")
    directory("hv1", "/srv/shares")
    desired = {"domain": "shares", "source": "/srv/shares", "mount_tag": "t"}
    result = export(**desired)
    assert "maps guest ids to" not in warnings(result)
    files = execute("hv1", "cat", "/etc/subuid")
    try:
        execute("hv1", "sh", "-c", "echo mallory:165535:10 >> /etc/subuid; useradd --uid 150003 --no-user-group trudy")
        for again in (export(**desired), export(**desired, cache="always", check=True)):
            assert "those of mallory:165535:10 in /etc/subuid, the account 'trudy' (uid 150003)." in warnings(again)
        [device] = module("hv1", "virtiofs_export_info", domain="shares")["domains"][0]["devices"]
        assert device["other_owners"] == ["mallory:165535:10 in /etc/subuid", "the account 'trudy' (uid 150003)"]
    finally:
        execute("hv1", "userdel", "trudy")
        execute("hv1", "sh", "-c", "cat > /etc/subuid", stdin=files)
    assert module("hv1", "virtiofs_export_info", domain="shares")["domains"][0]["devices"][0]["other_owners"] == []
