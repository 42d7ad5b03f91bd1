# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.attachments import ATTACHMENTS
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core import records
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    Conflict,
    DependencyNotFound,
    InvalidInput,
    NotFound,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._model.attachment import Attachment
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.check import (
    DATASTORE_CHECK_SPEC,
    DatastoreCheckService,
)
from refusal import refused

MIB = 1 << 20


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    """Create a catalog with the virtiofs datastore 100 (fs) and the datastores 1 (default) and 2 (files), with their
    directories.
    """
    path = str(tmp_path / "catalog.sqlite")
    with open_catalog(path, create=True, datastore_location=str(tmp_path)) as made, made.transaction():
        DATASTORES.insert(
            made, Datastore(made.take_id("datastore"), "fs", "image", "virtiofs", "virtiofs", f"{tmp_path}/100")
        )
    for name in "12":
        (tmp_path / name).mkdir()
    return path


@pytest.fixture
def add(catalog: str, tmp_path: Path) -> Callable[..., Path]:
    """Add an image, x0, x1 and so on, to the catalog, optionally with ``data``, and return its path."""

    def add_image(
        number: int, data: bytes | None = None, datastore: int = 1, persistent: bool = False, **given: object
    ) -> Path:
        path = tmp_path / str(datastore) / f"{number:032x}"
        values = {"format": "raw", "size_mb": 1, **given}
        with open_catalog(catalog, create=False) as made, made.transaction():
            IMAGES.insert(
                made,
                Image(
                    number, f"x{number}", datastore, "os", str(path), persistent=persistent, read_only=False, **values
                ),
            )
        if data is not None:
            path.write_bytes(data)
        return path

    return add_image


def service(catalog: str, **given: object) -> DatastoreCheckService:
    options = {name: option.get("default") for name, option in DATASTORE_CHECK_SPEC.argument_spec.items()}
    return DatastoreCheckService({**options, "catalog": catalog, **given})


@pytest.fixture
def run(catalog: str) -> Callable[..., Plan]:
    def run_service(check: bool = False, **given: object) -> Plan:
        checked = service(catalog, **given)
        return checked.plan() if check else checked.converge()

    return run_service


def test_an_image_that_was_removed_meanwhile_is_not_missing(catalog: str, add: Callable[..., Path]) -> None:
    kept, removed = add(0, bytes(MIB)), add(1, bytes(MIB))
    checked = service(catalog)
    assert IMAGES.find(checked.catalog, 1) is not None
    with open_catalog(catalog, create=False) as other:
        IMAGES.delete(other, 1)
    removed.unlink()
    (found,) = [one for one in checked.plan().result["datastores"] if one["name"] == "default"]  # type: ignore[attr-defined]
    assert (found["consistent"], found["missing"], kept.exists()) == (True, [], True)


@pytest.fixture
def repair(run: Callable[..., Plan]) -> Callable[..., Plan]:
    """Repair a datastore after the same plan in check mode. A second repair changes nothing."""

    def repaired(**given: object) -> Plan:
        planned = run(check=True, repair=True, **given)
        plan = run(repair=True, **given)
        assert (plan.as_result(), plan.result) == (planned.as_result(), planned.result)
        assert run(repair=True, **given).as_result() == []
        return plan

    return repaired


def row(catalog: str, reference: str) -> Image | None:
    with open_catalog(catalog, create=False) as opened:
        return IMAGES.find(opened, reference)


def list_found(plan: Plan, kind: str, datastore: str = "default") -> list[dict]:
    return next(one[kind] for one in plan.result["datastores"] if one["name"] == datastore)


def names(plan: Plan) -> list[tuple[str, str]]:
    return [(action.name, action.subject) for action in plan.actions]


def du(*paths: Path) -> int:
    """Return the allocated bytes on disk."""
    done = subprocess.run(["du", "-B1", "-s", "--total", *paths], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def sha256(path: Path) -> str:
    return "sha256:" + subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


def orphan(directory: Path, digit: str = "a") -> Path:
    """Create data without an image, with a snapshot and a checksum."""
    path = directory / (digit * 32)
    path.write_bytes(b"x" * 9000)
    Path(f"{path}.snap").mkdir()
    (Path(f"{path}.snap") / "0").write_bytes(b"x" * 5000)
    Path(f"{path}.md5sum").write_bytes(b"sum")
    return path


def test_what_agrees_is_consistent(
    run: Callable[..., Plan], add: Callable[..., Path], catalog: str, tmp_path: Path
) -> None:
    add(0, b"x" * (MIB - 1))
    qcow2 = add(1, format="qcow2", size_mb=3, persistent=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "2M"], check=True)
    with qcow2.open("r+b") as file:  # the size that a guest sees: 2 MiB and a sector
        file.seek(24)
        file.write((2 * MIB + 512).to_bytes(8, "big"))
    add(2, b"kernel", datastore=2)
    (tmp_path / "1" / "notes").write_bytes(b"x")
    for given in ({}, {"checksums": True}):
        plan = run(**given)
        assert plan.actions == []
        assert plan.result["consistent"]
        assert [(one["name"], one["consistent"], one["unknown"]) for one in plan.result["datastores"]] == [
            ("default", True, ["notes"]),
            ("files", True, []),
        ]
    assert row(catalog, "x0").checksum is None


def test_nothing_is_changed_without_repair(
    run: Callable[..., Plan], add: Callable[..., Path], catalog: str, tmp_path: Path
) -> None:
    add(0, b"x" * 2 * MIB)
    add(1)
    orphan(tmp_path / "1")
    (tmp_path / "1" / f".{'b' * 32}.part").write_bytes(b"x")
    before = (sorted(os.listdir(tmp_path / "1")), row(catalog, "x0"), row(catalog, "x1"))
    plan = run(checksums=True)
    assert (plan.actions, plan.result["consistent"]) == ([], False)
    assert {kind: len(list_found(plan, kind)) for kind in ("orphans", "missing", "drift", "leftovers")} == {
        "orphans": 1,
        "missing": 1,
        "drift": 1,
        "leftovers": 1,
    }
    assert (sorted(os.listdir(tmp_path / "1")), row(catalog, "x0"), row(catalog, "x1")) == before


def test_sizes_are_corrected(
    repair: Callable[..., Plan], run: Callable[..., Plan], add: Callable[..., Path], catalog: str
) -> None:
    raw, qcow2 = add(0, b"x" * (MIB + 1)), add(1, format="qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "5M"], check=True)
    assert [one["repaired"] for one in list_found(run(), "drift")] == [False, False]
    plan = repair()
    assert list_found(plan, "drift") == [
        {
            "id": 0,
            "name": "x0",
            "path": str(raw),
            "attribute": "size_mb",
            "recorded": 1,
            "found": 2,
            "error": None,
            "repaired": True,
        },
        {
            "id": 1,
            "name": "x1",
            "path": str(qcow2),
            "attribute": "size_mb",
            "recorded": 1,
            "found": 5,
            "error": None,
            "repaired": True,
        },
    ]
    assert plan.result["consistent"]
    assert [(action.name, action.subject, action.before, action.after) for action in plan.actions] == [
        ("correct image", "x0", {"size_mb": 1}, {"size_mb": 2}),
        ("correct image", "x1", {"size_mb": 1}, {"size_mb": 5}),
    ]
    assert (row(catalog, "x0").size_mb, row(catalog, "x1").size_mb) == (2, 5)


def test_a_format_that_differs_is_no_mistake_of_the_catalog(
    run: Callable[..., Plan], add: Callable[..., Path], catalog: str
) -> None:
    add(0, b"x" * MIB, format="qcow2")
    add(1, b"QFI\xfb" + b"\xff" * 600, format="qcow2")
    plan = run(repair=True)
    assert plan.actions == []
    first, second = list_found(plan, "drift")
    assert (first["attribute"], first["recorded"], first["found"], first["error"], first["repaired"]) == (
        "format",
        "qcow2",
        "raw",
        None,
        False,
    )
    assert (second["attribute"], second["recorded"], second["found"], second["repaired"]) == ("size_mb", 1, None, False)
    assert "virtual size" in second["error"]
    assert not plan.result["consistent"]


def test_a_header_in_a_raw_disk_is_not_believed(run: Callable[..., Plan], add: Callable[..., Path]) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", add(0), "5T"], check=True)
    add(1, b"QFI\xfb" + b"\xff" * 600)
    assert run().result["consistent"]


def test_missing_checksums_are_recorded(repair: Callable[..., Plan], add: Callable[..., Path], catalog: str) -> None:
    image = add(0, b"x" * 2 * MIB)
    add(1, b"data", persistent=True)
    add(2)
    plan = repair(name="1", checksums=True)
    assert row(catalog, "x0").checksum == sha256(image)
    assert row(catalog, "x1").checksum is None
    assert [(action.subject, action.after) for action in plan.actions] == [
        ("x0", {"size_mb": 2, "checksum": sha256(image)})
    ]
    assert [one["attribute"] for one in list_found(plan, "drift")] == ["size_mb"]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_a_checksum_that_differs_stays(
    run: Callable[..., Plan], add: Callable[..., Path], catalog: str, algorithm: str
) -> None:
    recorded, good = (f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}" for data in (b"data", b"good"))
    add(0, b"date", checksum=recorded)
    add(1, b"good", checksum=good)
    add(2, b"date", checksum=recorded, persistent=True)
    assert run(repair=True).result["consistent"]
    plan = run(repair=True, checksums=True)
    assert [(one["name"], one["attribute"], one["recorded"], one["repaired"]) for one in list_found(plan, "drift")] == [
        ("x0", "checksum", recorded, False)
    ]
    assert list_found(plan, "drift")[0]["found"] == f"{algorithm}:{hashlib.new(algorithm, b'date').hexdigest()}"
    assert (plan.actions, plan.result["consistent"], row(catalog, "x0").checksum) == ([], False, recorded)


def test_an_algorithm_that_nobody_knows_is_a_finding(run: Callable[..., Plan], add: Callable[..., Path]) -> None:
    path = add(0, b"data", checksum="crc32:00000000")
    assert [(one["recorded"], one["found"]) for one in list_found(run(checksums=True), "drift")] == [
        ("crc32:00000000", sha256(path))
    ]


def test_leftovers_are_removed(repair: Callable[..., Plan], tmp_path: Path) -> None:
    part, directory = (tmp_path / "1" / f".{digit * 32}.part" for digit in "ab")
    part.write_bytes(b"x" * 9000)
    directory.mkdir()
    expected = [{"path": str(path), "allocated_bytes": du(path), "repaired": True} for path in (part, directory)]
    plan = repair()
    assert list_found(plan, "leftovers") == expected
    assert names(plan) == [("remove leftovers", str(tmp_path / "1"))]
    assert os.listdir(tmp_path / "1") == []


def test_orphans_are_only_removed_by_name(
    run: Callable[..., Plan], repair: Callable[..., Plan], tmp_path: Path
) -> None:
    directory = tmp_path / "1"
    first, second = orphan(directory, "a"), orphan(directory, "b")
    assert (run(repair=True).actions, run(repair=True).result["consistent"]) == ([], False)
    size = du(first, Path(f"{first}.snap") / "0")
    plan = repair(remove=[str(first), f"/{directory}//{second.name}"])
    assert [(action.name, action.subject, action.before, action.after) for action in plan.actions] == [
        ("remove data without image", str(path), {"allocated_bytes": size}, None) for path in (first, second)
    ]
    assert [one["repaired"] for one in list_found(plan, "orphans")] == [True, True]
    assert plan.result["consistent"]
    assert os.listdir(directory) == []


@pytest.mark.parametrize("suffix", ["", ".snap", ".md5sum"])
def test_what_lies_beside_an_orphan_goes_with_it(repair: Callable[..., Plan], tmp_path: Path, suffix: str) -> None:
    path = orphan(tmp_path / "1")
    path.unlink()
    plan = repair(remove=[f"{path}{suffix}"])
    assert [one["path"] for one in list_found(plan, "orphans")] == [f"{path}.snap"]
    assert os.listdir(tmp_path / "1") == []


def test_one_of_two_orphans(repair: Callable[..., Plan], tmp_path: Path) -> None:
    first, second = orphan(tmp_path / "1", "a"), orphan(tmp_path / "1", "b")
    plan = repair(remove=[str(first)])
    assert [(one["path"], one["repaired"]) for one in list_found(plan, "orphans")] == [
        (str(first), True),
        (str(second), False),
    ]
    assert not plan.result["consistent"]
    assert second.exists()


@pytest.mark.parametrize("reference", ["x0", "0", "path"])
def test_an_image_without_data_is_only_forgotten_by_name(
    run: Callable[..., Plan], repair: Callable[..., Plan], add: Callable[..., Path], catalog: str, reference: str
) -> None:
    path = add(0)
    add(1)
    assert run(repair=True).actions == []
    image = row(catalog, "x0")
    plan = repair(remove=[str(path) if reference == "path" else reference])
    assert [(action.name, action.subject, action.before, action.after) for action in plan.actions] == [
        ("forget image", "x0", image.as_dict(), None)
    ]
    assert list_found(plan, "missing") == [
        {"id": 0, "name": "x0", "path": str(path), "repaired": True},
        {"id": 1, "name": "x1", "path": row(catalog, "x1").path, "repaired": False},
    ]
    assert row(catalog, "x0") is None


def test_an_image_is_forgotten_with_what_lies_beside_the_path_that_is_named(
    repair: Callable[..., Plan], add: Callable[..., Path], tmp_path: Path
) -> None:
    path = add(0)
    orphan(tmp_path / "1", "0").unlink()
    plan = repair(remove=[str(path), "x0"])
    assert [action.name for action in plan.actions] == ["forget image", "remove data without image"]
    assert os.listdir(tmp_path / "1") == []


def test_an_image_that_a_domain_uses_is_not_forgotten(
    run: Callable[..., Plan], add: Callable[..., Path], catalog: str
) -> None:
    add(0)
    with open_catalog(catalog, create=False) as opened, opened.transaction():
        ATTACHMENTS.put(opened, Attachment(0, "h1", "web", "tag", "/mnt", False))
    with refused(
        Conflict,
        says="remove: the image 'x0' can't be forgotten while it is used by the domain 'web' on the host 'h1'.",
    ):
        run(repair=True, remove=["x0"])
    assert row(catalog, "x0") is not None


@pytest.mark.parametrize("reference", ["x0", "path", "snapshots"])
def test_an_image_that_is_whole_is_not_removed(
    run: Callable[..., Plan], add: Callable[..., Path], tmp_path: Path, reference: str
) -> None:
    path = add(0)
    orphan(tmp_path / "1", "0")
    reference = {"path": str(path), "snapshots": f"{path}.snap"}.get(reference, reference)
    with refused(Conflict, names=[f"'{reference}'", "'x0'"]):
        run(repair=True, remove=[reference])
    assert path.exists()


def test_what_can_never_be_removed(run: Callable[..., Plan], add: Callable[..., Path], tmp_path: Path) -> None:
    add(0, b"x", datastore=2)
    directory = tmp_path / "1"
    os.mkfifo(directory / ("f" * 32))
    (directory / "notes").write_bytes(b"x")
    for reference in (
        "/etc/passwd",
        f"/{'a' * 32}",
        f"{tmp_path}/2/{'0' * 32}",
        f"{directory}/notes",
        f"{directory}/{'f' * 32}",
        str(directory),
        "x0",
    ):
        with refused(
            InvalidInput,
            says=f"remove: {reference!r} is not accepted: the path of data in a datastore that is checked, "
            "or the name or id of an image there, is expected.",
        ):
            run(repair=True, name="default", remove=[reference])
    with refused(
        InvalidInput,
        says=f"remove: '{directory}/../1/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' is not accepted: a path "
        "without '..' is expected.",
    ):
        run(repair=True, remove=[f"{directory}/../1/{'a' * 32}"])


def test_removing_needs_repair(run: Callable[..., Plan]) -> None:
    with refused(InvalidInput, says="remove: ['x'] is not accepted: nothing is removed without repair=true."):
        run(remove=["x"])


def test_datastores_that_store_no_data(run: Callable[..., Plan]) -> None:
    assert [one["id"] for one in run().result["datastores"]] == [1, 2]
    with refused(UnsupportedAction, names=["inventory", "virtiofs"]):
        run(name="fs")
    with refused(DependencyNotFound, names=["name", "'none'"]):
        run(name="none")


def test_a_datastore_that_was_never_used_needs_no_directory(run: Callable[..., Plan], tmp_path: Path) -> None:
    (tmp_path / "1").rmdir()
    assert run(repair=True).result["consistent"]
    assert run(name="1").result["consistent"]


def test_a_directory_that_is_away_loses_no_image(
    run: Callable[..., Plan], add: Callable[..., Path], tmp_path: Path, catalog: str
) -> None:
    add(0)
    (tmp_path / "1").rmdir()
    orphan(tmp_path / "2")
    missing = f"The directory {tmp_path}/1 could not be read: it does not exist."
    plan = run(repair=True)
    default, files = plan.result["datastores"]
    assert (default["error"], default["consistent"], default["missing"]) == (missing, False, [])
    assert (files["error"], len(files["orphans"])) == (None, 1)
    assert plan.warnings == [f"The datastore 'default' could not be checked: {missing}"]
    with refused(NotFound, names=[f"{tmp_path}/1"]):
        run(repair=True, name="default")
    for reference in ("x0", f"{tmp_path}/1/{0:032x}"):
        with refused(
            Conflict,
            says=f"remove: '{reference}' can't be removed, as the datastore 'default' could not be checked: {missing}",
        ):
            run(repair=True, remove=[reference])
    assert row(catalog, "x0") is not None


def test_without_a_catalog(tmp_path: Path) -> None:
    for check in (True, False):
        asked = service(str(tmp_path / "other.sqlite"))
        with refused(DependencyNotFound, names=[tmp_path / "other.sqlite"]):
            asked.plan() if check else asked.converge()
    assert os.listdir(tmp_path) == []


def test_data_is_read_once_and_outside_of_the_transaction(
    catalog: str, add: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add(0, b"data")
    add(1, b"data", persistent=True)
    asked = []

    def inventory(self: FsDriver, checksums: dict[str, str], **options: object) -> object:
        with open_catalog(catalog, create=False) as other:
            other.execute("PRAGMA busy_timeout = 0")
            free = True
            try:
                other.execute("BEGIN IMMEDIATE")
            except Exception:
                free = False
        asked.append((dict(checksums), free))
        return original(self, checksums, **options)

    original = FsDriver.inventory
    monkeypatch.setattr(FsDriver, "inventory", inventory)
    service(catalog, name="1", repair=True, checksums=True).converge()
    assert asked == [({str(image): "sha256"}, True), ({}, False)]
    assert row(catalog, "x0").checksum == sha256(image)


def test_a_datastore_that_does_not_answer_is_asked_once(
    catalog: str, add: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add(0, b"data")
    add(1, b"x" * 2 * MIB, datastore=2)
    asked = []

    def inventory(self: FsDriver, checksums: dict[str, str], **options: object) -> object:
        asked.append(self.datastore.id)
        if self.datastore.id == 1:
            raise CommandFailed("no answer")
        return original(self, checksums, **options)

    original = FsDriver.inventory
    monkeypatch.setattr(FsDriver, "inventory", inventory)
    plan = service(catalog, repair=True).converge()
    assert asked == [1, 2, 2]
    assert plan.warnings == ["The datastore 'default' could not be checked: no answer"]
    assert row(catalog, "x1").size_mb == 2


@pytest.mark.parametrize("what", ["data", "row"])
def test_what_changes_meanwhile_gets_no_checksum(
    catalog: str, add: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    image = add(0, b"data")
    add(1, b"x" * 2 * MIB)
    original = DatastoreCheckService.recording

    def recording(self: DatastoreCheckService, plan: Plan) -> contextlib.AbstractContextManager[Plan]:
        if what == "data":
            os.utime(image, ns=(1, 1))
        else:
            with open_catalog(catalog, create=False) as other, other.transaction():
                IMAGES.update(other, records.replace(IMAGES.find(other, "x0"), persistent=True))
        return original(self, plan)

    monkeypatch.setattr(DatastoreCheckService, "recording", recording)
    service(catalog, name="1", repair=True, checksums=True).converge()
    assert (row(catalog, "x0").checksum, row(catalog, "x1").checksum is None) == (None, False)


def test_an_image_that_is_recorded_meanwhile_is_no_orphan(
    catalog: str, add: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan lists data as an orphan that has since become an image."""
    path = tmp_path / "1" / f"{5:032x}"
    path.write_bytes(b"data")
    original = DatastoreCheckService.recording

    def recording(self: DatastoreCheckService, plan: Plan) -> contextlib.AbstractContextManager[Plan]:
        add(5)
        return original(self, plan)

    monkeypatch.setattr(DatastoreCheckService, "recording", recording)
    with refused(
        Conflict,
        says=f"remove: '{path}' is the image 'x5', whose data is there; the module granary.vmstore.image removes it.",
    ):
        service(catalog, repair=True, remove=[str(path)]).converge()
    assert path.read_bytes() == b"data"


def test_a_row_stays_where_a_later_removal_fails(
    catalog: str, add: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(0, b"x" * 2 * MIB)
    path = orphan(tmp_path / "1")

    def refuse(self: FsDriver, source: str) -> None:
        raise Conflict(f"{source} stays")

    monkeypatch.setattr(FsDriver, "rm", refuse)
    with refused(Conflict, says=f"{path} stays"):
        service(catalog, repair=True, remove=[str(path)]).converge()
    assert row(catalog, "x0").size_mb == 1


HOLD = """
import os, sys
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
with new_image(sys.argv[1]) as part:
    print(os.path.join(part.place, part.name), flush=True)
    sys.stdin.read()
"""


def test_an_image_that_is_being_made_is_left_alone(repair: Callable[..., Plan], tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        path = other.stdout.readline().strip()
        plan = repair()
        assert (plan.actions, plan.result["consistent"]) == ([], True)
        assert os.path.exists(path)
        other.stdin.close()


def test_a_cut_image_is_found_and_nothing_is_recorded_of_it(
    run: Callable[..., Plan], add: Callable[..., Path], catalog: str
) -> None:
    image = add(0, format="qcow2", size_mb=4)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "4M"], check=True)
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q 0 4M", image], check=True, stdout=subprocess.DEVNULL)
    assert run().result["consistent"]
    for length in (image.stat().st_size - 1, 1000, 100):
        os.truncate(image, length)
        plan = run(repair=True, checksums=True)
        (finding,) = list_found(plan, "drift")
        assert (finding["attribute"], finding["recorded"], finding["found"], finding["repaired"]) == (
            "data",
            None,
            None,
            False,
        )
        assert finding["error"].startswith("by the tables of this qcow2 image the file has ")
        assert (plan.actions, plan.result["consistent"]) == ([], False)


def test_a_recorded_checksum_never_contradicts_the_origin(
    repair: Callable[..., Plan], add: Callable[..., Path], catalog: str
) -> None:
    image = add(0, b"x" * MIB, size_mb=1)
    good = hashlib.sha1(image.read_bytes(), usedforsecurity=False).hexdigest()
    add(1, b"y" * MIB, size_mb=1, origin_checksum="sha512:" + "0" * 128)
    with open_catalog(catalog, create=False) as opened, opened.transaction():
        IMAGES.update(opened, records.replace(row(catalog, "x0"), origin_checksum=f"sha1:{good}"))
    repair(name="1", checksums=True)
    assert row(catalog, "x0").checksum == f"sha1:{good}"
    assert row(catalog, "x1").checksum is None
