# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap, read_id_maps
from ansible_collections.granary.vmstore.plugins.module_utils._model.mount_names import (
    check_mount_point,
    check_mount_tag,
)
from refusal import refused


def id_map(start: int, target: int, count: int) -> dict[str, int]:
    return {"start": start, "target": target, "count": count}


def test_maps_are_read() -> None:
    assert read_id_maps("uid_map", None) is None
    assert read_id_maps("uid_map", [id_map(0, 100000, 65536), id_map(70000, 1000, 1)]) == (
        IdMap(0, 100000, 65536),
        IdMap(70000, 1000, 1),
    )


@pytest.mark.parametrize(
    "one", [id_map(0, 100000, 0), id_map(-1, 100000, 1), id_map(0, -1, 1), id_map(0, 2**32 - 2, 2)]
)
def test_maps_of_ids_that_do_not_exist_are_refused(one: dict[str, int]) -> None:
    with refused(
        InvalidInput,
        says="uid_map: * is not accepted: start and target from 0 and a count from 1 on, with no id over 4294967294, "
        "are expected.",
    ):
        read_id_maps("uid_map", [one])


@pytest.mark.parametrize(("kind", "other"), [("start", id_map(9, 200000, 10)), ("target", id_map(20, 100009, 10))])
def test_maps_that_overlap_are_refused(kind: str, other: dict[str, int]) -> None:
    with refused(
        InvalidInput, says=f"uid_map: * is not accepted: maps whose {kind} ranges don't overlap are expected."
    ):
        read_id_maps("uid_map", [id_map(0, 100000, 10), other])


@pytest.mark.parametrize("tag", ["one-3", "data", "a" * 36, "A_b.c+d@e-1"])
def test_tags_a_mount_can_carry(tag: str) -> None:
    assert check_mount_tag("mount_tag", tag) == tag


@pytest.mark.parametrize(
    "tag", ["", "a" * 37, "ä" * 2, "a b", "LABEL=x", "host:path", "/dev/x", "a#b", "-o", "a\n", "a\\b", "a,b", "'"]
)
def test_tags_that_a_mount_would_misread(tag: str) -> None:
    with refused(
        InvalidInput,
        says=f"mount_tag: {tag!r} is not accepted: 1 to 36 letters, digits and '_', '.', '+', '@', "
        "'-', not starting with a sign, are expected.",
    ):
        check_mount_tag("mount_tag", tag)


@pytest.mark.parametrize("point", ["relative", "/mnt/../etc", "/mnt/a\nb", ""])
def test_paths_that_are_no_mount_points(point: str) -> None:
    with refused(InvalidInput, option="mount_point", value=point):
        check_mount_point("mount_point", point)


@pytest.mark.parametrize(
    "point",
    [
        *[
            "/",
            "//usr/",
            "/usr/bin",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/share/zoneinfo",
            "/usr/local",
            "/usr/local/bin",
            "/usr/local/sbin/x",
            "/usr/src",
        ],
        *[
            "/bin",
            "/bin/x",
            "/sbin",
            "/lib",
            "/lib/modules",
            "/lib64/x",
            "/snap/core",
            "/nix",
            "/nix/store/x",
            "/usr/local/share/ca-certificates/x",
        ],
        *[
            "/etc",
            "/etc/ssh",
            "/etc/cron.d",
            "/etc/systemd/system",
            "/usr/local/etc/x",
            "/boot",
            "/boot/efi",
            "/dev",
            "/dev/shm/x",
            "/proc/self",
            "/sys/fs",
        ],
        *[
            "/root",
            "/root/.ssh",
            "/home/alice/.ssh",
            "/home/alice/.ssh/keys",
            "/tmp",
            "/var/tmp",
            "/run",
            "/run/systemd/system",
            "/run/user/1000/x",
        ],
        *["/var", "/var/lib", "/var/cache", "/var/log", "/var/log/journal", "/var/spool", "/var/spool/cron/crontabs"],
        *["/var/run", "/var/run/dbus", "/var/lock/x"],
        *[
            "/var/lib/dpkg",
            "/var/lib/dpkg/info",
            "/var/lib/rpm",
            "/var/lib/apt/lists",
            "/var/lib/systemd",
            "/var/lib/cloud",
            "/var/lib/NetworkManager",
        ],
    ],
)
def test_mount_points_the_guest_cannot_spare(point: str) -> None:
    with refused(
        InvalidInput,
        says=f"mount_point: {point!r} is not accepted: * holds *, which a mount would hide; a directory that the guest "
        "can do without is expected, such as '/mnt/data'.",
    ):
        check_mount_point("mount_point", point)


@pytest.mark.parametrize(
    "point",
    [
        *[
            "/mnt",
            "/mnt/x",
            "/mnt/usr/bin",
            "/srv",
            "/srv/etc",
            "/data",
            "/export",
            "/media/x",
            "/opt",
            "/opt/app",
            "/home",
            "/home/alice",
            "/root/data",
        ],
        *[
            "/var/www",
            "/var/www/html",
            "/var/lib/docker",
            "/var/lib/mysql",
            "/var/lib/one/datastores",
            "/var/log/app",
            "/var/cache/nginx",
            "/var/spool/mail",
        ],
        *[
            "/usr/local/data",
            "/usr/local/share/x",
            "/usr/src/linux",
            "/tmp/foo",
            "/var/tmp/x",
            "/run/media/alice/x",
            "/var/run/secrets",
            "/usrlocal",
            "/etcd",
        ],
        *["/models", "/.snapshots", "/nix/.ro-store", "/mnt/one-fs-0", "/srv/.sshd"],
    ],
)
def test_mount_points_that_a_guest_can_spare(point: str) -> None:
    assert check_mount_point("mount_point", point) == point


def test_a_mount_point_is_tidied() -> None:
    assert check_mount_point("mount_point", "/srv//my data/") == "/srv/my data"
