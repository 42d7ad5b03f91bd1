# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    NotFound,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import (
    DATASTORE_SPEC,
    DatastoreService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.info import datastore_info
from refusal import refused

MARKER = "0d0a3a9c-40a4-4c80-a35c-fd3b5b5b1c2e"
VIRTIOFS = {"ds_driver": "virtiofs", "tm_driver": "virtiofs"}


def options_of(spec: dict, given: dict) -> dict:
    """Return the options as AnsibleModule passes them."""
    return {**{name: option.get("default") for name, option in spec.items()}, **given}


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Plan]:
    def run_service(check: bool = False, **given: object) -> Plan:
        given.setdefault("catalog", str(tmp_path / "catalog.sqlite"))
        service = DatastoreService(options_of(DATASTORE_SPEC.argument_spec, given))
        if check:
            return service.plan()
        return service.converge()

    return run_service


@pytest.fixture
def info(tmp_path: Path) -> Callable[..., list]:
    return lambda **given: datastore_info(
        {"catalog": str(tmp_path / "catalog.sqlite"), "name": None, "timeout": 30, "vms": False, **given}
    )["datastores"]


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def test_defaults_of_a_new_datastore(run: Callable[..., Plan]) -> None:
    plan = run(name="fs", datastore_location="/srv/ds", **VIRTIOFS)
    assert names(plan) == ["create catalog", "create datastore"]
    assert plan.result["datastore"] == {
        **{
            "id": 100,
            "name": "fs",
            "type": "image",
            "ds_driver": "virtiofs",
            "tm_driver": "virtiofs",
            "base_path": "/srv/ds/100",
            "clusters": [0],
        },
        **{
            "safe_dirs": [],
            "restricted_dirs": [],
            "bridge_list": [],
            "attributes": {},
            "shared": False,
            "marker": None,
        },
    }


def test_check_mode_plans_the_same_and_makes_no_catalog(run: Callable[..., Plan], tmp_path: Path) -> None:
    planned = run(check=True, name="fs", **VIRTIOFS)
    assert os.listdir(tmp_path) == []
    assert run(name="fs", **VIRTIOFS).as_result() == planned.as_result()


def test_a_refused_wish_makes_no_catalog(run: Callable[..., Plan], tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        run(name="default", type="system")
    run(name="none", state="absent")
    assert os.listdir(tmp_path) == []


def test_options_that_are_not_given_stay(run: Callable[..., Plan]) -> None:
    run(name="fs", clusters=[0, 5], safe_dirs=["/var/www/"], bridge_list=["h1", "h2"], **VIRTIOFS)
    assert names(run(name="fs")) == []
    plan = run(name="fs", bridge_list=["h2"], restricted_dirs=["/"])
    assert names(plan) == ["update datastore"]
    assert {
        key: plan.result["datastore"][key] for key in ("clusters", "safe_dirs", "restricted_dirs", "bridge_list")
    } == {
        "clusters": [0, 5],
        "safe_dirs": ["/var/www"],
        "restricted_dirs": ["/"],
        "bridge_list": ["h2"],
    }
    assert names(run(name="fs", bridge_list=["h2"], restricted_dirs=["/"])) == []


def test_a_shared_datastore_keeps_its_marker_until_it_is_taken_away(run: Callable[..., Plan]) -> None:
    made = run(name="nas", ds_driver="fs", tm_driver="shared", shared=True, marker=MARKER).result["datastore"]
    assert (made["shared"], made["marker"]) == (True, MARKER)
    assert names(run(name="nas")) == []
    left = run(name="nas", marker="", shared=False).result["datastore"]
    assert (left["shared"], left["marker"]) == (False, None)


@pytest.mark.parametrize(
    ("option", "value"), [("type", "system"), ("ds_driver", "fs"), ("tm_driver", "ssh"), ("base_path", "/srv/other")]
)
def test_what_can_not_change_names_both_values(run: Callable[..., Plan], option: str, value: str) -> None:
    old = run(name="fs", **VIRTIOFS).result["datastore"][option]
    with refused(
        Conflict, says=f"{option}: the datastore 'fs' was created with {old!r}, which can't change to {value!r}."
    ):
        run(name="fs", **{option: value})


def test_renaming_by_id(run: Callable[..., Plan]) -> None:
    run(name="fs", **VIRTIOFS)
    assert run(id=100, name="new").result["datastore"]["name"] == "new"
    assert names(run(id=100, name="new")) == []
    with refused(Conflict, says="name: 'default' belongs to the datastore 1 ('default')."):
        run(id=100, name="default")
    with refused(NotFound, says="id: there is no datastore 555 in the catalog *, and a new one gets its id by itself."):
        run(id=555, name="x", **VIRTIOFS)


def test_one_base_path_is_not_for_two(run: Callable[..., Plan]) -> None:
    run(name="fs", base_path="/srv/a//", **VIRTIOFS)
    with refused(Conflict, names=["'/srv/a'"]):
        run(name="other", base_path="/srv/a", **VIRTIOFS)


def test_removal(run: Callable[..., Plan]) -> None:
    run(name="fs", **VIRTIOFS)
    assert names(run(name="fs", state="absent")) == ["remove datastore"]
    assert names(run(name="fs", state="absent")) == []
    assert run(name="fs", **VIRTIOFS).result["datastore"]["id"] == 101


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_defaults_can_not_be_removed(run: Callable[..., Plan], number: int) -> None:
    run(name="fs", **VIRTIOFS)
    with refused(Conflict, says=f"The datastore {number} ('*') is one of the defaults, which can't be removed."):
        run(id=number, state="absent")


def test_a_system_datastore_has_no_datastore_driver(run: Callable[..., Plan]) -> None:
    assert run(name="sys", type="system", tm_driver="ssh").result["datastore"]["ds_driver"] is None
    with refused(InvalidInput, says="ds_driver: 'fs' is not accepted: a datastore of type 'system' has none."):
        run(name="sys2", type="system", tm_driver="ssh", ds_driver="fs")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "ds_driver is missing: a new datastore of type 'image' needs one."),
        ({"ds_driver": "virtiofs"}, "tm_driver is missing: a new datastore of type 'image' needs one."),
        (
            {"ds_driver": "vfs", "tm_driver": "ssh"},
            "ds_driver: 'vfs' is not accepted: one of fs, virtiofs is expected.",
        ),
        (
            {**VIRTIOFS, "tm_driver": "ssh"},
            "tm_driver: 'ssh' is not accepted: 'virtiofs' is expected with datastores of the virtiofs driver.",
        ),
        (
            {**VIRTIOFS, "type": "file"},
            "type: 'file' is not accepted: the virtiofs driver serves datastores of type 'image'.",
        ),
        (
            {"ds_driver": "fs", "tm_driver": "ssh", "type": "backup"},
            "type: 'backup' is not accepted: the fs driver serves datastores of type 'file' or 'image'.",
        ),
        ({**VIRTIOFS, "clusters": [-1]}, "clusters: -1 is not accepted: ids from 0 on are expected."),
        (
            {**VIRTIOFS, "attributes": {"BRIDGE_LIST": "h1"}},
            "attributes: 'BRIDGE_LIST' is not accepted: give it as the module's option bridge_list.",
        ),
        (
            {**VIRTIOFS, "attributes": {"bridge_lst": "h1"}},
            "attributes: 'bridge_lst' is not accepted: the virtiofs driver has no further attributes; the nearest "
            "option of the module is 'bridge_list'.",
        ),
        (
            {"ds_driver": "fs", "tm_driver": "ssh", "attributes": {"no_decompres": True}},
            "attributes: 'no_decompres' is not accepted: the attributes of the fs driver are 'convert', 'driver', "
            "'fs_opts_btrfs', 'fs_opts_ext2', 'fs_opts_ext3', 'fs_opts_ext4', 'fs_opts_swap', 'fs_opts_vfat', "
            "'fs_opts_xfs', 'limit_transfer_bw', 'nfs_auto_enable', 'nfs_auto_host', 'nfs_auto_opts', 'nfs_auto_path', "
            "'no_decompress', 'qcow2_options', 'sparse', 'supported_fs' or 'verify'; the nearest is 'no_decompress'.",
        ),
        (
            {**VIRTIOFS, "shared": True},
            "shared: True is not accepted: the virtiofs driver has no directory of its own.",
        ),
        (
            {"ds_driver": "fs", "tm_driver": "ssh", "marker": "x"},
            "marker: 'x' is not accepted: a UUID in lower case, or an empty text for none, is expected.",
        ),
        (
            {"ds_driver": "fs", "tm_driver": "ssh", "marker": MARKER},
            f"marker: '{MARKER}' is not accepted: shared=true is expected with a marker.",
        ),
        (
            {"ds_driver": "fs", "tm_driver": "ssh", "attributes": {"nfs_auto_enable": "perhaps"}},
            "attributes.nfs_auto_enable: 'perhaps' is not accepted: yes or no is expected.",
        ),
        (
            {"ds_driver": "fs", "tm_driver": "ssh", "attributes": {"nfs_auto_enable": True, "nfs_auto_host": "h"}},
            "attributes.nfs_auto_path is missing: NFS_AUTO_ENABLE needs a server and its directory.",
        ),
        (
            {"ds_driver": "fs", "tm_driver": "ssh", "attributes": {"sparse": "maybe"}},
            "attributes.sparse: 'maybe' is not accepted: yes or no is expected.",
        ),
        (
            {"ds_driver": "fs", "tm_driver": "ssh", "attributes": {"limit_transfer_bw": "fast"}},
            "attributes.limit_transfer_bw: 'fast' is not accepted: a number of bytes a second is expected, perhaps "
            "with K, M or G, such as 50M.",
        ),
    ],
)
def test_bad_input(run: Callable[..., Plan], given: dict, message: str) -> None:
    with refused(InvalidInput, says=message):
        run(**{"name": "x", **given})
    assert names(run(name="x", state="absent")) == []


@pytest.mark.parametrize(
    ("given", "option", "value"),
    [
        ({**VIRTIOFS, "base_path": "x"}, "base_path", "x"),
        ({**VIRTIOFS, "safe_dirs": ["/a/../b"]}, "safe_dirs", "/a/../b"),
        ({**VIRTIOFS, "bridge_list": ["-oProxyCommand=x"]}, "bridge_list", "-oProxyCommand=x"),
        ({**VIRTIOFS, "name": "100"}, "name", "100"),
        ({"ds_driver": "fs", "tm_driver": "ssh", "attributes": {"driver": "vmdk"}}, "attributes.driver", "vmdk"),
        ({**VIRTIOFS, "catalog": "relative"}, "catalog", "relative"),
    ],
)
def test_values_that_are_refused(run: Callable[..., Plan], given: dict, option: str, value: str) -> None:
    with refused(InvalidInput, option=option, value=value):
        run(**{"name": "x", **given})


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"qcow2_options": "backing_file=/etc/shadow"},
            "attributes.qcow2_options: 'backing_file=/etc/shadow' is not accepted: name=value[,name=value...] is "
            "expected, with names of cluster_size, compat, compression_type, extended_l2, lazy_refcounts, nocow, "
            "preallocation, refcount_bits.",
        ),
        (
            {"qcow2_options": "cluster_size=3"},
            "attributes.qcow2_options: 'cluster_size=3' is not accepted: options of qemu-img are expected, which "
            "prints: *.",
        ),
        (
            {"qcow2_options": "compat=0.10,lazy_refcounts=on"},
            "attributes.qcow2_options: 'compat=0.10,lazy_refcounts=on' is not accepted: options of qemu-img are "
            "expected, which prints: *.",
        ),
        (
            {"supported_fs": "ext4, exit4"},
            "attributes.supported_fs: 'exit4' is not accepted: names of file systems are expected, such as ext4 or "
            "xfs, and this host has no command mkfs.exit4.",
        ),
        (
            {"supported_fs": "ext4;xfs"},
            "attributes.supported_fs: 'ext4;xfs' is not accepted: names of file systems are expected, such as ext4 or "
            "xfs.",
        ),
        (
            {"supported_fs": "../../tmp/x"},
            "attributes.supported_fs: '../../tmp/x' is not accepted: names of file systems are expected, such as ext4 "
            "or xfs.",
        ),
        (
            {"fs_opts_ext4": "-L 'x"},
            'attributes.fs_opts_ext4: "-L \'x" is not accepted: arguments of mkfs.ext4 are expected, quoted as in a '
            "shell.",
        ),
        (
            {"fs_opts_ext4": "-Z"},
            "attributes.fs_opts_ext4: '-Z' is not accepted: arguments of mkfs.ext4 are expected, which prints: *.",
        ),
        (
            {"fs_opts_ext3": "-O no_such"},
            "attributes.fs_opts_ext3: '-O no_such' is not accepted: arguments of mkfs.ext3 are expected, which prints: "
            "*.",
        ),
        (
            {"fs_opts_xfs": "-L 1234567890123456"},
            "attributes.fs_opts_xfs: '-L 1234567890123456' is not accepted: arguments of mkfs.xfs are expected, which "
            "prints: *.",
        ),
        (
            {"fs_opts_btrfs": "--no-such"},
            "attributes.fs_opts_btrfs: '--no-such' is not accepted: arguments of mkfs.btrfs are expected, which "
            "prints: *.",
        ),
        (
            {"fs_opts_swap": "--no-such"},
            "attributes.fs_opts_swap: '--no-such' is not accepted: arguments of mkswap are expected, which prints: *.",
        ),
    ],
)
def test_attributes_that_the_commands_here_refuse(run: Callable[..., Plan], attributes: dict, message: str) -> None:
    for check in (True, False):
        with refused(InvalidInput, says=message):
            run(check=check, name="x", ds_driver="fs", tm_driver="ssh", attributes=attributes)


@pytest.mark.parametrize(
    "attributes",
    [
        {"qcow2_options": "cluster_size=2M,preallocation=metadata"},
        {"qcow2_options": "", "supported_fs": ""},
        {"supported_fs": "ext4, xfs btrfs,vfat"},
        {"fs_opts_ext4": "-E lazy_itable_init=0 -J size=2000"},  # for large file systems only
        {"fs_opts_ext2": "-L 'a b' -N 16"},
        {"fs_opts_xfs": "-d agcount=400"},  # for large file systems only
        {"fs_opts_btrfs": "-L x -d single -m single"},
        {"fs_opts_vfat": "-F 12"},  # for small file systems only
        {"fs_opts_swap": "-L x"},
    ],
)
def test_attributes_that_are_of_use_for_some_size(run: Callable[..., Plan], attributes: dict) -> None:
    wish = {"name": "x", "ds_driver": "fs", "tm_driver": "ssh", "attributes": attributes}
    assert "create datastore" in names(run(**wish))
    assert names(run(**wish)) == []
    assert names(run(name="x", attributes={**attributes, "sparse": True})) == ["update datastore"]


def test_what_a_bridge_accepts_is_not_tried_here(run: Callable[..., Plan]) -> None:
    wish = {"ds_driver": "fs", "tm_driver": "ssh", "bridge_list": ["h1"]}
    assert "create datastore" in names(
        run(name="x", **wish, attributes={"supported_fs": "exit4", "fs_opts_ext4": "-Z"})
    )
    with refused(InvalidInput, option="attributes.fs_opts_ext4", value="-L 'x"):
        run(name="y", **wish, attributes={"fs_opts_ext4": "-L 'x"})


def test_attributes_are_text(run: Callable[..., Plan]) -> None:
    wish = {
        "name": "x",
        "ds_driver": "fs",
        "tm_driver": "ssh",
        "attributes": {"no_decompress": True, "limit_transfer_bw": 50},
    }
    assert run(**wish).result["datastore"]["attributes"] == {"no_decompress": "yes", "limit_transfer_bw": "50"}
    assert names(run(**wish)) == []


def test_a_hostile_name_is_only_a_name(run: Callable[..., Plan], info: Callable[..., list]) -> None:
    name = "'; DROP TABLE datastore; -- %s $(id)"
    run(name=name, **VIRTIOFS)
    assert info(name=name)[0]["id"] == 100
    assert len(info()) == 4


def test_a_huge_id_is_only_unknown(run: Callable[..., Plan]) -> None:
    with pytest.raises(NotFound):
        run(id=10**30)


SAME_NAME = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import (
    DATASTORE_SPEC,
    DatastoreService,
)
options = {name: option.get("default") for name, option in DATASTORE_SPEC.argument_spec.items()}
given = {"catalog": sys.argv[1], "name": "same", "ds_driver": "virtiofs", "tm_driver": "virtiofs"}
service = DatastoreService({**options, **given})
print("ready", flush=True)
sys.stdin.readline()
plan = service.converge()
print(sum(action.name == "create datastore" for action in plan.actions), plan.result["datastore"]["id"])
"""


def test_processes_that_want_the_same_name_make_one(tmp_path: Path, info: Callable[..., list]) -> None:
    command = [sys.executable, "-c", SAME_NAME, str(tmp_path / "catalog.sqlite")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _process in range(4)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * len(processes)
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = sorted(process.communicate()[0].split() for process in processes)
    assert answers == [["0", "100"]] * 3 + [["1", "100"]]
    assert [one["name"] for one in info() if one["id"] >= 100] == ["same"]


def test_errors_are_one_sentence(run: Callable[..., Plan]) -> None:
    with pytest.raises(VmstoreError) as caught:
        run(name="a\nb", **VIRTIOFS)
    assert "\n" not in str(caught.value)


def test_no_datastore_is_in_another(run: Callable[..., Plan]) -> None:
    run(name="x", ds_driver="fs", tm_driver="ssh", base_path="/srv/disks/x")
    for inside in ("/srv/disks/x/y", "/srv/disks"):
        with refused(Conflict, says=f"base_path: '{inside}' is within the datastore 'x', which has '*', or around it."):
            run(name="y", ds_driver="fs", tm_driver="ssh", base_path=inside)
    assert run(name="x", base_path="/srv/disks/x").actions == []


def test_check_mode_goes_on_without_the_directory_of_the_catalog(tmp_path: Path) -> None:
    options = options_of(
        DATASTORE_SPEC.argument_spec,
        {"catalog": str(tmp_path / "none" / "catalog.sqlite"), "name": "x", "ds_driver": "fs", "tm_driver": "ssh"},
    )
    plan = DatastoreService(options).dry_run()
    assert names(plan) == ["create catalog", "create datastore"]
    assert len(plan.warnings) == 1 and f"{tmp_path}/none is not a directory" in plan.warnings[0]
    with refused(DependencyNotFound, names=[tmp_path / "none"]):
        DatastoreService(options).converge()
