# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import Catalog, open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.images import IMAGES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CatalogFailed,
    Conflict,
    DependencyNotFound,
    InvalidInput,
    PathNotAllowed,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from ansible_collections.granary.vmstore.plugins.module_utils._model.image import Image
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.attachment import (
    ImageAttachment,
    attachments,
    record_attachment,
    remove_attachment,
    resolve_attachment,
)
from refusal import refused

MAP = (IdMap(0, 300000, 65536),)
#: Fields of an image by name: persistent, read_only.
SHARING = {"mine": (True, False), "scratch": (False, False), "readers": (False, True), "mine_ro": (True, True)}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with open_catalog(str(tmp_path / "catalog.sqlite"), create=True) as opened:
        DATASTORES.insert(opened, Datastore(100, "fs", "image", "virtiofs", "virtiofs", "/ds/100"))
        for number, (name, (persistent, read_only)) in enumerate(SHARING.items()):
            IMAGES.insert(
                opened,
                Image(
                    number,
                    name,
                    100,
                    "filesystem",
                    f"/mnt/{name}",
                    1,
                    persistent,
                    read_only,
                    f"one-{number}",
                    f"/mnt/one-fs-{number}",
                    MAP,
                ),
            )
        yield opened


def attach(catalog: Catalog, image: str, domain: str = "web", host: str = "h1", **options: object) -> ImageAttachment:
    attachment = resolve_attachment(catalog, image, host, domain, **options)
    record_attachment(catalog, attachment)
    return attachment


def test_what_the_export_gives_wins_over_the_image(catalog: Catalog) -> None:
    default = resolve_attachment(catalog, "mine", "h1", "web")
    assert (default.mount_tag, default.mount_point, default.read_only, default.uid_map, default.gid_map) == (
        "one-0",
        "/mnt/one-fs-0",
        False,
        MAP,
        None,
    )
    other = (IdMap(0, 500000, 10),)
    given = resolve_attachment(
        catalog, "mine", "h1", "web", mount_tag="t", mount_point="/srv/x/", read_only=True, uid_map=other, gid_map=other
    )
    assert (given.mount_tag, given.mount_point, given.read_only, given.uid_map, given.gid_map) == (
        "t",
        "/srv/x",
        True,
        other,
        other,
    )
    assert (given.image_id, given.image, given.source, given.persistent) == (0, "mine", "/mnt/mine", True)


def test_an_image_is_found_by_id_too(catalog: Catalog) -> None:
    assert resolve_attachment(catalog, "2", "h1", "web").image == "readers"


def test_only_directories_are_attached(catalog: Catalog) -> None:
    IMAGES.insert(catalog, Image(9, "disk", 1, "os", "/ds/1/x", 1, True, False, format="raw"))
    with refused(
        UnsupportedAction,
        says="image: 'disk' is of type 'os', and only images of type 'filesystem' are attached as directories.",
    ):
        resolve_attachment(catalog, "disk", "h1", "web")


def test_recording_twice_is_once(catalog: Catalog, tmp_path: Path) -> None:
    for _time in range(2):
        attachment = attach(catalog, "mine")
    assert attachments(catalog) == [attachment]
    connection = sqlite3.connect(tmp_path / "catalog.sqlite")
    assert connection.execute("SELECT image_id, host, domain, mount_tag FROM vm_disk").fetchall() == [
        (0, "h1", "web", "one-0")
    ]
    connection.close()


@pytest.mark.parametrize(
    ("image", "kind"), [("mine", "persistent"), ("mine_ro", "persistent"), ("scratch", "not read-only")]
)
@pytest.mark.parametrize(("host", "domain"), [("h1", "db"), ("h2", "web")])
def test_an_image_that_can_not_be_shared_names_who_has_it(
    catalog: Catalog, image: str, kind: str, host: str, domain: str
) -> None:
    attach(catalog, image)
    with refused(Conflict, names=[f"'{image}'", kind, "'web'", "'h1'"]):
        resolve_attachment(catalog, image, host, domain)


def test_asking_to_read_only_does_not_share_a_writable_image(catalog: Catalog) -> None:
    attach(catalog, "scratch")
    with pytest.raises(Conflict):
        resolve_attachment(catalog, "scratch", "h1", "db", read_only=True)


def test_a_read_only_image_is_shared_by_many_and_never_writable(catalog: Catalog) -> None:
    for number in range(5):
        assert attach(catalog, "readers", domain=f"vm{number}").read_only
    with refused(
        InvalidInput,
        says="read_only: False is not accepted: the image 'readers' is read-only, and so is every attachment of it.",
    ):
        resolve_attachment(catalog, "readers", "h1", "vm9", read_only=False)


@pytest.mark.parametrize(("option", "value"), [("mount_tag", "one-0"), ("mount_point", "/mnt/one-fs-0")])
def test_a_tag_or_mount_point_used_twice_in_a_domain(catalog: Catalog, option: str, value: str) -> None:
    attach(catalog, "mine")
    with refused(
        Conflict,
        says=f"{option}: '{value}' belongs to the image 'mine' in the domain 'web' on the host 'h1', "
        "so the image 'readers' needs another one there.",
    ):
        resolve_attachment(catalog, "readers", "h1", "web", **{option: value})
    resolve_attachment(catalog, "readers", "h1", "db", **{option: value})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mount_tag": "x" * 37}, "mount_tag"),
        ({"mount_tag": "a b"}, "mount_tag"),
        ({"mount_point": "/etc"}, "mount_point"),
        ({"mount_point": "a"}, "mount_point"),
    ],
)
def test_values_a_mount_can_not_carry(catalog: Catalog, options: dict, named: str) -> None:
    with refused(InvalidInput, option=named, value=options[named]):
        resolve_attachment(catalog, "mine", "h1", "web", **options)


def test_a_directory_that_is_restricted_by_now(catalog: Catalog) -> None:
    DATASTORES.update(
        catalog, Datastore(100, "fs", "image", "virtiofs", "virtiofs", "/ds/100", restricted_dirs=("/mnt/mine",))
    )
    with refused(PathNotAllowed, option="path", value="/mnt/mine", names=["/mnt/mine"]):
        resolve_attachment(catalog, "mine", "h1", "web")
    resolve_attachment(catalog, "readers", "h1", "web")


def test_an_unknown_image(catalog: Catalog) -> None:
    with refused(DependencyNotFound, names=["'none'"]):
        resolve_attachment(catalog, "none", "h1", "web")


def test_removing_twice_says_what_it_found(catalog: Catalog) -> None:
    attach(catalog, "mine")
    assert [remove_attachment(catalog, 0, "h1", "web") for _time in range(2)] == [True, False]
    resolve_attachment(catalog, "mine", "h2", "db")


def test_attachments_by_side(catalog: Catalog) -> None:
    attach(catalog, "mine")
    attach(catalog, "readers")
    attach(catalog, "readers", domain="db")
    attach(catalog, "readers", host="h2")
    assert [(one.image, one.host, one.domain) for one in attachments(catalog, image_id=2)] == [
        ("readers", "h1", "db"),
        ("readers", "h1", "web"),
        ("readers", "h2", "web"),
    ]
    assert [one.image for one in attachments(catalog, host="h1", domain="web")] == ["mine", "readers"]
    assert [one.host for one in attachments(catalog, host="h2")] == ["h2"]


def test_a_result_can_be_given_back(catalog: Catalog) -> None:
    attachment = resolve_attachment(catalog, "mine", "h1", "web")
    assert ImageAttachment.from_dict(attachment.as_dict()) == attachment


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("image_id", "0"),
            ("image_id", True),
            ("image", "a\nb"),
            ("source", "relative"),
            ("source", "/a/../b"),
            ("source", 5),
            ("persistent", "yes"),
            ("read_only", None),
        ),
        *(
            ("mount_tag", "/dev/x"),
            ("mount_point", "/"),
            ("uid_map", {}),
            ("uid_map", [{"start": 0}]),
            ("uid_map", [{"start": "0", "target": 1, "count": 1}]),
        ),
        *(("gid_map", [{"start": 0, "target": -1, "count": 1}]), ("host", "-x"), ("domain", "a/b")),
    ],
)
def test_a_result_that_was_tampered_with(catalog: Catalog, key: str, value: object) -> None:
    data = resolve_attachment(catalog, "mine", "h1", "web").as_dict()
    with refused(InvalidInput, option=f"attachment.{key}"):
        ImageAttachment.from_dict({**data, key: value})


@pytest.mark.parametrize("data", [{}, {"image": "x"}, [], "x", None])
def test_something_else_than_a_result(data: object) -> None:
    with refused(InvalidInput, option="attachment"):
        ImageAttachment.from_dict(data)


def test_a_result_with_an_unknown_key(catalog: Catalog) -> None:
    with refused(
        InvalidInput,
        says="attachment: 'domain, extra, gid_map, host, image, image_id, mount_point, mount_tag, "
        "persistent, read_only, source, uid_map' is not accepted: the value that "
        "granary.vmstore.image_attachment returned is expected.",
    ):
        ImageAttachment.from_dict({**resolve_attachment(catalog, "mine", "h1", "web").as_dict(), "extra": 1})


def test_an_image_whose_datastore_is_missing_is_not_attached(catalog: Catalog) -> None:
    catalog.execute("PRAGMA foreign_keys = OFF")
    catalog.execute("DELETE FROM datastore WHERE id = 100")
    with refused(
        CatalogFailed, says="The catalog * lacks the datastore 100 of the image 'mine', so restore it from a backup."
    ):
        attach(catalog, "mine")
