# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    InvalidInput,
    NotFound,
    PathNotAllowed,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import (
    DATASTORE_SPEC,
    DatastoreService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.attachment import (
    record_attachment,
    resolve_attachment,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.info import image_info
from refusal import refused

MAP = [{"start": 0, "target": 300000, "count": 65536}]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Create a catalog with the virtiofs datastores 100 (fs) and 101 (other)."""
    with open_catalog(str(tmp_path / "catalog.sqlite"), create=True) as catalog, catalog.transaction():
        for name in ("fs", "other"):
            number = catalog.take_id("datastore")
            DATASTORES.insert(catalog, Datastore(number, name, "image", "virtiofs", "virtiofs", f"/srv/ds/{number}"))
    return str(tmp_path / "catalog.sqlite")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def run(path: str) -> Callable[..., Plan]:
    def run_service(check: bool = False, **given: object) -> Plan:
        options = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
        service = ImageService({**options, "catalog": path, **given})
        if check:
            return service.plan()
        return service.converge()

    return run_service


@pytest.fixture
def new(run: Callable[..., Plan], data: Path) -> Callable[..., Plan]:
    return lambda name="x", **given: run(name=name, **{"datastore": "fs", "path": str(data), **given})


def attach(path: str, image: str = "x", domain: str = "web") -> None:
    with open_catalog(path, create=False) as catalog, catalog.transaction():
        record_attachment(catalog, resolve_attachment(catalog, image, "h1", domain))


def names(plan: Plan) -> list[str]:
    return [action.name for action in plan.actions]


def test_defaults_of_a_new_image(new: Callable[..., Plan], data: Path) -> None:
    assert new().result["image"] == {
        **{
            "id": 0,
            "name": "x",
            "datastore": "fs",
            "datastore_id": 100,
            "type": "filesystem",
            "path": str(data),
            "size_mb": 1,
        },
        **{
            "persistent": False,
            "read_only": False,
            "mount_tag": "one-0",
            "mount_point": "/mnt/one-fs-0",
            "uid_map": None,
            "gid_map": None,
        },
        **{"format": "dir", "fs": None, "origin": None, "origin_checksum": None, "checksum": None},
    }
    assert new(name="y").result["image"]["mount_tag"] == "one-1"


def test_check_mode_plans_the_same(new: Callable[..., Plan], path: str) -> None:
    planned = new(check=True)
    assert image_info({"catalog": path, "name": None, "datastore": None}) == {"images": []}
    assert new().as_result() == planned.as_result()


def test_the_resolved_path_is_what_is_stored(new: Callable[..., Plan], data: Path, tmp_path: Path) -> None:
    os.symlink(data, tmp_path / "link")
    assert new(path=f"{tmp_path}/link").result["image"]["path"] == str(data)
    assert names(new(path=str(data))) == []


def test_options_that_are_not_given_stay(run: Callable[..., Plan], new: Callable[..., Plan]) -> None:
    new(persistent=True, mount_tag="t", uid_map=MAP)
    assert names(new()) == []
    plan = run(name="x", read_only=True)
    assert names(plan) == ["update image"]
    assert {key: plan.result["image"][key] for key in ("persistent", "read_only", "mount_tag", "uid_map")} == {
        "persistent": True,
        "read_only": True,
        "mount_tag": "t",
        "uid_map": MAP,
    }


def test_a_directory_that_grew_is_no_change(
    new: Callable[..., Plan], run: Callable[..., Plan], data: Path, path: str
) -> None:
    new()
    (data / "file").write_bytes(os.urandom(5 * 2**20))
    again = new()
    assert (names(again), again.result["image"]["size_mb"]) == ([], 6)
    assert image_info({"catalog": path, "name": "x", "datastore": None})["images"][0]["size_mb"] == 1
    new(read_only=True)
    assert image_info({"catalog": path, "name": "x", "datastore": None})["images"][0]["size_mb"] == 6
    assert run(name="x").result["image"]["size_mb"] == 6


def test_removal_leaves_the_directory_and_frees_no_id(
    new: Callable[..., Plan], run: Callable[..., Plan], data: Path
) -> None:
    (data / "file").write_text("kept")
    new()
    assert names(run(name="x", state="absent")) == ["remove image"]
    assert names(run(name="x", state="absent")) == []
    assert (data / "file").read_text() == "kept"
    assert new().result["image"]["id"] == 1


def test_two_images_of_one_directory(new: Callable[..., Plan]) -> None:
    new(persistent=True)
    assert new(name="readers", read_only=True).result["image"]["id"] == 1


def test_renaming_by_id(new: Callable[..., Plan], run: Callable[..., Plan]) -> None:
    new()
    new(name="y")
    assert run(id=0, name="new").result["image"]["name"] == "new"
    assert names(run(id=0, name="new")) == []
    with refused(Conflict, says="name: 'y' belongs to the image 1."):
        run(id=0, name="y")
    with refused(NotFound, says="id: there is no image 7 in the catalog *, and a new one gets its id by itself."):
        run(id=7, name="z")


def test_two_images_can_not_have_one_tag(new: Callable[..., Plan], run: Callable[..., Plan]) -> None:
    new(mount_tag="one-1")
    with refused(
        Conflict, says="mount_tag: 'one-1' belongs to the image 'x', and two images can't have one mount tag."
    ):
        new(name="y")  # the default mount tag
    new(name="y", mount_tag="other")
    with refused(Conflict, names=["'other'", "'y'"]):
        run(name="x", mount_tag="other")


def test_what_can_not_change(new: Callable[..., Plan], run: Callable[..., Plan], data: Path, tmp_path: Path) -> None:
    new()
    (tmp_path / "else").mkdir()
    with refused(
        Conflict, says=f"path: the image 'x' was registered with '{data}', which can't change to '{tmp_path}/else'."
    ):
        new(path=str(tmp_path / "else"))
    with refused(Conflict, says="datastore: the image 'x' is in the datastore 'fs' and can't move to 'other'."):
        run(name="x", datastore="other")


@pytest.mark.parametrize(
    "given",
    [
        {"persistent": True},
        {"read_only": True},
        {"mount_tag": "t"},
        {"mount_point": "/srv/x"},
        {"uid_map": MAP},
        {"id": 0, "name": "renamed"},
    ],
)
def test_an_image_in_use_can_not_change(
    new: Callable[..., Plan], run: Callable[..., Plan], path: str, given: dict
) -> None:
    new()
    attach(path)
    with refused(
        Conflict, says="The image 'x' can't be changed while it is used by the domain 'web' on the host 'h1'."
    ):
        run(**{"name": "x", **given})
    assert names(run(name="x")) == []


def test_an_image_in_use_can_not_be_removed(new: Callable[..., Plan], run: Callable[..., Plan], path: str) -> None:
    new(read_only=True)
    attach(path)
    attach(path, domain="db")
    with refused(
        Conflict,
        says="The image 'x' can't be removed while it is used by the domain 'db' on the host 'h1', the domain 'web' on "
        "the host 'h1'.",
    ):
        run(name="x", state="absent")


def test_a_datastore_with_images_can_not_be_removed(new: Callable[..., Plan], path: str) -> None:
    new()
    options = {name: option.get("default") for name, option in DATASTORE_SPEC.argument_spec.items()}
    service = DatastoreService({**options, "catalog": path, "name": "fs", "state": "absent"})
    with refused(Conflict, says="The datastore 'fs' can't be removed: it has the images 'x'."):
        service.plan()


def test_a_directory_that_became_a_link(new: Callable[..., Plan], data: Path) -> None:
    new()
    data.rmdir()
    os.symlink("/etc", data)
    with refused(PathNotAllowed, option="path", value="/etc"):
        new()
    os.unlink(data)
    os.symlink("/opt", data)
    with refused(Conflict, names=["'x'", f"'{data}'", "'/opt'"]):
        new()


REGISTER = """
import sys
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
options = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
catalog, path, *names = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
for name in names:
    service = ImageService({**options, "catalog": catalog, "name": name, "datastore": "fs", "path": path})
    plan = service.converge()
    print(len(plan.actions), plan.result["image"]["id"])
"""


def test_processes_that_register_at_once(path: str, data: Path) -> None:
    command = [sys.executable, "-c", REGISTER, path, str(data)]
    processes = [
        subprocess.Popen([*command, "same", f"own-{n}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * len(processes)
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [process.communicate()[0].splitlines() for process in processes]
    assert sorted(same.split()[0] for same, _other in answers) == ["0", "0", "1"]
    found = image_info({"catalog": path, "name": None, "datastore": None})["images"]
    assert [(one["id"], one["mount_tag"]) for one in found] == [(n, f"one-{n}") for n in range(4)]
    assert sorted(one["name"] for one in found) == ["own-0", "own-1", "own-2", "same"]


@pytest.mark.parametrize("restricted", ["/", "/etc", "/root", "/srv", "/var/lib", "/usr/share"])
def test_restricted_directories(new: Callable[..., Plan], restricted: str) -> None:
    with refused(PathNotAllowed, option="path", value=restricted):
        new(path=restricted)


def test_the_directory_of_the_catalog_is_restricted(new: Callable[..., Plan], tmp_path: Path) -> None:
    with refused(PathNotAllowed, option="path", value=str(tmp_path), names=[f"{tmp_path}/catalog.sqlite"]):
        new(path=str(tmp_path))


def test_a_link_to_a_restricted_directory(new: Callable[..., Plan], tmp_path: Path) -> None:
    os.symlink("/etc/ssh", tmp_path / "link")
    with refused(PathNotAllowed, option="path", value="/etc/ssh", names=["/etc"]):
        new(path=f"{tmp_path}/link")


@pytest.mark.parametrize(
    ("given", "error", "fields"),
    [
        ({"path": None}, InvalidInput, {"option": "path", "value": None, "accepted": "a new image needs one"}),
        ({"datastore": None}, InvalidInput, {"says": "datastore is missing: a new image needs one."}),
        ({"datastore": "none"}, DependencyNotFound, {"names": ["datastore", "'none'"]}),
        ({"path": "relative"}, InvalidInput, {"option": "path", "value": "relative"}),
        ({"mount_tag": "x" * 37}, InvalidInput, {"option": "mount_tag", "value": "x" * 37}),
        ({"mount_tag": "a b"}, InvalidInput, {"option": "mount_tag", "value": "a b"}),
        ({"mount_tag": "ümlaut"}, InvalidInput, {"option": "mount_tag", "value": "ümlaut"}),
        ({"mount_point": "/usr"}, InvalidInput, {"option": "mount_point", "value": "/usr"}),
        (
            {"uid_map": [{"start": 0, "target": 5, "count": 0}]},
            InvalidInput,
            {"option": "uid_map", "value": "0:5:0"},
        ),
        ({"timeout": 0}, InvalidInput, {"option": "timeout", "value": 0}),
        ({"name": "7"}, InvalidInput, {"option": "name", "value": "7"}),
        ({"size": 100, "path": None}, UnsupportedAction, {"names": ["mkfs", "virtiofs"]}),
        ({"clone_from": "y", "path": None}, UnsupportedAction, {"names": ["clone", "virtiofs"]}),
        (
            {"datastore": "default", "type": "filesystem"},
            UnsupportedAction,
            {"names": ["datastore", "'filesystem'", "'default'", "driver virtiofs"]},
        ),
    ],
)
def test_bad_input(new: Callable[..., Plan], path: str, given: dict, error: type, fields: dict[str, Any]) -> None:
    with refused(error, **fields):
        new(**given)
    assert image_info({"catalog": path, "name": None, "datastore": None}) == {"images": []}


def test_resizing_is_not_supported(new: Callable[..., Plan]) -> None:
    new()
    with refused(UnsupportedAction, names=["resize", "virtiofs"]):
        new(path=None, size=100)


def test_an_image_without_a_catalog(tmp_path: Path, data: Path) -> None:
    options = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
    path = str(tmp_path / "none.sqlite")
    service = ImageService({**options, "catalog": path, "name": "x", "datastore": "fs", "path": str(data)})
    with refused(DependencyNotFound, says=f"datastore: there is no datastore 'fs' in the catalog {path}."):
        service.converge()
    assert not os.path.exists(path)


def test_info(new: Callable[..., Plan], path: str) -> None:
    new()
    new(name="y", datastore="other")
    attach(path, "y")
    by_datastore = image_info({"catalog": path, "name": None, "datastore": "101"})["images"]
    assert [
        (one["name"], one["datastore"], [used["domain"] for used in one["attachments"]]) for one in by_datastore
    ] == [("y", "other", ["web"])]
    assert [one["name"] for one in image_info({"catalog": path, "name": "0", "datastore": None})["images"]] == ["x"]
    with refused(DependencyNotFound, names=["name", "'x'", path]):
        image_info({"catalog": path, "name": "x", "datastore": "other"})
    with refused(DependencyNotFound, names=["'none'"]):
        image_info({"catalog": path, "name": None, "datastore": "none"})


def test_the_directory_is_measured_before_the_catalog_is_locked(
    new: Callable[..., Plan], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ansible_collections.granary.vmstore.plugins.module_utils._host import directory

    seen: list[bool] = []

    def look(*arguments: object, **options: object):
        with open_catalog(path, create=False) as catalog, catalog.transaction():
            seen.append(True)  # another program can write meanwhile
        return original(*arguments, **options)

    original = directory.look
    monkeypatch.setattr(directory, "look", look)
    new()
    assert seen == [True]


UNREADABLE = """
import importlib, pathlib
from ansible_collections.granary.vmstore.plugins import module_utils
root = pathlib.Path(module_utils.__path__[0])
for path in root.rglob("*.py"):  # another user may not read the checkout
    importlib.import_module(".".join([module_utils.__name__, *path.relative_to(root).with_suffix("").parts]))
import os, sys
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import read_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import CopyOptions
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.virtiofs import VirtiofsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._service.export.record import resolve_source
os.setgroups([]); os.setgid(65534); os.setuid(65534)
path, safe = "/proc/1/root/tmp/x", {"safe_dirs": ("/proc/1/root/tmp",)}
store = (1, "d", "image", "virtiofs", "virtiofs", "/srv/ds/1")
for attempt in (
    lambda: FsDriver(Datastore(1, "d", "image", "fs", "local", "/srv/ds/1")).cp(path, CopyOptions("os")),
    lambda: FsDriver(Datastore(1, "d", "image", "fs", "local", "/srv/ds/1")).stat(path),
    lambda: FsDriver(Datastore(1, "d", "image", "fs", "local", path)).prepare(),
    lambda: VirtiofsDriver(Datastore(*store)).cp(path, CopyOptions("filesystem")),
    lambda: VirtiofsDriver(Datastore(*store, **safe)).cp("/usr", CopyOptions("filesystem")),
    lambda: VirtiofsDriver(Datastore(*store), protected=[path]).cp("/usr", CopyOptions("filesystem")),
    lambda: read_catalog(path, missing_ok=True),
    lambda: resolve_source(path),
):
    try:
        attempt()
    except VmstoreError as error:
        print(error)
"""


def test_a_path_through_a_link_that_this_user_may_not_read_is_refused() -> None:
    """An example is the root directory of another user's process, for which os.path.realpath raises an error."""
    done = subprocess.run([sys.executable, "-c", UNREADABLE], capture_output=True, text=True, check=True)
    # From Python 3.13 on, realpath treats such a link as a directory. Only opening a path below it fails.
    assert len(done.stdout.splitlines()) >= (7 if sys.version_info >= (3, 13) else 8)


COUNTED = """
import collections, sys
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
counts = collections.Counter()
directory = sys.argv[3]
def count(event, arguments):
    listed = event in ("os.listdir", "os.scandir") and isinstance(arguments[0], int)
    counts[event] += event in ("os.fork", "subprocess.Popen") or listed
options = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
one = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec["images"]["options"].items()}
given = {"fs": {"path": directory}, "default": {"type": "datablock", "size": 1}}[sys.argv[4]]
wishes = [{**one, "name": f"x{number}", "datastore": sys.argv[4], **given} for number in range(int(sys.argv[2]))]
sys.addaudithook(count)
for state in ("present", "present", "absent"):
    images = [{**wish, "state": state} for wish in wishes]
    ImageService({**options, "catalog": sys.argv[1], "images": images}).converge()
    print({event: number for event, number in sorted(counts.items()) if number})
    counts.clear()
"""


@pytest.mark.parametrize("datastore", ["fs", "default"])
def test_more_images_take_no_more_processes_and_readings_of_the_datastore(
    tmp_path: Path, data: Path, datastore: str
) -> None:
    answers = []
    for images in (5, 50):
        (around := tmp_path / str(images)).mkdir()
        catalog = str(around / "catalog.sqlite")
        with open_catalog(catalog, create=True, datastore_location=str(around)) as opened, opened.transaction():
            DATASTORES.insert(
                opened, Datastore(opened.take_id("datastore"), "fs", "image", "virtiofs", "virtiofs", "/srv/ds/100")
            )
        command = [sys.executable, "-c", COUNTED, catalog, str(images), str(data), datastore]
        answers.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(answers[0].splitlines()) == 3
    assert answers[0] == answers[1]


def test_check_mode_goes_on_without_the_datastore(path: str, data: Path, new: Callable[..., Plan]) -> None:
    new()
    options = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
    images = [
        {**options, "name": name, "datastore": datastore, "path": str(data)}
        for name, datastore in (("a", "none"), ("b", "fs"), ("c", "none"))
    ]
    plan = ImageService({**options, "catalog": path, "images": images}).dry_run()
    assert [(action.name, action.subject.partition(":")[0]) for action in plan.actions] == [
        ("not known yet", "images[0] (a)"),
        ("create image", "b"),
        ("not known yet", "images[2] (c)"),
    ]
    assert len(plan.warnings) == 2
    with refused(
        DependencyNotFound, says=f"images[0] (a): datastore: there is no datastore 'none' in the catalog {path}."
    ):
        ImageService({**options, "catalog": path, "images": images}).converge()


def test_check_mode_goes_on_without_the_catalog(tmp_path: Path, data: Path) -> None:
    options = {name: option.get("default") for name, option in IMAGE_SPEC.argument_spec.items()}
    for place in (tmp_path / "none.sqlite", tmp_path / "none" / "none.sqlite"):
        plan = ImageService(
            {**options, "catalog": str(place), "name": "x", "datastore": "fs", "path": str(data)}
        ).dry_run()
        assert [action.name for action in plan.actions] == ["not known yet"]
