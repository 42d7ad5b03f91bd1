# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    DependencyNotFound,
    InvalidInput,
    NotFound,
    StaleState,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.shared_directory import HeldDirectory
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from refusal import refused

#: User that runs virtiofsd.
TENANT = 61001

MAPS = (IdMap(0, 100000, 65536),)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory that everyone can reach; those of pytest are closed to others."""
    path = Path(
        subprocess.run(
            ["mktemp", "-d", "/var/tmp/granary-XXXXXX"], check=True, capture_output=True, text=True
        ).stdout.strip()
    )
    path.chmod(0o755)
    (path / "parent" / "shared").mkdir(parents=True)
    yield path / "parent" / "shared"
    subprocess.run(["rm", "-rf", str(path)], check=True)


def test_only_a_directory_that_is_what_its_path_says(directory: Path) -> None:
    HeldDirectory("image", str(directory)).check_same()
    with refused(
        DependencyNotFound,
        says="image: the directory '/no/such' is not on this host; it has to be there at the same "
        "path as on the front-end.",
    ):
        HeldDirectory("image", "/no/such")
    with refused(InvalidInput, says="source: '/etc/passwd' is not accepted: a directory is expected."):
        HeldDirectory("source", "/etc/passwd")
    link = directory.parent / "link"
    link.symlink_to(directory.parent)
    with refused(
        StaleState,
        says=f"image: the directory '{link}/shared' now leads to '{directory}' through a symbolic "
        "link; it is not exported.",
    ):
        HeldDirectory("image", str(link / "shared"))


def test_another_directory_in_its_place(directory: Path) -> None:
    held = HeldDirectory("image", str(directory))
    directory.rename(directory.parent / "moved")
    with pytest.raises(NotFound):
        held.check_same()
    directory.mkdir()
    with refused(
        StaleState, says=f"image: the directory '{directory}' was replaced by another one while it was being exported."
    ):
        held.check_same()


@pytest.mark.parametrize(
    ("owner", "mode", "parent_mode", "write", "named"),
    [
        (100000, 0o700, 0o755, True, None),
        (165535, 0o000, 0o755, True, None),  # root has rights on every mapped id
        (0, 0o755, 0o755, False, None),
        (0, 0o755, 0o755, True, "shared"),
        (0, 0o757, 0o755, True, None),
        (0, 0o751, 0o755, False, "shared"),
        (100000, 0o755, 0o700, False, "parent"),
        (100000, 0o755, 0o711, True, None),
        (165536, 0o700, 0o755, False, "shared"),
    ],
)
def test_the_component_that_keeps_the_mapped_root_out(
    directory: Path, owner: int, mode: int, parent_mode: int, write: bool, named: str | None
) -> None:
    os.chown(directory, owner, owner)
    directory.chmod(mode)
    directory.parent.chmod(parent_mode)
    found = HeldDirectory("image", str(directory)).obstacle(MAPS, MAPS, write=write)
    if named is None:
        assert found is None
    else:
        path = directory if named == "shared" else directory.parent
        assert (
            found == f"{path} belongs to {path.stat().st_uid}:{path.stat().st_gid} with mode "
            f"{path.stat().st_mode & 0o7777:04o}"
        )
    # The kernel confirms the result for this user, without the mapped root's rights on files of other owners.
    if owner != 165535:
        script = 'test -r "$0" && test -x "$0"' + (' && test -w "$0"' if write else "")
        entered = [
            "setpriv",
            "--reuid",
            "100000",
            "--regid",
            "100000",
            "--clear-groups",
            "sh",
            "-c",
            script,
            str(directory),
        ]
        assert (subprocess.run(entered, check=False).returncode == 0) is (named is None)


@pytest.mark.parametrize(
    ("owner", "mode", "closed"),
    [
        ((0, 0), 0o755, False),
        ((0, 0), 0o701, False),
        ((0, 0), 0o700, True),
        ((TENANT, TENANT), 0o700, True),  # closed to the guest's root
        ((100000, 100000), 0o700, True),  # closed to the user
        ((0, TENANT), 0o710, True),
        ((0, 100000), 0o710, True),
        ((TENANT, 100000), 0o710, False),
    ],
)
def test_the_way_to_the_directory_is_open_to_the_user_and_the_mapped_root(
    directory: Path, owner: tuple[int, int], mode: int, closed: bool
) -> None:
    os.chown(directory.parent, *owner)
    directory.parent.chmod(mode)
    found = HeldDirectory("image", str(directory)).closed_way(TENANT, TENANT, MAPS, MAPS)
    assert (found is not None) == closed
    if found:
        assert found == (
            str(directory.parent),
            f"{directory.parent} belongs to {owner[0]}:{owner[1]} with mode {mode:04o}",
        )


def test_an_access_control_list_may_open_the_way(directory: Path) -> None:
    directory.parent.chmod(0o700)
    subprocess.run(["setfacl", "-m", f"u:{TENANT}:x,u:100000:x", directory.parent], check=True)
    assert HeldDirectory("image", str(directory)).closed_way(TENANT, TENANT, MAPS, MAPS) is None
