# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The lab file: accepted content, and one sentence for each refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lab import LabError, load_spec
from refusal import refused

GOOD: dict[str, Any] = {"name": "a-1", "hosts": {"hv1": {"kind": "debian13"}}, "guests": {"rw": {"host": "hv1"}}}


def test_defaults() -> None:
    spec = load_spec(GOOD)
    assert vars(spec.guests["rw"]) == {
        "host": "hv1",
        "memory": 256,
        "running": True,
        "shared_memory": False,
        "root_ports": 4,
        "cloud_init": False,
        "virt_install": False,
    }


def test_a_cloud_guest_gets_more_memory_unless_told() -> None:
    assert load_spec({**GOOD, "guests": {"c": {"host": "hv1", "cloud_init": True}}}).guests["c"].memory == 512
    assert (
        load_spec({**GOOD, "guests": {"c": {"host": "hv1", "cloud_init": True, "memory": 300}}}).guests["c"].memory
        == 300
    )


def test_a_host_with_a_kernel_of_its_own_has_memory() -> None:
    hosts = {"nfs": {"kind": "uml"}, "hv1": {"kind": "uml", "memory": 512}, "c": {"kind": "debian13"}}
    spec = load_spec({"name": "x", "hosts": hosts})
    assert {name: host.memory for name, host in spec.hosts.items()} == {"nfs": 256, "hv1": 512, "c": None}
    assert load_spec(spec.to_dict()) == spec


def test_a_spec_survives_being_written_down() -> None:
    spec = load_spec(GOOD)
    assert load_spec(spec.to_dict()) == spec


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "lab.yml").write_text("name: x\nhosts:\n  h: {kind: debian12}\n", encoding="utf-8")
    assert load_spec(tmp_path / "lab.yml").hosts["h"].kind == "debian12"


def test_the_lab_of_the_scenario_shared() -> None:
    spec = load_spec(Path(__file__).parents[5] / "molecule/shared/lab/shared.yml")
    assert {name: host.kind for name, host in spec.hosts.items()} == dict.fromkeys(("nfs", "front", "hv1"), "uml")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guest": {}}, ["'guest'", "'guests'"]),
        ({"name": "Upper"}, ["name", "'Upper'", "a-z"]),
        ({"name": None}, ["name", "None"]),
        ({"name": "-a"}, ["'-a'"]),
        ({"name": "x" * 33}, ["1 to 32"]),
        ({"name": "a\n"}, ["a-z"]),
        ({"hosts": None}, ["hosts", "mapping"]),
        ({"hosts": {}}, ["at least one host"]),
        ({"hosts": {"hv1": {"kind": "debian14"}}}, ["hosts.hv1.kind", "'debian14'", "debian13"]),
        ({"hosts": {"hv1": {"kinds": "debian13"}}}, ["'kinds'", "'kind'"]),
        ({"hosts": {"hv1": {"kind": "uml", "memory": 64}}}, ["hosts.hv1.memory", "64", "128"]),
        ({"hosts": {"hv1": {"kind": "debian13", "memory": 256}}}, ["hosts.hv1.memory", "256", "uml"]),
        ({"hosts": {"hv1": {"kind": "uml"}}}, ["guests.rw.host", "'hv1'", "guests"]),
        ({"hosts": {"hv1": "debian13"}}, ["hosts.hv1", "mapping"]),
        ({"hosts": {1: {"kind": "debian13"}}}, ["hosts", "1"]),
        ({"guests": {"rw": {"host": "hv2"}}}, ["guests.rw.host", "'hv2'", "hv1"]),
        ({"guests": {"rw": {"host": "hv1", "memroy": 1}}}, ["'memroy'", "'memory'"]),
        ({"guests": {"rw": {"host": "hv1", "memory": 1}}}, ["guests.rw.memory", "128"]),
        ({"guests": {"rw": {"host": "hv1", "memory": "256"}}}, ["guests.rw.memory", "'256'"]),
        ({"guests": {"rw": {"host": "hv1", "memory": True}}}, ["guests.rw.memory", "True"]),
        ({"guests": {"rw": {"host": "hv1", "running": "no"}}}, ["guests.rw.running", "'no'", "true nor false"]),
        ({"guests": {"rw": {"host": "hv1", "root_ports": 17}}}, ["root_ports", "17", "16"]),
        ({"guests": {"hv1": {"host": "hv1"}}}, ["guests.hv1", "name"]),
        ({"guests": {f"g{n}": {"host": "hv1"} for n in range(201)}}, ["201", "200"]),
    ],
)
def test_refused(change: dict[str, Any], words: list[str]) -> None:
    with refused(LabError, names=words) as error:
        load_spec({**GOOD, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- a", "name: [", "\x00", "just words", ""])
def test_a_file_that_is_no_lab_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lab.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LabError) as error:
        load_spec(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.yml"
    with refused(LabError, says=f"The lab file '{path}' can't be read: No such file or directory."):
        load_spec(path)
