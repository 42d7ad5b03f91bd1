# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that hold data: os, cdrom, datablock and the types of file datastores."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.attachments import ATTACHMENTS
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog, read_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    FileAccessFailed,
    InvalidInput,
    NotFound,
    PartlyDone,
    PathNotAllowed,
    StaleState,
    TransferFailed,
    UnsupportedAction,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._model.attachment import Attachment
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.work import image_lock
from refusal import refused

Run = Callable[..., Plan]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Create a catalog with the default datastores and ``virtual``, for directories."""
    path = str(tmp_path / "catalog.sqlite")
    with (
        open_catalog(path, create=True, datastore_location=str(tmp_path / "datastores")) as catalog,
        catalog.transaction(),
    ):
        DATASTORES.insert(
            catalog,
            Datastore(
                catalog.take_id("datastore"), "virtual", "image", "virtiofs", "virtiofs", f"{tmp_path}/datastores/100"
            ),
        )
    (tmp_path / "datastores").mkdir()
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a raw image of 2 MiB."""
    path = tmp_path / "source.img"
    path.write_bytes(os.urandom(4096) + bytes(2**21 - 8192) + os.urandom(4096))
    return path


def options(catalog: str, **given: object) -> dict:
    return {
        **{name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()},
        "catalog": catalog,
        **given,
    }


@pytest.fixture
def run(path: str) -> Run:
    def run_service(check: bool = False, **given: object) -> Plan:
        if "images" in given:
            given["images"] = [options(path, **one) for one in given["images"]]
        service = ImageService(options(path, **given))
        return service.plan() if check else service.converge()

    return run_service


@pytest.fixture
def new(run: Run, source: Path) -> Run:
    return lambda name="x", **given: run(
        name=name, **{"datastore": "default", "type": "os", "path": str(source), **given}
    )


@pytest.fixture
def stored(path: str, tmp_path: Path) -> Callable[[], list[str]]:
    """Return all files in the datastores."""
    return lambda: sorted(str(one) for one in (tmp_path / "datastores").rglob("*") if one.is_file())


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def info(path: str) -> dict:
    return json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", path], check=True, stdout=subprocess.PIPE).stdout
    )


def use(path: str, image_id: int) -> None:
    with open_catalog(path, create=False) as catalog, catalog.transaction():
        ATTACHMENTS.put(catalog, Attachment(image_id, "h1", "web", "tag", "/mnt/x", False))


def test_a_copy_of_a_file(new: Run, source: Path, stored: Callable[[], list[str]], tmp_path: Path) -> None:
    image = new().result["image"]
    assert stored() == [image["path"]]
    assert Path(image["path"]).read_bytes() == source.read_bytes()
    assert os.path.dirname(image["path"]) == f"{tmp_path}/datastores/1"
    assert {name: value for name, value in image.items() if value is not None and name != "path"} == {
        **{
            "id": 0,
            "name": "x",
            "datastore": "default",
            "datastore_id": 1,
            "type": "os",
            "format": "raw",
            "size_mb": 2,
        },
        **{"persistent": False, "read_only": False, "origin": str(source)},
    }
    assert new().actions == []
    assert stored() == [image["path"]]


def test_check_mode_plans_the_same_and_makes_nothing(new: Run, stored: Callable[[], list[str]]) -> None:
    planned = new(check=True)
    assert stored() == []
    assert planned.result["image"]["size_mb"] == 2
    done = new()
    assert (done.as_result(), len(stored())) == (planned.as_result(), 1)
    assert new(check=True).actions == []


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            {"path": None},
            InvalidInput,
            "path is missing: a new image needs a path, a url, a clone_from, a from_disk or a size.",
        ),
        (
            {"path": None, "url": "/x"},
            InvalidInput,
            "url: '/x' is not accepted: a URL with http, https or ssh is expected; a file of the front-end is given as "
            "path.",
        ),
        (
            {"path": "https://user:secret@h/x"},
            InvalidInput,
            "path: 'https://...' is not accepted: a file of the front-end is expected; a URL is given as url.",
        ),
        ({"size": 5}, InvalidInput, "size: 5 is not accepted: it doesn't go together with path."),
        ({"fs": "ext4"}, InvalidInput, "fs: 'ext4' is not accepted: it goes with size, not with path."),
        (
            {"type": None},
            InvalidInput,
            "type is missing: a new image in the datastore 'default' needs one: cdrom, datablock, os.",
        ),
        (
            {"type": "kernel"},
            UnsupportedAction,
            "datastore: images of type 'kernel' are not supported by the fs driver of 'default', a datastore of type "
            "'image'; use a datastore of type 'file' with the driver fs.",
        ),
        (
            {"type": "cdrom", "driver": "qcow2"},
            InvalidInput,
            "driver: 'qcow2' is not accepted: images of type cdrom are stored as they are.",
        ),
        (
            {"type": "kernel", "datastore": "files", "persistent": True},
            InvalidInput,
            "persistent: True is not accepted: images of type kernel are never changed by a domain.",
        ),
        (
            {"mount_tag": "x"},
            InvalidInput,
            "mount_tag: 'x' is not accepted: only images of type filesystem are mounted, and this is one of type os.",
        ),
        (
            {"path": None, "size": 5, "type": "cdrom"},
            InvalidInput,
            "size: 5 is not accepted: an image of type cdrom is made of a path or a url; those of type os and "
            "datablock can be empty.",
        ),
        (
            {"path": None, "clone_from": "none", "type": None},
            DependencyNotFound,
            "clone_from: there is no image 'none' in the catalog.",
        ),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_what_is_refused(
    new: Run, stored: Callable[[], list[str]], check: bool, given: dict, error: type, message: str
) -> None:
    with refused(error, says=message):
        new(check=check, **given)
    assert stored() == []


@pytest.mark.parametrize(
    ("given", "error", "fields"),
    [
        ({"path": "/etc/passwd"}, PathNotAllowed, {"option": "path", "value": "/etc/passwd"}),
        ({"path": "/tmp/no/such/file"}, FileAccessFailed, {"names": ["/tmp/no/such/file"]}),
        ({"path": "relative"}, InvalidInput, {"option": "path", "value": "relative"}),
        ({"path": "/tmp"}, InvalidInput, {"option": "path", "value": "/tmp"}),
        ({"path": None, "url": "ftp://user:secret@h/x"}, InvalidInput, {"option": "url", "value": "ftp://..."}),
        ({"url": "http://h/x"}, InvalidInput, {"option": "path", "accepted": "it doesn't go together with url"}),
        ({"checksum": "sha256:12"}, InvalidInput, {"option": "checksum", "value": "sha256:12"}),
        ({"checksum": "crc:12"}, InvalidInput, {"option": "checksum", "value": "crc:12"}),
        ({"type": "os", "datastore": "files"}, UnsupportedAction, {"names": ["datastore", "'os'", "'files'"]}),
        ({"type": "os", "datastore": "system"}, UnsupportedAction, {"names": ["datastore", "'os'", "'system'"]}),
        ({"path": None, "size": 0}, InvalidInput, {"option": "size", "value": 0}),
        ({"path": None, "size": 5, "fs": "ext4;reboot"}, InvalidInput, {"option": "fs", "value": "ext4;reboot"}),
        ({"path": None, "clone_from": "none"}, DependencyNotFound, {"names": ["clone_from", "'none'"]}),
        ({"path": None, "clone_from": "\u00b2"}, DependencyNotFound, {"names": ["clone_from", "'\u00b2'"]}),
        ({"path": None, "clone_from": "9" * 5000}, DependencyNotFound, {"names": ["clone_from", "'9999"]}),
        ({"name": "7"}, InvalidInput, {"option": "name", "value": "7"}),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_values_that_are_refused(
    new: Run, stored: Callable[[], list[str]], check: bool, given: dict, error: type, fields: dict[str, Any]
) -> None:
    with refused(error, **fields):
        new(check=check, **given)
    assert stored() == []


def test_a_checksum_is_verified_and_kept(new: Run, source: Path, stored: Callable[[], list[str]]) -> None:
    wrong = f"sha256:{'0' * 64}"
    right = f"SHA256:{hashlib.sha256(source.read_bytes()).hexdigest()}"
    with refused(InvalidInput, option="sha256", names=[source]):
        new(checksum=wrong)
    assert stored() == []
    assert new(checksum=right).result["image"]["origin_checksum"] == right.lower()
    assert new(checksum=right).actions == []
    with refused(
        Conflict,
        says="checksum: the image 'x' was made with 'sha256:*'; leave checksum out to keep its data, "
        f"or give force: true to lose all that it holds and get new data with '{wrong}'.",
    ):
        new(checksum=wrong)


def test_conversion(new: Run, source: Path) -> None:
    image = new(driver="qcow2").result["image"]
    assert (info(image["path"])["format"], image["format"]) == ("qcow2", "qcow2")
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", image["path"], source], check=True)
    assert new(driver="qcow2").actions == []
    assert new().actions == []
    with refused(
        Conflict,
        says="driver: the image 'x' was made with 'qcow2'; leave driver out to keep its data, or give "
        "force: true to lose all that it holds and get new data with 'raw'.",
    ):
        new(driver="raw")


def test_attributes_of_the_datastore_are_the_defaults(new: Run, run: Run, path: str) -> None:
    with open_catalog(path, create=False) as catalog, catalog.transaction():
        attributes = {
            "driver": "qcow2 ",
            "qcow2_options": "cluster_size=2M",
            "supported_fs": "ext4, xfs",
            "fs_opts_ext4": "-L label",
        }
        catalog.execute("UPDATE datastore SET attributes = ? WHERE id = 1", [json.dumps(attributes)])
    image = info(new().result["image"]["path"])
    assert (image["format"], image["cluster-size"]) == ("qcow2", 2**21)
    assert info(new("raw", driver="raw").result["image"]["path"])["format"] == "raw"
    assert (
        run(name="empty", datastore="default", type="datablock", size=1, check=True).result["image"]["format"]
        == "qcow2"
    )
    block = run(name="block", datastore="default", type="datablock", size=8, format="raw", fs="ext4").result["image"]
    assert subprocess.run(["e2label", block["path"]], check=True, stdout=subprocess.PIPE, text=True).stdout == "label\n"
    with refused(InvalidInput, says="fs: 'ext3' is not accepted: one of ext4, swap, xfs is expected."):
        run(name="other", datastore="default", type="datablock", size=8, fs="ext3")


def test_an_empty_image(run: Run, stored: Callable[[], list[str]]) -> None:
    given = {
        "name": "b",
        "datastore": "default",
        "type": "datablock",
        "size": 16,
        "format": "qcow2",
        "fs": "ext4",
        "persistent": True,
    }
    planned = run(check=True, **given)
    done = run(**given)
    assert planned.as_result() == done.as_result()
    image = done.result["image"]
    assert [planned.result["image"][name] for name in ("size_mb", "format", "path")] == [16, "qcow2", None]
    found = info(image["path"])
    assert (found["format"], found["virtual-size"], image["size_mb"], image["fs"]) == ("qcow2", 16 * 2**20, 16, "ext4")
    assert run(**given).actions == []
    for option, other in (("size", 8), ("format", "raw"), ("fs", "xfs")):
        with refused(Conflict, names=[option, f"{given[option]!r}", f"{other!r}"]):
            run(**{**given, option: other})
    assert stored() == [image["path"]]


def test_a_clone(new: Run, run: Run, source: Path, stored: Callable[[], list[str]]) -> None:
    new(driver="qcow2")
    given = {"name": "y", "datastore": "default", "clone_from": "x"}
    assert run(check=True, **given).as_result() == run(**given).as_result()
    images = run(name="x").result["image"], run(name="y").result["image"]
    assert [(one["type"], one["format"], one["size_mb"]) for one in images] == [("os", "qcow2", 2)] * 2
    assert images[1]["origin"] == "image:x"
    subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", images[1]["path"], source], check=True)
    assert run(**given).actions == []
    run(name="x", state="absent")
    assert stored() == [images[1]["path"]]
    assert run(**given).actions == []
    with refused(UnsupportedAction, names=["clone", "virtiofs"]):
        run(name="z", datastore="virtual", clone_from="y", type="filesystem")


def test_a_directory_is_no_image(new: Run, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for check in (True, False):
        with refused(InvalidInput, option="path", value=str(tmp_path / "directory")):
            new(check=check, path=str(tmp_path / "directory"))


def test_check_mode_says_the_same_of_an_image_that_is_not_whole(
    new: Run, source: Path, tmp_path: Path, stored: Callable[[], list[str]]
) -> None:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vdi", source, tmp_path / "cut"], check=True)
    length = (tmp_path / "cut").stat().st_size
    os.truncate(tmp_path / "cut", length - 4096)
    told = f"by the tables of this vdi image the file has {length} bytes at least, of which {length - 4096} are there"
    for check in (True, False):
        with refused(
            InvalidInput,
            says=f"path: '{tmp_path}/cut' is not accepted: a whole, sound image is expected, and {told}; "
            "verify: false stores it nevertheless.",
        ):
            new(check=check, path=f"{tmp_path}/cut")
        assert not stored()
        assert new(check=check, path=f"{tmp_path}/cut", verify=False).warnings == [
            f"{tmp_path}/cut is stored because verify is false, but {told}."
        ]


def test_check_mode_counts_a_fixed_vhd_without_its_footer(new: Run, source: Path, tmp_path: Path) -> None:
    command = [
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "subformat=fixed,force_size=on",
        source,
        tmp_path / "vhd",
    ]
    subprocess.run(command, check=True)
    for given, size in (({"format": "raw"}, 3), ({}, 2)):
        for check in (True, False):
            assert (
                new(name=f"of-{size}", check=check, path=f"{tmp_path}/vhd", **given).result["image"]["size_mb"] == size
            )


def test_compressed_images_are_what_is_in_them(new: Run, source: Path, tmp_path: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, tmp_path / "disk"], check=True)
    subprocess.run(["gzip", tmp_path / "disk"], check=True)
    for check in (True, False):
        assert new(check=check, path=f"{tmp_path}/disk.gz", format="qcow2").result["image"]["size_mb"] == 2


def test_check_mode_refuses_an_image_that_needs_another_file(new: Run, source: Path, tmp_path: Path) -> None:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", "raw", tmp_path / "overlay"], check=True
    )
    (tmp_path / "link").symlink_to(tmp_path / "overlay")
    for path in ("overlay", "link"):
        for check in (True, False):
            with refused(InvalidInput, option="path", value=f"{tmp_path}/{path}", names=["qcow2"]):
                new(check=check, path=f"{tmp_path}/{path}")


def test_what_is_stored_as_it_is_is_a_clone_of_a_raw_image(new: Run, run: Run, path: str) -> None:
    new("qcow2", driver="qcow2")
    new("raw", driver="raw")
    for given in ({"datastore": "default", "type": "cdrom"}, {"datastore": "files", "type": "kernel"}):
        for check in (True, False):
            with refused(
                InvalidInput,
                says="clone_from: 'qcow2' is not accepted: an image of type * is a clone of a raw one, and "
                "'qcow2' is qcow2.",
            ):
                run(check=check, name="y", clone_from="qcow2", **given)
    with refused(
        InvalidInput,
        says="images[1] (z): clone_from: 'y' is not accepted: an image of type cdrom is a clone of a "
        "raw one, and 'y' is qcow2.",
    ):
        both = {"name": "y", "datastore": "default", "type": "datablock", "size": 1, "format": "qcow2"}
        run(images=[both, {"name": "z", "datastore": "default", "type": "cdrom", "clone_from": "y"}])
    with open_catalog(path, create=False) as catalog, catalog.transaction():
        catalog.execute("UPDATE datastore SET attributes = ?", [json.dumps({"driver": "qcow2", "convert": "no"})])
    for number, given in enumerate(({"type": "cdrom"}, {"type": "os"}, {"type": "os", "driver": "qcow2"})):
        given = {"name": f"y{number}", "datastore": "default", "clone_from": "raw", **given}
        planned, done = run(check=True, **given), run(**given)
        assert {**done.result["image"], "path": None} == planned.result["image"]


def test_the_source_of_a_clone_can_be_made_anew(new: Run, run: Run) -> None:
    given = {"name": "y", "datastore": "default", "clone_from": "x"}
    new()
    run(**given)
    run(name="x", state="absent")
    new()
    assert run(**given).actions == []
    new("z")
    with refused(
        Conflict,
        says="clone_from: the image 'y' was made with 'image:x'; leave clone_from out to keep its "
        "data, or give force: true to lose all that it holds and get new data with 'image:z'.",
    ):
        run(**{**given, "clone_from": "z"})


def test_force_keeps_what_is_not_given_of_an_empty_image(run: Run) -> None:
    run(name="b", datastore="default", type="datablock", size=16, format="qcow2", fs="ext4")
    image = run(name="b", size=32, force=True).result["image"]
    assert (image["size_mb"], image["format"], image["fs"]) == (32, "qcow2", "ext4")
    image = run(name="b", format="raw", force=True).result["image"]
    assert (image["size_mb"], image["format"], image["fs"]) == (32, "raw", "ext4")
    assert info(image["path"])["virtual-size"] == 32 * 2**20


def test_files(run: Run, source: Path) -> None:
    image = run(name="k", datastore="files", type="kernel", path=str(source)).result["image"]
    assert (image["format"], Path(image["path"]).read_bytes()) == ("raw", source.read_bytes())


def test_a_cdrom_is_read_only(new: Run) -> None:
    assert new(type="cdrom").result["image"]["read_only"]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            """Keep the server's log out of pytest's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_url(run: Run, source: Path, url: str, path: str) -> None:
    given = {"name": "x", "datastore": "default", "type": "os", "url": f"{url}/{source.name}?token=secret"}
    planned = run(check=True, **given)
    done = run(**given)
    assert planned.as_result() == done.as_result()
    assert Path(done.result["image"]["path"]).read_bytes() == source.read_bytes()
    assert b"secret" not in Path(path).read_bytes()
    assert run(**given).actions == []
    with refused(
        Conflict,
        says=f"url: the image 'x' was made with '{url}/source.img?...'; leave url out to keep its "
        f"data, or give force: true to lose all that it holds and get new data with '{url}/other'.",
    ):
        run(**{**given, "url": f"{url}/other"})


def test_check_mode_says_what_is_wrong_with_a_url(
    run: Run, source: Path, url: str, tmp_path: Path, stored: Callable[[], list[str]]
) -> None:
    (tmp_path / "page").write_text("<!DOCTYPE html>")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "64M"], check=True)
    given = {"name": "x", "datastore": "default", "type": "os"}
    for check in (True, False):
        with refused(TransferFailed, names=[f"{url}/none", 404]):
            run(check=check, url=f"{url}/none", **given)
        with refused(
            InvalidInput,
            says=f"path: '{url}/page' is not accepted: an image is expected, and this is an HTML page: it "
            "is probably the login or error page of the server or of a proxy; format: raw stores it "
            "as it is.",
        ):
            run(check=check, url=f"{url}/page", **given)
    assert stored() == []
    assert run(check=True, url=f"{url}/disk", **given).result["image"]["size_mb"] == 64
    # A run sends no request for existing data.
    run(url=f"{url}/disk", **given)
    (tmp_path / "disk").unlink()
    assert run(check=True, url=f"{url}/disk", **given).actions == []


def test_what_nothing_recognises_is_stored_with_a_warning(new: Run, source: Path) -> None:
    for check in (True, False):
        plan = new(check=check)
        assert [
            text.startswith(f"{source} is stored as a raw disk, though nothing in it is recognised (")
            for text in plan.warnings
        ] == [True]
    assert new().warnings == []
    for check in (True, False):
        assert new("y", check=check, format="raw").warnings == []


def test_what_a_format_says_of_a_path(new: Run, source: Path, tmp_path: Path) -> None:
    for check in (True, False):
        with refused(InvalidInput, says=f"format: 'qcow2' is not accepted: {source} is raw."):
            new(check=check, format="qcow2")
        for given in ({"type": "cdrom"}, {"type": "kernel", "datastore": "files"}):
            with refused(
                InvalidInput,
                says="format: 'qcow2' is not accepted: images of type * are stored as they are, and so are raw.",
            ):
                new(check=check, format="qcow2", **given)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", source, "-F", "raw", overlay := tmp_path / "overlay"],
        check=True,
    )
    for check in (True, False):  # a guest can write such data to its raw disk
        image = new(check=check, path=str(overlay), format="raw").result["image"]
        assert image["size_mb"] == 1
    assert Path(image["path"]).read_bytes() == overlay.read_bytes()


def test_an_empty_file_is_no_image(new: Run, tmp_path: Path, stored: Callable[[], list[str]]) -> None:
    (tmp_path / "empty").touch()
    for given in ({"type": "os"}, {"type": "cdrom"}, {"type": "kernel", "datastore": "files"}):
        for check in (True, False):
            with refused(
                InvalidInput, says=f"path: '{tmp_path}/empty' is not accepted: an image is expected, and this is empty."
            ):
                new(check=check, path=str(tmp_path / "empty"), **given)
    assert stored() == []
    assert new(path=str(tmp_path / "empty"), type="context", datastore="files").changed


def test_force_replaces_the_data(new: Run, source: Path, tmp_path: Path, stored: Callable[[], list[str]]) -> None:
    first = new().result["image"]
    other = tmp_path / "other.img"
    other.write_bytes(b"other" * 1000)
    with refused(
        Conflict,
        says=f"path: the image 'x' was made with '{source}'; leave path out to keep its data, or give "
        f"force: true to lose all that it holds and get new data with '{other}'.",
    ):
        new(path=str(other))
    assert new(force=True).actions == []
    planned = new(path=str(other), force=True, check=True)
    done = new(path=str(other), force=True)
    assert names(done) == ["replace data of image"]
    assert planned.as_result() == done.as_result()
    image = done.result["image"]
    assert (image["id"], Path(image["path"]).read_bytes()) == (first["id"], other.read_bytes())
    assert stored() == [image["path"]]
    assert new(path=str(other), force=True).actions == []


@pytest.mark.parametrize("check", [True, False])
def test_lost_data_of_a_persistent_image_is_only_made_anew_with_consent(new: Run, source: Path, check: bool) -> None:
    """A nightly run would otherwise hide the loss of data that a domain wrote."""
    new("other")
    lost = Path(new(persistent=True).result["image"]["path"])
    lost.unlink()
    with refused(
        Conflict,
        says=f"The data of the persistent image 'x' is not at {lost}, and with it all that domains "
        "wrote there: restore it from a backup, or give force: true to make the image anew "
        "without that.",
    ):
        new(check=check, persistent=True)
    assert names(new(persistent=True, force=True)) == ["make lost data of image"]
    assert not new(persistent=True).changed


@pytest.mark.parametrize(
    ("size", "mib"),
    [(5, 5), ("5", 5), (" 5M", 5), ("5MiB", 5), ("1G", 1024), ("2GiB", 2048), ("2GB", 2048), ("1T", 1 << 20)],
)
def test_sizes_have_units(new: Run, size: object, mib: int) -> None:
    assert new(path=None, size=size, check=True).result["image"]["size_mb"] == mib


@pytest.mark.parametrize("size", ["", "G", "1.5G", "-1", "1K", "1 G", "0x5", "\u0665", True])
def test_what_is_no_size(new: Run, size: object) -> None:
    with refused(
        InvalidInput, says="size: * is not accepted: a number of MiB is expected, or one with G or T, such as 10G."
    ):
        new(path=None, size=size, check=True)


def test_each_algorithm_of_a_checksum(new: Run, source: Path) -> None:
    for algorithm in ("md5", "sha1", "sha256", "sha384", "sha512"):
        digest = hashlib.new(algorithm, source.read_bytes()).hexdigest()
        assert new(algorithm, checksum=f"{algorithm}:{digest}").changed
        with pytest.raises(InvalidInput):
            new(f"{algorithm}-2", checksum=f"{algorithm}:{digest[::-1]}")


def checksum_of(path: str | Path) -> str:
    return f"sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"


@pytest.mark.parametrize("given", [{}, {"driver": "qcow2"}, {"path": "packed"}, {"persistent": True}])
def test_the_checksum_of_what_is_stored_is_kept_from_the_beginning(new: Run, source: Path, given: dict) -> None:
    if "path" in given:
        given = {"path": str(source.with_suffix(".gz"))}
        source.with_suffix(".gz").write_bytes(gzip.compress(source.read_bytes()))
    image = new(checksum=checksum_of(given.get("path", source)), **given).result["image"]
    assert image["checksum"] == (None if "persistent" in given else checksum_of(image["path"]))
    assert not new(checksum=checksum_of(given.get("path", source)), **given).changed


def test_damaged_data_is_made_again_where_that_is_asked_for(new: Run, run: Run, source: Path) -> None:
    wish = {"checksum": checksum_of(source)}
    stored = Path(new(**wish).result["image"]["path"])
    assert new(**wish, remake=True).actions == []
    with stored.open("r+b") as file:
        file.write(b"other")
    assert new(**wish).actions == []
    for check in (True, False):
        plan = new(**wish, remake=True, check=check)
        assert names(plan) == ["remake data of image"]
    image = Path(plan.result["image"]["path"])
    assert image.read_bytes() == source.read_bytes()
    assert not stored.exists()
    assert new(**wish, remake=True).actions == []


def test_damaged_data_of_a_persistent_image_needs_consent(new: Run, source: Path) -> None:
    stored = Path(new(persistent=True, driver="qcow2").result["image"]["path"])
    assert new(persistent=True, driver="qcow2", remake=True).actions == []
    os.truncate(stored, stored.stat().st_size - 512)
    with refused(
        Conflict,
        says="The data of the persistent image 'x' is damaged (by the tables of this qcow2 image the "
        "file has * bytes at least, of which * are there), and with it all that domains wrote "
        "there: restore it from a backup, or give force: true to make the image anew without "
        "that.",
    ):
        new(persistent=True, driver="qcow2", remake=True)
    assert names(new(persistent=True, driver="qcow2", remake=True, force=True)) == ["remake data of image"]


def test_lost_data_is_made_again(new: Run, run: Run, source: Path) -> None:
    new("other")
    os.unlink(new().result["image"]["path"])
    with refused(
        NotFound,
        says="The data of the image 'x' is not at *: give path, url, clone_from, from_disk or size to make it "
        "again, or remove the image.",
    ):
        run(name="x")
    done = new()
    assert names(done) == ["make lost data of image"]
    assert Path(done.result["image"]["path"]).read_bytes() == source.read_bytes()
    assert new().actions == []


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("removed", ["x", "y"])
def test_data_that_another_run_removed_is_not_missing(
    path: str, new: Run, run: Run, source: Path, check: bool, removed: str
) -> None:
    """The run reads the catalog before, and the directory after, another run removes the only image."""
    new(removed)
    service = ImageService(options(path, name="x", datastore="default", type="os", path=str(source)))
    assert len(IMAGES.rows(service.catalog)) == 1
    run(name=removed, state="absent")
    assert names(service.plan() if check else service.converge()) == ["create image"]


BOTH = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
options = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
given = {"state": "absent"} if sys.argv[2] == "absent" else {"datastore": "default", "type": "os", "size": 1}
for _time in range(40):
    try:
        ImageService({**options, "catalog": sys.argv[1], "name": "x", **given}).converge()
    except VmstoreError as error:
        print(error)
"""


def test_runs_at_once_that_make_and_remove_the_only_image_say_what_is_so(
    path: str, stored: Callable[[], list[str]], run: Run
) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", BOTH, path, state], stdout=subprocess.PIPE, text=True)
        for state in ("present", "absent")
    ]
    said = "".join(process.communicate()[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert [line for line in said.splitlines() if "run it again" not in line] == []
    run(name="x", state="absent")
    assert stored() == []


def test_nothing_is_made_in_an_empty_mount_point(
    new: Run, run: Run, source: Path, tmp_path: Path, stored: Callable[[], list[str]]
) -> None:
    new()
    new("y")
    mounted = tmp_path / "datastores" / "1"
    mounted.rename(tmp_path / "away")
    mounted.mkdir()
    for given in (
        {},
        {"name": "z"},
        {"name": "z", "path": None, "size": 1},
        {"name": "z", "path": None, "clone_from": "x"},
    ):
        for check in (True, False):
            with refused(
                Conflict,
                says=f"The data of all images in the datastore 'default' (2) is missing from {mounted}: is its "
                "file system mounted? If the data is lost, force: true makes an image there nevertheless.",
            ):
                new(check=check, **given)
    with refused(Conflict, names=["images[0] (x): ", mounted]):
        run(images=[{"name": name, "datastore": "default", "type": "os", "path": str(source)} for name in ("x", "y")])
    assert stored() == []
    mounted.rmdir()
    with refused(NotFound, names=[mounted]):
        new("z")
    mounted.mkdir()
    assert names(new(force=True)) == ["make lost data of image"]
    assert names(new("y")) == ["make lost data of image"]
    assert names(new("z")) == ["create image"]
    assert len(stored()) == 3


def test_removal(new: Run, run: Run, stored: Callable[[], list[str]]) -> None:
    new()
    assert names(run(check=True, name="x", state="absent")) == ["remove image"]
    assert len(stored()) == 1
    assert names(run(name="x", state="absent")) == ["remove image"]
    assert stored() == []
    assert run(name="x", state="absent").actions == []


def test_data_that_another_image_has_as_well_stays(
    new: Run, run: Run, path: str, stored: Callable[[], list[str]]
) -> None:
    """The catalog was edited by hand."""
    data = new().result["image"]["path"]
    new("y")
    with open_catalog(path, create=False) as catalog, catalog.transaction():
        catalog.execute("UPDATE image SET path = ?", [data])
    run(name="x", state="absent")
    assert data in stored()
    run(name="y", state="absent")
    assert data not in stored()


def test_data_that_is_removed_while_the_rest_is_made(path: str, source: Path, stored: Callable[[], list[str]]) -> None:
    """Another user may delete the data as an orphan meanwhile."""
    service = ImageService(options(path, name="x", datastore="default", type="os", path=str(source)))
    recording = service.recording

    def meanwhile(plan: Plan) -> contextlib.AbstractContextManager[Plan]:
        os.unlink(*stored())
        return recording(plan)

    service.recording = meanwhile
    with refused(
        StaleState, says="The data of the image 'x' was removed by another program while it was made; run it again."
    ):
        service.converge()
    with read_catalog(path, missing_ok=False) as catalog:
        assert IMAGES.rows(catalog) == []


def modes(paths: list[str]) -> list[int]:
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # renamed since the listing
            found.append(os.stat(path).st_mode & 0o777)
    return found


CONVERGE = """
import json, sys
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import ImageService
ImageService(json.loads(sys.argv[1])).converge()
"""


def list_opened_files(process: int) -> list[str]:
    found = []
    with contextlib.suppress(FileNotFoundError):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            found.append(os.readlink(descriptor))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_ended_leaves_nothing(
    path: str, source: Path, stored: Callable[[], list[str]], number: signal.Signals
) -> None:
    """Three files must disappear: the final file that is the source of a clone, the waiting clone, and the part of a
    slow image.
    """
    with open_catalog(path, create=False) as catalog, catalog.transaction():
        catalog.execute("UPDATE datastore SET attributes = ? WHERE id = 2", [json.dumps({"limit_transfer_bw": "1"})])
    images = [
        options(path, name="x", datastore="default", type="os", path=str(source)),
        options(path, name="clone", datastore="default", type="os", clone_from="x"),
        options(path, name="y", datastore="files", type="kernel", path=str(source)),
    ]
    with subprocess.Popen(
        [sys.executable, "-c", CONVERGE, json.dumps(options(path, images=images))], stderr=subprocess.DEVNULL
    ) as running:
        try:
            deadline = time.monotonic() + 20
            # A run that reads the source cleans up its part. An earlier signal leaves the part to the next run.
            while not (
                sorted(modes(stored())) == [0o600, 0o600, 0o640] and str(source) in list_opened_files(running.pid)
            ):
                assert time.monotonic() < deadline and running.poll() is None
            running.send_signal(number)
            assert running.wait(20) != 0
        finally:
            running.kill()
    assert stored() == []


def trace_syncs(path: str, log: Path, **given: object) -> list[str]:
    """Return the fsynced files and directories of a run, with repetitions."""
    converge = [sys.executable, "-c", CONVERGE, json.dumps(options(path, **given))]
    subprocess.run(["strace", "-f", "-qq", "-y", "-e", "trace=fsync", "-o", log, *converge], check=True)
    return re.findall(r"fsync\([0-9]+<(.*?)>\)", log.read_text())


def test_a_directory_is_made_durable_once_for_many_images(
    path: str, source: Path, stored: Callable[[], list[str]], tmp_path: Path
) -> None:
    """Each fsync takes as long as a disk needs to flush its cache."""
    golden = options(path, name="golden", datastore="default", type="os", path=str(source))
    clones = [options(path, name=f"clone{number}", datastore="default", clone_from="golden") for number in range(20)]
    made = trace_syncs(path, tmp_path / "log", images=[golden, *clones])
    files = stored()
    directory = os.path.dirname(files[0])
    assert len(files) == 21
    # The golden image is renamed before its clones.
    assert made.count(directory) == 2
    assert len([name for name in made if name.startswith(f"{directory}/")]) == 21
    removed = trace_syncs(
        path, tmp_path / "log", images=[options(path, name=one["name"], state="absent") for one in [golden, *clones]]
    )
    assert stored() == []
    assert removed.count(directory) == 1


def test_data_that_another_program_works_on_stays_until_it_is_done(
    new: Run, path: str, stored: Callable[[], list[str]]
) -> None:
    new()
    with image_lock(path, 0):
        removing = subprocess.Popen(
            [sys.executable, "-c", CONVERGE, json.dumps(options(path, name="x", state="absent"))]
        )
        deadline = time.monotonic() + 20
        while True:
            with read_catalog(path, missing_ok=False) as catalog:
                if not IMAGES.rows(catalog):
                    break
            assert time.monotonic() < deadline
        assert len(stored()) == 1
    assert removing.wait(20) == 0
    assert stored() == []


def unremovable(monkeypatch: pytest.MonkeyPatch, path: Callable[[str], bool]) -> None:
    rm = FsDriver.rm

    def refuse(driver: FsDriver, source: str) -> None:
        if path(source):
            raise FileAccessFailed(f"no {source}.")
        rm(driver, source)

    monkeypatch.setattr(FsDriver, "rm", refuse)


def test_data_that_can_not_be_removed_keeps_no_other(
    new: Run, run: Run, stored: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = new().result["image"]["path"]
    for name in ("y", "z"):
        new(name)
    unremovable(monkeypatch, lambda source: source == stays)
    with refused(
        PartlyDone,
        says=f"The catalog has forgotten {stays}, the data of the image 'x', but it could not be "
        f"removed: no {stays}. The module datastore_check removes it.",
    ):
        run(images=[{"name": name, "state": "absent"} for name in "xyz"])
    assert stored() == [stays]


def test_all_is_removed_that_found_no_place(
    path: str, source: Path, stored: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [options(path, name=name, datastore="default", type="os", path=str(source)) for name in "xyz"]
    service = ImageService(options(path, images=images))

    def changed(_plan: Plan) -> NoReturn:
        raise StaleState("changed")

    monkeypatch.setattr(service, "recording", changed)
    first = []
    unremovable(monkeypatch, lambda source: source in first or first.append(source) is None and len(first) == 1)
    with refused(VmstoreError, names=["changed", "'create image'", "z"]):
        service.converge()
    assert stored() == first[:1]


def test_only_force_touches_what_is_in_use(
    new: Run, run: Run, path: str, source: Path, stored: Callable[[], list[str]]
) -> None:
    new()
    use(path, 0)
    with refused(
        Conflict, says="The image 'x' can't be removed while it is used by the domain 'web' on the host 'h1'."
    ):
        run(name="x", state="absent")
    os.rename(source, f"{source}.2")
    assert names(new(path=f"{source}.2", force=True)) == ["replace data of image"]
    assert names(run(name="x", state="absent", force=True)) == ["remove attachment", "remove image"]
    assert stored() == []


def test_many_at_once(run: Run, source: Path, stored: Callable[[], list[str]]) -> None:
    images = [
        {"name": "a", "datastore": "default", "type": "os", "path": str(source)},
        {"name": "b", "datastore": "default", "clone_from": "a"},
        *({"name": f"n{number}", "datastore": "default", "type": "datablock", "size": 1} for number in range(5)),
        {"name": "gone", "state": "absent"},
    ]
    planned = run(images=images, check=True)
    done = run(images=images)
    assert planned.as_result() == done.as_result()
    assert [image["id"] for image in done.result["images"]] == list(range(7))
    assert len(stored()) == 7
    assert run(images=images).actions == []
    with refused(
        Conflict,
        says="images[1] (n1): type: the image 'n1' was registered as 'datablock', which can't change to 'os'.",
    ):
        run(
            images=[
                {"name": "new", "datastore": "default", "type": "os", "size": 1},
                {**images[0], "name": "n1", "path": "/etc/passwd", "force": True},
            ]
        )
    with refused(
        InvalidInput,
        says="images[1] (b): path: 'relative' is not accepted: an absolute path such as '/mnt/data' is expected.",
    ):
        run(images=[images[0], {**images[0], "name": "b", "path": "relative"}])
    with refused(
        InvalidInput,
        says="images[0] (a?b): name: 'a\\nb' is not accepted: 1 to 128 printable characters are "
        "expected, no blank at an end and not digits only.",
    ):
        run(images=[{**images[0], "name": "a\nb"}])
    with refused(Conflict, says="images[1] (a): The image 'a' is in the list more than once."):
        run(images=[images[0], images[0]])


def test_what_can_not_be_made_keeps_nothing_else_from_being_made(
    run: Run, source: Path, stored: Callable[[], list[str]]
) -> None:
    good = {"name": "good", "datastore": "default", "type": "os", "path": str(source)}
    bad = {**good, "name": "bad", "checksum": f"md5:{'0' * 32}"}
    clone = {"name": "clone", "datastore": "default", "type": "os", "clone_from": "bad"}
    with refused(PartlyDone, names=["images[0] (bad): md5: '0000", "images[1] (clone): clone_from: "]) as caught:
        run(images=[bad, clone, good])
    assert [action["subject"] for action in caught.value.plan.as_result()] == ["good"]
    assert run(images=[good]).actions == []
    assert len(stored()) == 1


def test_data_that_found_no_place_in_the_catalog_is_removed(
    path: str, source: Path, stored: Callable[[], list[str]]
) -> None:
    given = options(path, name="x", datastore="default", type="os", path=str(source))
    service, other = ImageService(given), ImageService(given)
    recording = service.recording

    def meanwhile(plan: Plan) -> contextlib.AbstractContextManager[Plan]:
        other.converge()
        return recording(plan)

    service.recording = meanwhile
    assert service.converge().actions == []
    with open_catalog(path, create=False) as catalog:
        assert [image.path for image in IMAGES.rows(catalog)] == stored()


def test_a_catalog_that_changed_meanwhile(path: str, new: Run, source: Path, stored: Callable[[], list[str]]) -> None:
    new()
    images = [options(path, name=name, datastore="default", type="os", path=str(source)) for name in ("x", "y")]
    service = ImageService(options(path, images=images))
    recording = service.recording

    def meanwhile(plan: Plan) -> contextlib.AbstractContextManager[Plan]:
        with open_catalog(path, create=False) as catalog:
            IMAGES.delete(catalog, 0)
        return recording(plan)

    service.recording = meanwhile
    with refused(StaleState, names=["catalog"]):
        service.converge()
    assert len(stored()) == 1


def test_without_a_catalog(tmp_path: Path, source: Path) -> None:
    path = str(tmp_path / "none.sqlite")
    given = options(path, name="x", datastore="default", type="datablock", size=1)
    for act in (ImageService(given).plan, ImageService(given).converge):
        with refused(DependencyNotFound, names=[path]):
            act()
    assert ImageService({**given, "state": "absent"}).converge().actions == []
    assert not os.path.exists(path)


def test_the_catalog_is_free_while_data_is_made(path: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    copy = FsDriver.cp

    def cp(*arguments: object) -> object:
        with open_catalog(path, create=False) as catalog, catalog.transaction():
            seen.append(True)  # another program can write meanwhile
        return copy(*arguments)

    monkeypatch.setattr(FsDriver, "cp", cp)
    ImageService(options(path, name="x", datastore="default", type="os", path=str(source))).converge()
    assert seen == [True]
