# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that are declared again after external changes: renamed sources, other mirrors, larger sizes.

The data stays unchanged.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.attachments import ATTACHMENTS
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
    PartlyDone,
    PathNotAllowed,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._model.attachment import Attachment
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.info import image_info
from refusal import refused

MIB = 1 << 20

Run = Callable[..., Plan]


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    path = str(tmp_path / "catalog.sqlite")
    (tmp_path / "datastores").mkdir()
    open_catalog(path, create=True, datastore_location=str(tmp_path / "datastores")).close()
    return path


@pytest.fixture
def run(catalog: str) -> Run:
    """Declare an image, or the list ``images``, in the datastore ``default``."""
    defaults = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}

    def run_service(check: bool = False, **given: object) -> Plan:
        images = given.pop("images", None)
        if images is None:
            given = {"datastore": "default", **given}
        else:
            given["images"] = [{**defaults, "datastore": "default", **one} for one in images]
        service = ImageService({**defaults, "catalog": catalog, **given})
        return service.plan() if check else service.converge()

    return run_service


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "mirror-1.img"
    path.write_bytes(os.urandom(4096) + bytes(2 * MIB - 4096))
    return path


@pytest.fixture
def clone(run: Run, source: Path) -> Path:
    """Return the data of ``web``, a persistent clone of ``golden``, to which a domain has written."""
    run(name="golden", type="os", path=str(source))
    path = Path(run(name="web", clone_from="golden", persistent=True).result["image"]["path"])
    path.write_bytes(b"written by a domain".ljust(2 * MIB, b"\0"))
    return path


def done(plan: Plan) -> list[tuple[str, str]]:
    return [(action.name, action.subject) for action in plan.actions]


def qemu(*argv: object) -> str:
    return subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.PIPE, text=True).stdout


# Clones


@pytest.mark.parametrize("reference", ["golden-12", "golden", "0"])
def test_a_clone_of_an_image_that_was_renamed_is_the_same(run: Run, clone: Path, catalog: str, reference: str) -> None:
    run(id=0, name="golden-12")
    for force in (False, True):
        plan = run(name="web", clone_from=reference, persistent=True, force=force)
        assert (plan.actions, plan.result["image"]["origin"]) == ([], "image:golden-12")
    assert clone.read_bytes().startswith(b"written by a domain")
    assert [one["origin"] for one in image_info({"name": "web", "datastore": None, "catalog": catalog})["images"]] == [
        "image:golden-12"
    ]


def test_a_clone_is_the_same_where_its_source_is_renamed_in_the_same_run(run: Run, clone: Path) -> None:
    images = [
        {"id": 0, "name": "golden-12"},
        {"name": "web", "clone_from": "golden-12"},
        {"name": "new", "clone_from": "golden-12"},
    ]
    plan = run(images=images)
    assert done(plan) == [("update image", "golden-12"), ("create image", "new")]
    assert [one["origin"] for one in plan.result["images"][1:]] == ["image:golden-12"] * 2
    assert run(images=images).actions == []


def test_a_new_image_under_the_name_of_the_source_makes_no_clone_anew(run: Run, clone: Path, source: Path) -> None:
    """A new golden image gets the name of the old one, by a rename of the old image or by a renamed new one."""
    run(id=0, name="golden-old")
    run(name="golden", type="os", path=str(source))
    assert run(name="web", clone_from="golden").actions == []
    run(name="golden-old", state="absent")
    assert run(name="web", clone_from="golden").result["image"]["origin"] == "image:golden"
    run(name="golden", state="absent")
    assert run(name="web", clone_from="golden").actions == []


@pytest.mark.parametrize("check", [True, False])
def test_a_clone_of_another_image_is_refused_with_what_is_lost(
    run: Run, clone: Path, source: Path, check: bool
) -> None:
    run(name="other", type="os", path=str(source))
    run(id=0, name="golden-12")
    with refused(Conflict, names=["clone_from", "'web'", "'image:golden-12'", "'image:other'"]):
        run(check, name="web", clone_from="other")
    assert clone.read_bytes().startswith(b"written by a domain")


# The same data from elsewhere


def checksum(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


@pytest.mark.parametrize("force", [True, False])
def test_the_same_checksum_is_the_same_data_wherever_it_came_from(
    run: Run, source: Path, catalog: str, force: bool
) -> None:
    first = run(name="x", type="os", path=str(source), checksum=checksum(source), persistent=True).result["image"]
    Path(first["path"]).write_bytes(b"written by a domain".ljust(2 * MIB, b"\0"))
    with open_catalog(catalog, create=False) as opened, opened.transaction():
        ATTACHMENTS.put(opened, Attachment(0, "h1", "web", "tag", "/mnt/x", False))
    mirror = "https://mirror-2.invalid/x.img"
    given = {"name": "x", "url": mirror, "checksum": checksum(source), "force": force}
    planned, plan = run(True, **given), run(**given)
    assert (planned.as_result(), done(plan)) == (plan.as_result(), [("update image", "x")])
    image = plan.result["image"]
    assert (image["path"], image["origin"], image["origin_checksum"]) == (first["path"], mirror, checksum(source))
    assert Path(first["path"]).read_bytes().startswith(b"written by a domain")
    assert run(**given).actions == []


def test_without_the_checksum_another_mirror_may_have_anything(run: Run, source: Path) -> None:
    run(name="x", type="os", path=str(source), checksum=checksum(source))
    keep = f"leave url out, or give checksum: {checksum(source)} if the same is there, to keep its data"
    with refused(
        Conflict,
        says=f"url: the image 'x' was made with '{source}'; {keep}, or give force: true to lose all that it holds and "
        "get new data with 'https://mirror-2.invalid/x.img'.",
    ):
        run(name="x", url="https://mirror-2.invalid/x.img")


def test_a_checksum_alone_names_no_new_origin(run: Run, source: Path) -> None:
    run(name="x", type="os", path=str(source), checksum=checksum(source))
    assert run(name="x", checksum=checksum(source)).actions == []


@pytest.mark.parametrize("persistent", [True, False])
def test_the_checksum_of_the_data_counts_where_no_domain_writes_to_it(
    run: Run, source: Path, catalog: str, persistent: bool
) -> None:
    run(name="x", type="os", path=str(source), persistent=persistent)
    with open_catalog(catalog, create=False) as opened, opened.transaction():
        opened.execute("UPDATE image SET checksum = ?", [checksum(source)])  # the checksum that datastore_check records
    given = {"name": "x", "path": str(source), "checksum": checksum(source)}
    if persistent:
        with refused(
            Conflict,
            says="checksum: the image 'x' was made without one; leave checksum out to keep its data, or "
            "give force: true to lose all that it holds and get new data with 'sha256:*'.",
        ):
            run(**given)
    else:
        assert run(**given).result["image"]["origin_checksum"] == checksum(source)
        assert run(**given).actions == []


# Sizes


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("force", [True, False])
def test_an_empty_image_grows_and_keeps_its_data(run: Run, image_format: str, force: bool) -> None:
    given = {"name": "b", "type": "datablock", "size": 4, "format": image_format, "persistent": True}
    path = run(**given).result["image"]["path"]
    qemu("qemu-io", "-f", image_format, "-c", "write -P 7 0 4M", path)
    given.update(size=9, force=force)
    planned, plan = run(True, **given), run(**given)
    assert (planned.as_result(), done(plan), plan.warnings) == (plan.as_result(), [("grow image", "b")], [])
    image = plan.result["image"]
    assert (image["path"], image["size_mb"], planned.result["image"]["size_mb"]) == (path, 9, 9)
    assert '"virtual-size": 9437184' in qemu("qemu-img", "info", "-f", image_format, "--output=json", path)
    assert "verification failed" not in qemu(
        "qemu-io", "-f", image_format, "-c", "read -P 7 0 4M", "-c", "read -P 0 4M 5M", path
    )
    if image_format == "qcow2":
        qemu("qemu-img", "check", "-f", "qcow2", path)
    assert run(**given).actions == []
    qemu(
        "qemu-img",
        "compare",
        "-f",
        image_format,
        "-F",
        image_format,
        run(name="c", clone_from="b").result["image"]["path"],
        path,
    )


def test_the_file_system_in_it_has_to_be_grown_by_its_guest(run: Run) -> None:
    run(name="b", type="datablock", size=8, fs="ext4")
    for check in (True, False):
        kept = (
            "The ext4 in the image 'b' keeps its 8 MiB until it is grown in a guest, such as with resize2fs, "
            "xfs_growfs or mkswap."
        )
        assert run(check, name="b", size=16).warnings == [kept]
    image = run(name="b", size=16, fs="ext4").result["image"]
    qemu("e2fsck", "-fn", image["path"])
    qemu("resize2fs", image["path"])


def test_all_its_storage_where_it_is_not_sparse(run: Run) -> None:
    run(name="b", type="datablock", size=1, sparse=False)
    path = run(name="b", size=8, sparse=False).result["image"]["path"]
    assert os.stat(path).st_blocks * 512 >= 8 * MIB


@pytest.mark.parametrize("check", [True, False])
def test_an_image_does_not_shrink(run: Run, check: bool) -> None:
    path = run(name="b", type="datablock", size=8).result["image"]["path"]
    with refused(Conflict, names=["size", "'b'", 8, 4, "force: true"]):
        run(check, name="b", size=4)
    assert os.stat(path).st_size == 8 * MIB


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("check", [True, False])
def test_what_a_domain_has_does_not_grow(run: Run, catalog: str, check: bool, force: bool) -> None:
    path = run(name="b", type="datablock", size=4).result["image"]["path"]
    with open_catalog(catalog, create=False) as opened, opened.transaction():
        ATTACHMENTS.put(opened, Attachment(0, "h1", "web", "tag", "/mnt/x", False))
    with refused(Conflict, names=["'b'", "'web'", "'h1'"]):
        run(check, name="b", size=8, force=force)
    assert os.stat(path).st_size == 4 * MIB


@pytest.mark.parametrize("force", [True, False])
def test_what_a_program_has_open_does_not_grow(run: Run, opened_by_qemu: Callable[..., None], force: bool) -> None:
    path = run(name="b", type="datablock", size=4).result["image"]["path"]
    opened_by_qemu(path, "-f", "raw")
    with refused(
        Conflict,
        says="The image 'b' can't be grown while its data is used by the program qemu-io (process *): "
        "shut it down first.",
    ):
        run(name="b", size=8, force=force)
    assert os.stat(path).st_size == 4 * MIB


def test_other_options_still_differ_where_the_size_grows(run: Run) -> None:
    run(name="b", type="datablock", size=4, format="raw")
    with refused(
        Conflict,
        says="format: the image 'b' was made with 'raw'; leave format out to keep its data, or give "
        "force: true to lose all that it holds and get new data with 'qcow2'.",
    ):
        run(name="b", size=8, format="qcow2")
    with refused(InvalidInput, says="size: 67108865 is not accepted: 1 to * MiB are expected."):
        run(name="b", size=67108865)


def test_what_was_copied_is_no_empty_image_that_could_grow(run: Run, source: Path) -> None:
    run(name="x", type="os", path=str(source))
    with refused(
        Conflict,
        says="size: the image 'x' was made with 2; leave size out to keep its data, or give force: "
        "true to lose all that it holds and get new data with 8.",
    ):
        run(name="x", size=8)


@pytest.mark.parametrize("check", [True, False])
def test_an_image_with_snapshots_does_not_grow(run: Run, check: bool) -> None:
    path = run(name="b", type="datablock", size=4).result["image"]["path"]
    os.mkdir(f"{path}.snap")
    shutil.copy(path, f"{path}.snap/0")
    with refused(
        Conflict,
        says="size: the image 'b' can't grow while it has snapshots: remove them with the module image_snapshot first.",
    ):
        run(check, name="b", size=8)
    assert os.stat(path).st_size == 4 * MIB


def test_images_of_a_list_grow_in_their_turn(run: Run) -> None:
    """A later clone in the list has the new size. An image that can't grow doesn't prevent the creation of others."""
    paths = [
        one["path"]
        for one in run(
            images=[{"name": name, "type": "datablock", "size": 4, "format": "qcow2"} for name in "ab"]
        ).result["images"]
    ]
    Path(paths[1]).write_bytes(b"no image" * 1000)
    with refused(PartlyDone, says=f"images[1] (b): {paths[1]} is not used: it isn't a qcow2 image."):
        run(images=[{"name": "a", "size": 8}, {"name": "b", "size": 8}, {"name": "c", "clone_from": "a"}])
    assert [run(name=name).result["image"]["size_mb"] for name in "abc"] == [8, 4, 8]
    assert Path(paths[1]).read_bytes() == b"no image" * 1000
    qemu("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", paths[0], run(name="c").result["image"]["path"])


def test_a_grown_image_whose_row_was_not_written_is_grown_again(run: Run, catalog: str) -> None:
    """A run was killed between the two steps, or another program changed the catalog meanwhile."""
    path = run(name="b", type="datablock", size=4).result["image"]["path"]
    os.truncate(path, 8 * MIB)
    assert run(name="b", size=8).result["image"]["size_mb"] == 8
    assert os.stat(path).st_size == 8 * MIB


# Diffs


def diff(plan: Plan) -> list[tuple[object, object]]:
    return [(one["before"], one["after"]) for one in plan.diff()]


def test_the_diff_of_new_images_has_what_they_are(run: Run, source: Path) -> None:
    images = [
        {"name": "x", "type": "os", "path": str(source)},
        {"name": "y", "clone_from": "x", "persistent": True},
        {"name": "z", "type": "datablock", "size": 8, "fs": "ext4"},
    ]
    planned, plan = run(True, images=images), run(images=images)
    paths = [one["path"] for one in plan.result["images"]]
    common = {"datastore": "default", "format": "raw"}
    expected = [
        {**common, "path": paths[0], "type": "os", "size_mb": 2, "origin": str(source)},
        {**common, "path": paths[1], "type": "os", "size_mb": 2, "origin": "image:x", "persistent": True},
        {**common, "path": paths[2], "type": "datablock", "size_mb": 8, "fs": "ext4"},
    ]
    assert diff(plan) == [("", one) for one in expected]
    # Unknown are the path of a file before its creation, and the format before its copy.
    foretold = [
        {
            name: value
            for name, value in one.items()
            if name != "path" and (name, one.get("origin")) != ("format", str(source))
        }
        for one in expected
    ]
    del foretold[1]["format"]
    assert diff(planned) == [("", one) for one in foretold]


def test_the_diff_of_a_replaced_image_has_its_new_file(run: Run, source: Path, tmp_path: Path) -> None:
    old = run(name="x", type="os", path=str(source)).result["image"]["path"]
    other = tmp_path / "other.img"
    other.write_bytes(bytes(3 * MIB))
    given = {"name": "x", "path": str(other), "force": True}
    before = {"path": old, "size_mb": 2, "origin": str(source)}
    planned, plan = run(True, **given), run(**given)
    assert diff(planned) == [(before, {"path": "(a new file)", "size_mb": 3, "origin": str(other)})]
    new = plan.result["image"]["path"]
    assert diff(plan) == [(before, {"path": new, "size_mb": 3, "origin": str(other)})]
    assert diff(run(id=0, name="y")) == [({"name": "x"}, {"name": "y"})]
    assert diff(run(True, name="y", state="absent")) == [
        ({"datastore": "default", "format": "raw", "path": new, "size_mb": 3, "type": "os", "origin": str(other)}, "")
    ]
    run(name="b", type="datablock", size=1)
    assert diff(run(name="b", size=2)) == [({"size_mb": 1}, {"size_mb": 2})]


# Clones in another datastore


@pytest.fixture
def elsewhere(catalog: str, tmp_path: Path) -> Path:
    """Return the directory of the datastore ``elsewhere``, which is apart from the others; ``bridged`` is a datastore
    on other hosts.
    """
    path = tmp_path / "far" / "away"
    path.parent.mkdir()
    with open_catalog(catalog, create=False) as opened, opened.transaction():
        DATASTORES.insert(opened, Datastore(100, "elsewhere", "image", "fs", "ssh", str(path)))
        DATASTORES.insert(
            opened, Datastore(101, "bridged", "image", "fs", "ssh", f"{tmp_path}/datastores/101", bridge_list=("h1",))
        )
    return path


@pytest.mark.parametrize("driver", ["raw", "qcow2"])
def test_a_clone_in_a_datastore_anywhere_on_the_host(run: Run, clone: Path, elsewhere: Path, driver: str) -> None:
    given = {"name": "there", "datastore": "elsewhere", "clone_from": "web", "driver": driver}
    planned, plan = run(True, **given), run(**given)
    assert planned.as_result() == plan.as_result()
    path = plan.result["image"]["path"]
    assert os.path.dirname(path) == str(elsewhere)
    qemu("qemu-img", "compare", "-f", driver, "-F", "raw", path, clone)
    assert run(**given).actions == []
    back = run(name="back", clone_from="there", driver="raw").result["image"]["path"]
    assert Path(back).read_bytes() == clone.read_bytes()


def test_a_clone_of_a_chain_in_another_datastore(run: Run, clone: Path, elsewhere: Path) -> None:
    path = Path(run(name="q", type="datablock", size=4, format="qcow2").result["image"]["path"])
    (snapshots := Path(f"{path}.snap")).mkdir()
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 1M", path)
    path.rename(snapshots / "0")
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-b", snapshots / "0", "-F", "qcow2", snapshots / "1")
    path.symlink_to(f"{path.name}.snap/1")
    there = run(name="there", datastore="elsewhere", clone_from="q", driver="raw").result["image"]["path"]
    assert Path(there).read_bytes() == (b"\7" * MIB).ljust(4 * MIB, b"\0")


@pytest.mark.parametrize("check", [True, False])
def test_a_clone_between_hosts_is_refused_in_the_words_of_the_module(
    run: Run, clone: Path, elsewhere: Path, check: bool
) -> None:
    with refused(
        UnsupportedAction,
        says="clone_from: the image 'web' can't be cloned into another datastore here, because 'default' is on this "
        "host and 'bridged' is on the hosts of its bridge_list; both have to be on this host, or on the same hosts in "
        "directories beside each other that are named by their ids. Otherwise make the image from the path or url of "
        "the first one.",
    ):
        run(check, name="there", datastore="bridged", clone_from="web")


def test_data_that_is_outside_of_its_datastore_is_refused_in_the_words_of_the_module(
    run: Run, clone: Path, catalog: str
) -> None:
    with open_catalog(catalog, create=False) as opened, opened.transaction():
        opened.execute("UPDATE image SET path = '/etc/passwd' WHERE name = 'web'")
    with refused(
        InvalidInput,
        says="clone_from: 'web' is not accepted: its data at /etc/passwd can't be used: an image of "
        "the datastore or of one beside it is expected: */<32 hexadecimal digits>.",
    ):
        run(name="y", clone_from="web")


def test_a_path_is_refused_in_the_words_of_the_module(run: Run) -> None:
    with refused(PathNotAllowed, option="path", value="/etc/passwd", names=["safe_dirs"]):
        run(name="x", type="os", path="/etc/passwd")
