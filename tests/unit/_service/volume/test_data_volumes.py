# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data volumes of a declaration, as the catalog and qemu-img see them."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    DependencyNotFound,
    InvalidInput,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.cache import ContainerDiskCache
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.store import DiskStore
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.info import image_info
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.container_disks import PullOptions
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.data_volumes import DataVolumes
from ansible_collections.granary.vmstore.plugins.module_utils._volume.admission.declaration import accept_declaration
from ansible_collections.granary.vmstore.plugins.module_utils._volume.facts import DomainFacts
from container_images import Layout, make_tar, raw_disk

USER, PASSWORD = "importer", "correct-horse"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files for one user."""

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") == expected and self.headers.get("X-Site") == "lab":
            super().do_GET()
        else:
            self.send_error(403)

    def log_message(self, *unused: object) -> None:
        """Write no log."""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "www" / "disk.qcow2", "5M"], check=True)
    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/disk.qcow2"
        server.shutdown()
        thread.join()


@pytest.fixture
def volumes(catalog: str, tmp_path: Path) -> Callable[..., DataVolumes]:
    def bind(*templates: dict[str, Any], recorded: tuple[str, ...] = (), **options: Any) -> DataVolumes:
        names = [one["metadata"]["name"] for one in templates]
        declaration = {
            "data_volume_templates": list(templates),
            "volumes": [{"name": f"v{place}", "dataVolume": {"name": name}} for place, name in enumerate(names)],
            **options,
        }
        spec = accept_declaration(declaration, DomainFacts())
        cache = ContainerDiskCache(DiskStore(str(tmp_path / "cache")))
        return DataVolumes(spec, catalog, cache, PullOptions(), recorded, str)

    return bind


def template(name: str, source: dict[str, Any], size: str | None = None, **storage: Any) -> dict[str, Any]:
    requests = {} if size is None else {"resources": {"requests": {"storage": size}}}
    return {"metadata": {"name": name}, "spec": {"source": source, "storage": {**requests, **storage}}}


def images(catalog: str) -> dict[str, dict[str, Any]]:
    found = image_info({"name": None, "datastore": None, "catalog": catalog})["images"]
    assert isinstance(found, list)
    return {one["name"]: one for one in found}


def size_of(image: dict[str, Any]) -> int:
    done = subprocess.run(["qemu-img", "info", "--output=json", image["path"]], capture_output=True, check=True)
    return int(json.loads(done.stdout)["virtual-size"])


def test_every_source(volumes: Callable[..., DataVolumes], catalog: str, url: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add("latest", make_tar(("disk/disk.img", raw_disk(size=3 << 20))))
    http = {"http": {"url": url, "secretRef": "server", "extraHeaders": ["X-Site: lab"]}}
    declared = (
        template("blank", {"blank": {}}, "7Mi"),
        template("upload", {"upload": {}}, "1500Ki"),
        template("web", http),
        template("registry", {"registry": {"url": f"oci:{tmp_path / 'layout'}"}}),
        template("copy", {"pvc": {"name": "blank", "namespace": "default"}}, storageClassName="more"),
    )
    secrets = {"server": {"data": {"accessKeyId": USER, "secretKey": PASSWORD}}}
    found = volumes(*declared, secrets=secrets)
    assert [action.subject for action in found.look()][:4] == ["blank", "upload", "web", "registry"]
    assert images(catalog) == {}
    assert [action.subject for action in volumes(*declared, secrets=secrets).create()] == [
        one["metadata"]["name"] for one in declared
    ]
    made = images(catalog)
    assert {name: size_of(one) for name, one in made.items()} == {
        "blank": 7 << 20,
        "upload": 2 << 20,
        "web": 5 << 20,
        "registry": 3 << 20,
        "copy": 7 << 20,
    }
    assert all(one["persistent"] for one in made.values())
    again = volumes(*declared, secrets=secrets)
    assert (again.look(), again.create()) == ([], [])


def test_images_go_with_the_declaration(volumes: Callable[..., DataVolumes], catalog: str) -> None:
    blank = template("blank", {"blank": {}}, "1Mi")
    volumes(blank, template("kept", {"blank": {}}, "1Mi")).create()
    assert volumes(blank, recorded=("blank",)).remove_outdated(is_dry_run=False).actions == []
    # An image that the record doesn't have is a claim of somebody else.
    foreseen = volumes(recorded=("blank",)).remove_outdated(is_dry_run=True)
    assert [action.name for action in foreseen.actions] == ["remove image"]
    assert set(images(catalog)) == {"blank", "kept"}
    volumes(recorded=("blank",)).remove_outdated(is_dry_run=False)
    assert set(images(catalog)) == {"kept"}


def test_what_is_impossible(volumes: Callable[..., DataVolumes], catalog: str, url: str) -> None:
    blank = {"blank": {}}
    with pytest.raises(UnsupportedAction):
        volumes(template("a", blank, "1Mi", volumeMode="Block")).look()
    with pytest.raises(DependencyNotFound):
        volumes(template("a", {"pvc": {"name": "none"}})).create()
    incomplete = {"server": {"data": {"accessKeyId": USER}}}
    with pytest.raises(InvalidInput):
        volumes(template("a", {"http": {"url": url, "secretRef": "server"}}), secrets=incomplete).create()
    with pytest.raises(DependencyNotFound):
        volumes(template("a", blank, "1Mi", storageClassName="none")).create()
    assert images(catalog) == {}
