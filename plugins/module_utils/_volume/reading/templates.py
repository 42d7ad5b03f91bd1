# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The reading of data volume templates from plain data, which are those of a VirtualMachine's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._core.problems import Problems
from ..._model.domain_volumes import (
    VOLUME_MODES,
    BlankImport,
    ClaimImport,
    DataVolumeTemplate,
    HttpImport,
    RegistryImport,
    UploadImport,
)
from .readers import (
    INVALID,
    Reader,
    Shape,
    any_text,
    choice,
    flag,
    items,
    join,
    mapping,
    optional_text,
    quantity,
    read_fields,
    record,
    secret_line,
    text,
)

#: The reason for origins of data that need services of a cluster or a cloud.
_NEEDS_SERVICE = "the importer of a cluster reads it. http, registry, pvc, blank or upload is expected"


def _http(
    url: str, cert_config_map: str | None = None, secret_ref: str | None = None, extra_headers: tuple[str, ...] = ()
) -> HttpImport:
    return HttpImport(url, cert_config_map, secret_ref, extra_headers)


def _registry(url: str, cert_config_map: str | None = None, secret_ref: str | None = None) -> RegistryImport:
    return RegistryImport(url, cert_config_map, secret_ref)


_ORIGIN = {"url": text, "cert_config_map": optional_text, "secret_ref": optional_text}

#: The origins of data, by their keys.
_SOURCES: Mapping[str, Reader] = {
    "http": record(
        Shape(
            {**_ORIGIN, "extra_headers": items(secret_line)},
            required=("url",),
            refused={"secretExtraHeaders": "extra_headers has the lines themselves"},
        ),
        _http,
    ),
    "registry": record(
        Shape(
            _ORIGIN,
            required=("url",),
            refused={"imageStream": "it is an object of a cluster. url is expected"},
            ignored=("pullMethod", "pull_method"),
        ),
        _registry,
    ),
    # There are no namespaces, so a namespace has no effect.
    "pvc": record(Shape({"name": text}, required=("name",), ignored=("namespace",)), ClaimImport),
    "blank": record(Shape({}), BlankImport),
    "upload": record(Shape({}), UploadImport),
}

_SOURCE = Shape(_SOURCES, refused=dict.fromkeys(("s3", "gcs", "imageio", "vddk", "snapshot"), _NEEDS_SERVICE))

_REQUESTS = Shape({"requests": record(Shape({"storage": quantity}), dict), "limits": record(Shape({}), dict)})

_STORAGE = Shape(
    {
        "resources": record(_REQUESTS, dict),
        "storage_class_name": optional_text,
        "volume_mode": choice(*VOLUME_MODES, rule="volume_mode"),
    },
    refused=dict.fromkeys(("dataSource", "dataSourceRef", "selector", "volumeName"), "source names the data instead"),
    # A persistent image has one user, and a shareable disk has several.
    ignored=("accessModes", "access_modes"),
)


def _storage(problems: Problems, path: str, value: object) -> Any:
    return read_fields(problems, path, value, _STORAGE)


def _source(problems: Problems, path: str, value: object) -> Any:
    before = len(problems.found)
    found = read_fields(problems, path, value, _SOURCE)
    if found is not INVALID and len(found) == 1:
        return next(iter(found.values()))
    if len(problems.found) == before:
        given = " and ".join(found) or "no source"
        problems.add("one_import_source", path, given, f"one of {', '.join(_SOURCES)} is expected")
    return INVALID


_METADATA = Shape(
    {"name": text, "labels": mapping(any_text), "annotations": mapping(any_text)},
    required=("name",),
    ignored=("namespace", "creationTimestamp", "uid", "generation", "resourceVersion"),
)
_SPEC = Shape(
    {"source": _source, "pvc": _storage, "storage": _storage, "preallocation": flag},
    refused={
        "sourceRef": "it is an object of a cluster. source is expected",
        "checkpoints": "an import in several steps needs a cluster, so it must be left out",
        "finalCheckpoint": "an import in several steps needs a cluster, so it must be left out",
    },
    required=("source",),
    ignored=("contentType", "content_type", "priorityClassName"),
)


def _metadata(problems: Problems, path: str, value: object) -> Any:
    return read_fields(problems, path, value, _METADATA)


def _spec(problems: Problems, path: str, value: object) -> Any:
    return read_fields(problems, path, value, _SPEC)


_TEMPLATE = Shape(
    {"metadata": _metadata, "spec": _spec},
    required=("metadata", "spec"),
    ignored=("apiVersion", "api_version", "kind", "status"),
)


def read_template(problems: Problems, path: str, value: object) -> Any:
    """Return the :class:`DataVolumeTemplate` for plain data."""
    found = read_fields(problems, path, value, _TEMPLATE)
    if found is INVALID:
        return INVALID
    metadata, spec = found["metadata"], found["spec"]
    storages = [name for name in ("pvc", "storage") if name in spec]
    if len(storages) != 1:
        given = " and ".join(storages) or "no storage"
        problems.add("one_storage", join(path, "spec"), given, "one of pvc and storage is expected")
    storage = spec[storages[0]] if storages else {}
    return DataVolumeTemplate(
        name=metadata["name"],
        source=spec["source"],
        size=storage.get("resources", {}).get("requests", {}).get("storage"),
        datastore=storage.get("storage_class_name"),
        preallocation=spec.get("preallocation", False),
        labels=metadata.get("labels", {}),
        annotations=metadata.get("annotations", {}),
        **{name: one for name, one in storage.items() if name == "volume_mode"},
    )


__all__ = ["read_template"]
