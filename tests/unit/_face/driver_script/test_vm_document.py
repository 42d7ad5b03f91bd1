# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""VMs in documents that a real front-end sent to its drivers (front_end_documents/)."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.datastore_document import (
    parse_datastore,
)
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.elements import MOST_ELEMENTS
from ansible_collections.granary.vmstore.plugins.module_utils._face.driver_script.vm_document import parse_vm, read_vm
from ansible_collections.granary.vmstore.plugins.module_utils._model.vm import BackupConfig, Vm, VmDisk, VmSnapshot
from refusal import refused

DOCUMENTS = Path(__file__).parent / "front_end_documents"
MIGRATED, BACKED_UP = ((DOCUMENTS / name).read_text() for name in ("vm-migrated.xml", "vm-backed-up.xml"))

#: A VM with one disk.
SMALL = (
    "<VM><ID>7</ID><NAME>web</NAME><STATE>3</STATE><LCM_STATE>3</LCM_STATE><DEPLOY_ID>one-7</DEPLOY_ID>"
    "<TEMPLATE><DISK><DISK_ID>0</DISK_ID><TYPE>FILE</TYPE><SIZE>64</SIZE><FORMAT>raw</FORMAT></DISK></TEMPLATE>"
    "<HISTORY_RECORDS><HISTORY><HOSTNAME>h1</HOSTNAME><DS_ID>100</DS_ID><TM_MAD>ssh</TM_MAD><VM_MAD>kvm</VM_MAD>"
    "<ACTION>0</ACTION></HISTORY></HISTORY_RECORDS>"
    "<SNAPSHOTS><DISK_ID>0</DISK_ID><SNAPSHOT><ID>0</ID></SNAPSHOT></SNAPSHOTS></VM>"
)


def parse(xml: str) -> Vm:
    return parse_vm(xml.encode(), "the document")


def parse_disk(*elements: str) -> VmDisk:
    """Return the disk of SMALL with these elements in addition."""
    return parse(SMALL.replace("</DISK>", "".join(elements) + "</DISK>")).disks[0]


def test_a_vm_of_a_real_front_end() -> None:
    vm = parse(MIGRATED)
    assert (vm.id, vm.name, vm.state, vm.lcm_state, vm.deploy_id) == (10, "shared_ssh", 3, 4, "one-10")
    assert (vm.host, vm.system_datastore_id, vm.tm_mad, vm.vm_mad, vm.last_action) == ("h2", 100, "ssh", "kvm", 0)
    assert vm.backup == BackupConfig()
    assert [disk.disk_id for disk in vm.disks] == list(range(7))
    assert vm.disk(0) == VmDisk(
        disk_id=0,
        type="file",
        size_mb=96,
        format="raw",
        image_id=6,
        datastore_id=103,
        tm_mad="shared",
        source="/var/lib/one//datastores/103/6dc37e0ca938f2b27d1fc65a74f8c3ae",
        original_size_mb=64,
        target="vda",
        snapshots=(VmSnapshot(1, True),),
    )
    assert vm.disk(3) == VmDisk(
        disk_id=3, type="fs", size_mb=16, format="raw", datastore_id=100, tm_mad="ssh", target="sdb", fs="ext4"
    )
    persistent = vm.disk(2)
    assert (persistent.is_persistent, persistent.is_saved, persistent.format) == (True, True, "qcow2")
    assert persistent.snapshots == (VmSnapshot(0, False), VmSnapshot(1, True))


def test_every_disk_of_a_real_front_end_compared_with_another_parser() -> None:
    for xml in (MIGRATED, BACKED_UP):
        for disk in ElementTree.fromstring(xml).iterfind("TEMPLATE/DISK"):
            found = parse(xml).disk(int(disk.findtext("DISK_ID") or ""))
            assert {
                "DISK_ID": str(found.disk_id),
                "SIZE": str(found.size_mb),
                "SOURCE": found.source,
                "FORMAT": found.format,
                "TM_MAD": found.tm_mad,
                "CLONE": None if found.type in ("fs", "swap") else "NO" if found.is_persistent else "YES",
                "SAVE": None if found.type in ("fs", "swap") else "YES" if found.is_saved else "NO",
            } == {
                name: disk.findtext(name) for name in ("DISK_ID", "SIZE", "SOURCE", "FORMAT", "TM_MAD", "CLONE", "SAVE")
            }


def test_the_configuration_of_backups() -> None:
    assert parse(BACKED_UP).backup == BackupConfig("NONE", "FULL", 110, None)


def test_the_format_of_the_image_comes_before_the_driver() -> None:
    assert parse_disk("<DRIVER>qcow2</DRIVER>").format == "raw"
    older = SMALL.replace("<FORMAT>raw</FORMAT>", "<DRIVER> QCOW2 </DRIVER>")
    assert parse(older).disks[0].format == "qcow2"
    without = SMALL.replace("<FORMAT>raw</FORMAT>", "")
    assert parse(without).disks[0].format is None


@pytest.mark.parametrize(
    ("element", "field", "expected"),
    [
        ("<SPARSE>no</SPARSE>", "is_sparse", False),
        ("<SPARSE>YES</SPARSE>", "is_sparse", True),
        ("<QCOW2_STANDALONE>Yes</QCOW2_STANDALONE>", "is_standalone", True),
        ("<RECOVERY_SNAPSHOT_FREQ>3600</RECOVERY_SNAPSHOT_FREQ>", "recovery_snapshot_freq", 3600),
        ("<RECOVERY_SNAPSHOT_FREQ/>", "recovery_snapshot_freq", None),
        ("<CLONE>NO</CLONE>", "is_persistent", True),
        ("<CLONE>YES</CLONE>", "is_persistent", False),
        ("<ORIGINAL_SIZE>32</ORIGINAL_SIZE>", "original_size_mb", 32),
        ("<SOURCE>/a'b\" $(c) ä&amp;&lt;&#10;</SOURCE>", "source", "/a'b\" $(c) ä&<\n"),
        ("<SOURCE><![CDATA[</DISK>]]></SOURCE>", "source", "</DISK>"),
    ],
)
def test_attributes_of_a_disk(element: str, field: str, expected: object) -> None:
    assert getattr(parse_disk(element), field) == expected


def test_the_newest_history_record_has_the_placement() -> None:
    newest = (
        "<HISTORY><HOSTNAME>h2</HOSTNAME><DS_ID>104</DS_ID><TM_MAD>qcow2</TM_MAD><VM_MAD>qemu</VM_MAD>"
        "<ACTION>14</ACTION></HISTORY></HISTORY_RECORDS>"
    )
    vm = parse(SMALL.replace("</HISTORY_RECORDS>", newest))
    assert (vm.host, vm.system_datastore_id, vm.tm_mad, vm.vm_mad, vm.last_action) == ("h2", 104, "qcow2", "qemu", 14)


def test_a_vm_that_was_never_deployed_has_no_domain() -> None:
    assert parse(SMALL.replace("one-7", "")).deploy_id is None


@pytest.mark.parametrize("name", ["ID", "NAME", "STATE", "LCM_STATE"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_missing_element_is_an_error(name: str, empty: bool) -> None:
    xml = re.sub(f"<{name}>[^<]*</{name}>", f"<{name}/>" if empty else "", SMALL, count=1)
    with refused(InvalidInput, option=f"VM/{name}", value=""):
        parse(xml)


@pytest.mark.parametrize("name", ["HOSTNAME", "DS_ID", "TM_MAD", "VM_MAD", "ACTION"])
def test_a_history_record_is_complete(name: str) -> None:
    with refused(InvalidInput, option=f"VM/HISTORY_RECORDS/HISTORY/{name}", value=""):
        parse(re.sub(f"<{name}>[^<]*</{name}>", "", SMALL))


def test_a_vm_without_a_placement_is_refused() -> None:
    with refused(InvalidInput, option="VM/HISTORY_RECORDS/HISTORY", value=""):
        parse(re.sub("<HISTORY>.*</HISTORY>", "", SMALL))


@pytest.mark.parametrize("name", ["TYPE", "SIZE"])
def test_a_disk_without_a_required_element_is_named(name: str) -> None:
    with refused(InvalidInput, option=f"VM/TEMPLATE/DISK[DISK_ID=0]/{name}", value=""):
        parse(re.sub(f"<{name}>[^<]*</{name}>", "", SMALL))


@pytest.mark.parametrize(
    ("path", "old", "new", "value"),
    [
        ("VM/TEMPLATE/DISK/DISK_ID", "<DISK_ID>0</DISK_ID><TYPE>", "<DISK_ID>../0</DISK_ID><TYPE>", "../0"),
        ("VM/TEMPLATE/DISK[DISK_ID=0]/SIZE", "64", "-64", "-64"),
        ("VM/TEMPLATE/DISK[DISK_ID=0]/SIZE", "64", "9" * 19, "9" * 19),
        ("VM/TEMPLATE/DISK[DISK_ID=0]/RECOVERY_SNAPSHOT_FREQ", "</DISK>", "<RECOVERY_SNAPSHOT_FREQ>1h", "1h"),
        ("VM/SNAPSHOTS[DISK_ID=0]/SNAPSHOT/ID", "<SNAPSHOT><ID>0", "<SNAPSHOT><ID>x", "x"),
        ("VM/HISTORY_RECORDS/HISTORY/DS_ID", "<DS_ID>100", "<DS_ID>-1", "-1"),
    ],
)
def test_numbers_are_whole(path: str, old: str, new: str, value: str) -> None:
    tail = "</RECOVERY_SNAPSHOT_FREQ></DISK>" if "FREQ" in new else ""
    with refused(InvalidInput, option=path, value=value):
        parse(SMALL.replace(old, new + tail))


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (
            "VM/TEMPLATE/DISK/DISK_ID",
            "</DISK>",
            "</DISK><DISK><DISK_ID>0</DISK_ID><TYPE>fs</TYPE><SIZE>1</SIZE></DISK>",
        ),
        ("VM/SNAPSHOTS/DISK_ID", "</SNAPSHOTS>", "</SNAPSHOTS><SNAPSHOTS><DISK_ID>0</DISK_ID></SNAPSHOTS>"),
        ("VM/SNAPSHOTS[DISK_ID=0]/SNAPSHOT/ID", "</SNAPSHOT>", "</SNAPSHOT><SNAPSHOT><ID>0</ID></SNAPSHOT>"),
    ],
)
def test_ids_are_distinct(path: str, old: str, new: str) -> None:
    with refused(InvalidInput, says=f"{path}: '0' is not accepted: an id that no other has is expected."):
        parse(SMALL.replace(old, new))


def test_an_element_that_is_repeated_is_not_chosen_from() -> None:
    with refused(InvalidInput, option="VM/TEMPLATE/DISK[DISK_ID=0]/SOURCE", value="/b"):
        parse_disk("<SOURCE>/a</SOURCE><SOURCE>/b</SOURCE>")


def test_elements_elsewhere_do_not_count() -> None:
    """A user decides about the names in a user template."""
    inner = (
        "<USER_TEMPLATE><DISK><DISK_ID>5</DISK_ID></DISK><HISTORY><HOSTNAME>evil</HOSTNAME></HISTORY></USER_TEMPLATE>"
    )
    assert parse(SMALL.replace("</VM>", f"{inner}</VM>")) == parse(SMALL)


def test_a_document_has_a_bounded_number_of_elements() -> None:
    with refused(
        InvalidInput,
        says=f"the document: '<DISK>' is not accepted: at most {MOST_ELEMENTS} elements with facts are expected.",
    ):
        parse(SMALL.replace("<DISK>", "<DISK/>" * MOST_ELEMENTS + "<DISK>"))


def test_a_document_with_another_root_is_refused() -> None:
    with refused(InvalidInput, option="the document", value="<DATASTORE>"):
        parse("<DATASTORE/>")


def test_standard_input_is_base64_or_xml() -> None:
    xml = MIGRATED.encode()
    for data in (xml, b"\n " + xml, base64.b64encode(xml), base64.encodebytes(xml)):
        assert read_vm(io.BytesIO(data)) == parse(MIGRATED)


@pytest.mark.parametrize("data", [b"", b"\n", b"text?", b"<VM>", b"<VM/", base64.b64encode(b"text")])
def test_anything_else_on_standard_input_is_refused(data: bytes) -> None:
    with refused(InvalidInput, option="standard input"):
        read_vm(io.BytesIO(data))


@pytest.mark.parametrize("encode", [bytes, base64.b64encode])
def test_a_document_of_100_mb_is_not_parsed(encode: type[bytes]) -> None:
    with refused(InvalidInput, option="standard input", accepted="a document of at most 64 MiB is expected"):
        read_vm(io.BytesIO(encode(b"<" * (100 << 20))))


def test_a_system_datastore_of_a_real_front_end() -> None:
    xml = (DOCUMENTS / "datastore-system.xml").read_text()
    found = parse_datastore(xml.encode(), "the document")
    assert (found.id, found.name, found.type) == (104, "sys_qcow2", "system")
    assert (found.ds_driver, found.tm_driver, found.base_path) == (None, "qcow2", "/var/lib/one//datastores/104")
    assert (found.replica_host, found.bridge_list, found.mounts_automatically) == (None, (), False)


def test_attributes_of_a_datastore() -> None:
    xml = (DOCUMENTS / "datastore-system.xml").read_text()
    for name, value in {
        "REPLICA_HOST": " h3 ",
        "BRIDGE_LIST": "h1 h2",
        "NFS_AUTO_ENABLE": "yes",
        "NFS_AUTO_HOST": "nfs.example",
        "NFS_AUTO_PATH": "/srv/one",
    }.items():
        xml = xml.replace("</TEMPLATE>", f"<{name}>{value}</{name}></TEMPLATE>")
    found = parse_datastore(xml.encode(), "the document")
    assert (found.replica_host, found.bridge_list, found.mounts_automatically) == ("h3", ("h1", "h2"), True)
    assert found.attributes["nfs_auto_host"] == "nfs.example"


@pytest.mark.parametrize("name", ["BASE_PATH", "TYPE", "ID"])
def test_a_datastore_without_a_required_element_is_refused(name: str) -> None:
    xml = (DOCUMENTS / "datastore-system.xml").read_text()
    with refused(InvalidInput, option=f"DATASTORE/{name}", value=""):
        parse_datastore(re.sub(f"<{name}>.*?</{name}>", "", xml, count=1).encode(), "the document")
