# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The owner of an exported directory, according to the options of the module."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    StaleState,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Action, Plan
from ansible_collections.granary.vmstore.plugins.module_utils._host.shared_directory import HeldDirectory
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.owner import DirectoryOwner
from refusal import refused

MAPS = (IdMap(0, 200000, 1000), IdMap(1000, 0, 1))
OTHER = 61002


def facts(path: Path) -> str:
    return subprocess.run(
        ["stat", "--format=%u:%g %a", path], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "shared"
    path.mkdir(mode=0o755)
    (path / "file").write_text("kept")
    return path


def action(path: Path, **options: str) -> Action | None:
    return DirectoryOwner({"owner": None, "group": None, "mode": None, **options}).action(
        HeldDirectory("source", str(path)), MAPS, MAPS
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"owner": "guest:0", "group": "guest:0"}, "200000:200000 755"),
        ({"owner": "guest:999"}, "200999:0 755"),
        ({"owner": "100000", "group": "100001", "mode": "0700"}, "100000:100001 700"),
        ({"owner": "daemon", "group": "daemon"}, "1:1 755"),
        ({"mode": "02770"}, "0:0 2770"),
    ],
)
def test_check_run_and_run_again(directory: Path, options: dict[str, str], expected: str) -> None:
    planned = action(directory, **options)
    assert planned is not None and planned.name == "change directory" and facts(directory) == "0:0 755"
    plan = Plan(actions=[planned]).run()
    assert facts(directory) == expected
    assert facts(directory / "file").startswith("0:0 ")
    assert action(directory, **options) is None
    plan.take_back()
    assert facts(directory) == "0:0 755"


def test_without_options_nothing_changes(directory: Path) -> None:
    os.chown(directory, OTHER, OTHER)
    assert action(directory) is None
    assert action(directory, owner="guest:1000") is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"owner": "guest:1001"},
            InvalidInput,
            "owner: 'guest:1001' is not accepted: an id is expected that the guest can use: 0:200000:1000 1000:0:1.",
        ),
        (
            {"owner": "4294967295"},
            InvalidInput,
            "owner: '4294967295' is not accepted: a name, an id, or guest: and an id of the guest is expected.",
        ),
        (
            {"group": ""},
            InvalidInput,
            "group: '' is not accepted: a name, an id, or guest: and an id of the guest is expected.",
        ),
        ({"owner": "nobody-here"}, NotFound, "owner: this host has no user 'nobody-here'."),
        ({"group": "nobody-here"}, NotFound, "group: this host has no group 'nobody-here'."),
    ],
)
def test_what_is_refused(directory: Path, options: dict[str, str], error: type[VmstoreError], message: str) -> None:
    with refused(error, says=message):
        action(directory, **options)
    assert facts(directory) == "0:0 755"


def test_a_mode_without_quotes_is_refused(directory: Path) -> None:
    with refused(InvalidInput, option="mode", value="493"):
        action(directory, mode="493")


def test_a_directory_that_another_user_can_have_put_there_is_left(tenant: Path) -> None:
    path = tenant / "shared"
    path.mkdir()
    with refused(
        Conflict,
        names=[path, "root:root", 61001],
    ):
        action(path, owner="guest:0")
    os.chown(path, 61001, 61001)
    planned = action(path, owner="guest:0", group="guest:0")  # the present owner gains no rights
    assert planned is not None
    planned.record()
    assert facts(path) == "200000:200000 755"


def test_a_directory_that_is_replaced_is_left(
    tenant: Path, directory: Path, swapping: Callable[[Path, Path], contextlib.AbstractContextManager[None]]
) -> None:
    """The change affects the checked directory, whatever has its name by then."""
    path, link = tenant / "shared", tenant / "link"
    path.mkdir()
    os.chown(path, 61001, 61001)
    link.symlink_to(directory)
    with swapping(path, link):
        for _attempt in range(300):
            with contextlib.suppress(VmstoreError):
                planned = action(path, owner="guest:0")
                if planned is not None:
                    planned.record()
    assert facts(directory) == "0:0 755"


def test_a_directory_that_another_one_replaced_meanwhile(directory: Path) -> None:
    planned = action(directory, owner="guest:0")
    directory.rename(directory.with_name("away"))
    directory.mkdir()
    with refused(StaleState, names=[directory]):
        Plan(actions=[planned] if planned else []).run()
    assert facts(directory) == facts(directory.with_name("away")) == "0:0 755"


def test_what_the_guest_can_do_is_foretold(tenant: Path) -> None:
    path = tenant / "shared"
    path.mkdir(mode=0o700)
    os.chown(path, 61001, 61001)
    held = HeldDirectory("source", str(path))
    assert held.obstacle(MAPS[:1], MAPS[:1], write=True) == f"{path} belongs to 61001:61001 with mode 0700"
    assert DirectoryOwner({"owner": "guest:0", "group": "guest:0", "mode": None}).action(held, MAPS, MAPS) is not None
    assert held.obstacle(MAPS[:1], MAPS[:1], write=True) is None
