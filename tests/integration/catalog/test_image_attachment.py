# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module ``image_attachment``."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
)
from refusal import require_failure


@pytest.fixture
def images(virtiofs):
    for name, options in {"mine": {"persistent": True}, "readers": {"read_only": True}}.items():
        virtiofs.run("image", name=name, datastore="fs", path=str(virtiofs.data), **options)
    return virtiofs


def test_claim_and_release(images) -> None:
    results = images.four("image_attachment", image="mine", host="h1", domain="web", mount_point="/srv/x")
    assert results[1]["attachment"] == {
        **{
            "image_id": 0,
            "image": "mine",
            "source": str(images.data),
            "persistent": True,
            "read_only": False,
            "mount_tag": "one-0",
        },
        **{"mount_point": "/srv/x", "uid_map": None, "gid_map": None, "host": "h1", "domain": "web"},
    }
    rows = "SELECT image_id, host, domain, mount_tag, mount_point FROM vm_disk"
    assert images.query(rows) == [(0, "h1", "web", "one-0", "/srv/x")]
    images.four("image_attachment", image="mine", host="h1", domain="web")  # back to the setting of the image
    assert images.query(rows) == [(0, "h1", "web", "one-0", "/mnt/one-fs-0")]
    images.four("image_attachment", image="mine", host="h1", domain="web", state="absent")
    assert images.query(rows) == []


def test_sharing_over_hosts(images) -> None:
    shared = images.run_all(
        *(
            ("image_attachment", {"image": image, "host": host, "domain": "web"})
            for image, host in [("mine", "h1"), ("readers", "h1"), ("readers", "h2")]
        )
    )
    assert [one["attachment"]["read_only"] for one in shared] == [False, True, True]
    results = images.failures(
        ("image_attachment", {"image": "mine", "host": "h2", "domain": "web"}),
        ("image_attachment", {"image": "readers", "host": "h3", "domain": "web", "read_only": False}),
        ("image_attachment", {"image": "readers", "host": "-x", "domain": "web"}),
    )
    require_failure(results[0], Conflict, names=["'mine'", "'web'", "'h1'"])
    require_failure(results[1], InvalidInput, option="read_only", names=["False"])
    require_failure(results[2], InvalidInput, option="host", names=["'-x'"])
