# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache of container disks as a service: present and absent disks, and pruning that spares what somebody uses."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    FileAccessFailed,
    InvalidInput,
    TransferFailed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.prune import GRACE
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.store import DiskStore
from ansible_collections.granary.vmstore.plugins.module_utils._libvirt.devices import disk_files
from ansible_collections.granary.vmstore.plugins.module_utils._service.container_disk.facts import (
    read_container_disks,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.container_disk.options import (
    CONTAINER_DISK_CACHE_SPEC,
    parse_options,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.container_disk.service import (
    ContainerDiskCacheService,
)
from container_images import Layout, make_tar, raw_disk
from refusal import refused

Run = Callable[..., Plan]
DAY = 86400


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(str(tmp_path / "cache"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return a layout with the images ``a``, ``b`` and ``c``, each with a disk of 1 MiB of data."""
    layout = Layout(tmp_path / "oci")
    for number, tag in enumerate("abc", 1):
        layout.add(tag, make_tar(("disk/x.img", raw_disk(number)[:512] + bytes([number]) * ((1 << 20) - 512))))
    return layout


@pytest.fixture
def run(store: DiskStore, layout: Layout) -> Run:
    defaults = {name: option.get("default") for name, option in CONTAINER_DISK_CACHE_SPEC.argument_spec.items()}

    def run_service(tag: str | None = None, check: bool = False, **given: Any) -> Plan:
        image = {} if tag is None else {"image": f"oci:{layout.path}:{tag}"}
        service = ContainerDiskCacheService({**defaults, "directory": store.directory, **image, **given})
        return service.dry_run() if check else service.converge()

    return run_service


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def tags(store: DiskStore) -> str:
    """Return the tags in the cache in one text."""
    return "".join(sorted(name[-1] for one in store.read_records() for name in one.names))


def age(store: DiskStore, tag: str, seconds: float) -> None:
    """Let the last use of a disk be some time ago."""
    for one in store.read_records():
        if any(name.endswith(f":{tag}") for name in one.names):
            store.write(one, time.time() - seconds)


def file_of(plan: Plan) -> Path:
    return Path(plan.result["container_disk"]["file"])


@pytest.fixture
def define(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function that defines the domain ``web`` with a disk, on libvirt's test driver."""

    def define_domain(disk: Path) -> None:
        device = f"<disk type='file' device='disk'><source file='{disk}'/><target dev='vda'/></disk>"
        system = "<memory>65536</memory><os><type>hvm</type></os>"
        xml = f"<domain type='test'><name>web</name>{system}<devices>{device}</devices></domain>"
        (tmp_path / "node.xml").write_text(f"<node>{xml}</node>")

    monkeypatch.setattr(disk_files, "DEFAULT_URI", f"test://{tmp_path}/node.xml")
    monkeypatch.setattr(disk_files, "SOCKETS", (str(tmp_path / "node.xml"),))
    return define_domain


def make_overlay(path: Path, backing: str, backing_format: str) -> Path:
    """Make an overlay without a look at its backing file."""
    arguments = ["-u", "-f", "qcow2", "-F", backing_format, "-b", backing, path, "1M"]
    subprocess.run(["qemu-img", "create", "-q", *arguments], check=True)
    return path


def test_check_run_run_and_check(run: Run, store: DiskStore) -> None:
    foretold = run("a", check=True)
    assert not os.path.exists(store.directory)
    done = run("a")
    assert done.as_result() == foretold.as_result() and names(done) == ["pull container disk"]
    assert foretold.result["container_disk"]["digest"] == done.result["container_disk"]["digest"]
    assert foretold.result["container_disk"]["file"] is None
    for check in (False, True):
        again = run("a", check=check)
        assert (names(again), again.result) == ([], done.result)
    foretold = run("a", check=True, state="absent")
    assert tags(store) == "a"
    assert names(foretold) == names(run("a", state="absent")) == ["remove container disk"]
    for check in (False, True):
        assert names(run("a", check=check, state="absent")) == []
    assert store.list_disks() == store.read_records() == []


def test_each_change_has_a_name(run: Run, store: DiskStore, layout: Layout) -> None:
    file = file_of(run("a"))
    layout.add("b", layout_layer(layout, "a"))
    assert names(run("b", check=True)) == names(run("b")) == ["name container disk"]
    os.chmod(file, 0o644)
    assert names(run("a", check=True)) == names(run("a")) == ["protect container disk"]
    moved = run("a", check=True)
    assert names(moved) == []
    before = run("a").result["container_disk"]["digest"]
    layout.add("a", layout_layer(layout, "c"))
    moved = run("a", check=True)
    assert moved.actions[0].before == {"digest": before} != moved.actions[0].after
    assert names(run("a")) == ["pull container disk"]
    assert sorted(one.names for one in store.read_records()) == [
        (f"oci:{layout.path}:a",),
        (f"oci:{layout.path}:b",),
    ]


def layout_layer(layout: Layout, tag: str) -> bytes:
    """Return the layer of an image that the fixture has added."""
    number = "abc".index(tag) + 1
    return make_tar(("disk/x.img", raw_disk(number)[:512] + bytes([number]) * ((1 << 20) - 512)))


def test_the_last_name_removes_the_disk(run: Run, store: DiskStore, layout: Layout) -> None:
    run("a")
    layout.add("b", layout_layer(layout, "a"))
    file = file_of(run("b"))
    assert (
        names(run("a", check=True, state="absent"))
        == names(run("a", state="absent"))
        == ["remove name of container disk"]
    )
    assert (tags(store), file.exists()) == ("b", True)
    run("b", state="absent")
    assert (tags(store), file.exists()) == ("", False)


def test_absent_removes_all_variants(run: Run, store: DiskStore, layout: Layout) -> None:
    layers = {name: layout_layer(layout, tag) for name, tag in (("amd64", "a"), ("arm64", "b"))}
    layout.index("m", {name: layout.manifest([layer], name) for name, layer in layers.items()})
    for architecture in layers:
        run("m", architecture=architecture)
    assert len(run("m", check=True, state="absent").actions) == 2
    assert len(run("m", state="absent", architecture="arm64").actions) == 1
    assert [one.architecture for one in store.read_records()] == ["amd64"]


@pytest.mark.parametrize("chain", ["direct", "overlay", "relative", "json", "deep"])
def test_a_disk_of_a_domain_stays(
    run: Run, store: DiskStore, tmp_path: Path, define: Callable[[Path], None], chain: str
) -> None:
    """A domain that is shut off has only the overlay in its definition."""
    file = file_of(run("a"))
    run("b")
    if chain == "direct":
        define(file)
    elif chain == "overlay":
        define(make_overlay(tmp_path / "top", str(file), "raw"))
    elif chain == "relative":
        (tmp_path / "link").symlink_to(store.disks)
        define(make_overlay(tmp_path / "top", f"link/{file.name}", "raw"))
    elif chain == "json":
        node = {"driver": "qcow2", "file": {"driver": "file", "filename": str(file)}}
        define(make_overlay(tmp_path / "top", "json:" + json.dumps(node), "qcow2"))
    else:
        make_overlay(tmp_path / "middle", f"file:{file}", "raw")
        define(make_overlay(tmp_path / "top", "middle", "qcow2"))
    for check in (True, False):
        with refused(Conflict, names=["oci:", "'web'"]):
            run("a", check=check, state="absent")
    for tag in "ab":
        age(store, tag, 10 * DAY)
    assert names(run(max_age="1d")) == ["prune container disk"]
    assert tags(store) == "a" and file.exists()
    (found,) = read_container_disks({"directory": store.directory, "image": None})["container_disks"]
    assert found["users"] == ["libvirt's domain 'web'"]


def test_the_sentence_about_a_used_disk(run: Run, layout: Layout, define: Callable[[Path], None]) -> None:
    define(file_of(run("a")))
    with refused(
        Conflict,
        says=f"The container disk oci:{layout.path}:a is not removed, because libvirt's domain 'web' has it: remove "
        "that disk of the domain first.",
    ):
        run("a", state="absent")


def test_a_hostile_chain(run: Run, store: DiskStore, tmp_path: Path, define: Callable[[Path], None]) -> None:
    """A guest can write any header to a raw disk."""
    file = file_of(run("a"))
    age(store, "a", 10 * DAY)
    os.mkfifo(tmp_path / "fifo")
    for backing in ("/dev/tty", str(tmp_path / "fifo"), "top", "/", "json:{", "json:[]", "nbd://h/x", "a" * 1000):
        (tmp_path / "top").unlink(missing_ok=True)
        define(make_overlay(tmp_path / "top", backing, "raw"))
        assert names(run(check=True, max_age="1d")) == ["prune container disk"]
    define(tmp_path / "missing")
    assert names(run(check=True, max_age="1d")) == ["prune container disk"]
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    define(loop)
    with refused(FileAccessFailed, names=[loop]):  # nobody knows on what this disk is based
        run(max_age="1d")
    assert file.exists()


def test_a_disk_that_a_program_has_open_stays(run: Run, store: DiskStore, opened_by_qemu: Callable[..., None]) -> None:
    opened_by_qemu(file_of(run("a")), "-r", "-f", "raw")
    age(store, "a", 10 * DAY)
    assert names(run(max_age="1d")) == []
    with refused(Conflict, names=["qemu-io"]):
        run("a", state="absent")


def test_pruning_by_age_and_by_size(run: Run, store: DiskStore) -> None:
    for tag, seconds in (("a", 3 * DAY), ("b", 2 * DAY), ("c", 0)):
        run(tag)
        age(store, tag, seconds)
    foretold = run(check=True, max_size=2)
    assert [one.subject[-1] for one in foretold.actions] == ["a"]
    assert tags(store) == "abc"
    done = run(max_size="2")
    assert (done.as_result(), tags(store), done.warnings) == (foretold.as_result(), "bc", [])
    assert names(run(max_size="2")) == names(run(max_age="3d")) == []
    assert names(run(max_age="47h")) == ["prune container disk"]
    assert (tags(store), len(store.list_disks())) == ("c", 1)
    kept = run(max_age="0", max_size="0")
    assert (names(kept), tags(store), len(kept.warnings)) == ([], "c", 1)
    age(store, "c", GRACE + 1)
    assert names(run(max_age="0")) == ["prune container disk"]


def test_a_disk_that_is_used_meanwhile_is_not_pruned(
    run: Run, store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(run("a"))
    age(store, "a", 10 * DAY)
    changing = DiskStore.changing

    def use_before_the_lock(self: DiskStore) -> Any:
        (one,) = self.read_records()
        self.note_use(one)
        return changing(self)

    monkeypatch.setattr(DiskStore, "changing", use_before_the_lock)
    done = run(max_age="1d")
    assert (names(done), len(done.postponed)) == ([], 1)
    assert file.exists()


def test_the_present_disk_is_not_pruned(run: Run, store: DiskStore) -> None:
    for tag in "ab":
        run(tag)
        age(store, tag, 10 * DAY)
    assert names(run("a", check=True, max_age="1d")) == names(run("a", max_age="1d")) == ["prune container disk"]
    assert tags(store) == "a"
    age(store, "a", 10 * DAY)
    pulled = run("c", max_size="1")
    assert names(pulled) == ["pull container disk", "prune container disk"]
    assert tags(store) == "c"


def test_a_shared_disk_stays_for_the_other_image(run: Run, store: DiskStore, layout: Layout) -> None:
    run("a")
    layout.add("b", layout_layer(layout, "a"), make_tar(("etc/x", b"")))
    file = file_of(run("b"))
    assert len(store.list_disks()) == 1
    age(store, "a", 10 * DAY)
    run(max_age="1d")
    assert (tags(store), file.exists()) == ("b", True)


def test_disks_without_a_record_are_pruned(run: Run, store: DiskStore) -> None:
    """A run was killed between the disk and its record."""
    file = file_of(run("a"))
    (record,) = (Path(store.directory) / "records").iterdir()
    record.unlink()
    Path(store.directory, "disks", "README").touch()
    assert names(run(check=True, max_age="1w")) == names(run(max_age="1w")) == ["prune container disk"]
    assert not file.exists()
    assert os.listdir(store.disks) == ["README"]


def test_info_of_a_cache(run: Run, store: DiskStore, layout: Layout) -> None:
    options = {"directory": store.directory, "image": None}
    assert read_container_disks(options) == {"container_disks": [], "size": 0}
    disk = run("a").result["container_disk"]
    run("b")
    age(store, "a", time.time() - 86400)
    found = read_container_disks({**options, "image": f"oci:{layout.path}:a"})
    assert found["size"] == sum(os.stat(store.file(one)).st_blocks * 512 for one in store.list_disks())
    (one,) = found["container_disks"]
    assert {**disk, **one} == {**one, "image": f"oci:{layout.path}:a"}
    assert (one["last_use"], one["users"]) == ("1970-01-02T00:00:00Z", [])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("image", "A/B"), ("path", "disk/x"), ("path", "/"), ("path", "/a/../b"), ("architecture", "../x")),
        *(
            ("max_age", "1y"),
            ("max_age", "-1"),
            ("max_size", "many"),
            ("directory", "cache"),
            ("ca_path", "/etc/hosts"),
        ),
    ],
)
def test_invalid_options(run: Run, option: str, value: str) -> None:
    with refused(InvalidInput, option=option):
        run(**{"image": "r.example/a", option: value})


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


HUB = {"https://index.docker.io/v1/": {"auth": encode("hub:p")}}
NESTED = {
    "r.example": {"username": "all", "password": "p"},
    "r.example/team": {"username": "team", "password": "p"},
    "https://r.example/team/web/": {"username": "web", "password": "p"},
    "r.example:5000": {"auth": encode("port:p:q")},
}


@pytest.mark.parametrize(
    ("image", "secret", "user"),
    [
        ("r.example/a", None, None),
        ("r.example/a", {"username": "u", "password": "p"}, "u"),
        ("a", {"dockerconfigjson": json.dumps({"auths": HUB})}, "hub"),
        ("docker.io/a/b", {"dockerconfigjson": encode(json.dumps({"auths": HUB}))}, "hub"),
        ("r.example/a", {"dockerconfigjson": json.dumps({"auths": HUB})}, None),
        *(
            (name, {"dockerconfigjson": {"auths": NESTED}}, user)
            for name, user in [
                ("r.example/a", "all"),
                ("r.example/teams", "all"),
                ("r.example/team", "team"),
                ("r.example/team/x", "team"),
                ("r.example/team/web/x", "web"),
                ("r.example:5000/a", "port"),
                ("r.example:5001/a", None),
                ("x.r.example/a", None),
            ]
        ),
    ],
)
def test_pull_secrets(run: Run, image: str, secret: dict[str, Any] | None, user: str | None) -> None:
    found = parse(image, secret)
    assert (found and found.username) == user


def parse(image: str, secret: dict[str, Any] | None) -> Any:
    defaults = {name: option.get("default") for name, option in CONTAINER_DISK_CACHE_SPEC.argument_spec.items()}
    return parse_options({**defaults, "image": image, "pull_secret": secret}).request.credentials


@pytest.mark.parametrize(
    "secret",
    [
        {"username": "u"},
        {"password": "s3cret"},
        {"username": "u", "password": "s3cret", "dockerconfigjson": "{}"},
        {"username": "u:v", "password": "s3cret"},
        *(
            {"dockerconfigjson": text}
            for text in [
                "s3cret",
                "{s3cret",
                "{}",
                '{"auths": []}',
                encode("s3cret"),
                "[" * 100_000,
                '{"auths": {"r.example": {"auth": "s3cret!"}}}',
                '{"auths": {"r.example": {"identitytoken": "s3cret"}}}',
                '{"auths": {"r.example": "s3cret"}}',
                '{"auths": {"r.example": {"username": "u"}}}',
            ]
        ),
    ],
    ids=range(14),
)
def test_invalid_pull_secrets_are_not_shown(secret: dict[str, Any]) -> None:
    with refused(InvalidInput, value="...") as caught:
        parse("r.example/a", secret)
    assert "s3cret" not in str(caught.value)


def test_an_origin_that_is_missing(run: Run, tmp_path: Path) -> None:
    with refused(TransferFailed, names=[tmp_path / "none"]):
        run(check=True, image=f"oci:{tmp_path}/none")
