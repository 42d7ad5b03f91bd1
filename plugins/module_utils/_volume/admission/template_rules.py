# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules for data volume templates."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..._core.problems import Problems
from ..._model.domain_volumes import (
    BlankImport,
    ClaimImport,
    DataVolumeTemplate,
    DomainVolumes,
    HttpImport,
    RegistryImport,
    UploadImport,
)
from ..._model.names import LONGEST_NAME
from ..._model.volume_sources import DataVolume, PersistentVolumeClaim
from .names import require_data, require_different

#: The schemes of URLs, by the kind of the origin.
_SCHEMES = {HttpImport: r"https?://.+", RegistryImport: r"(docker|oci|oci-archive|docker-archive):.+"}
#: A name of an object in Kubernetes (RFC 1123, a subdomain).
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def admit_templates(problems: Problems, spec: DomainVolumes) -> None:
    """Add a problem for each rule that a template breaks."""
    templates = [(f"data_volume_templates[{place}]", one) for place, one in enumerate(spec.data_volume_templates)]
    require_different(problems, [(f"{path}.metadata.name", one.name) for path, one in templates])
    used = set(_used_names(spec))
    for path, template in templates:
        _admit_name(problems, f"{path}.metadata.name", template.name, used)
        _admit_source(problems, f"{path}.spec", template, spec)


def _used_names(spec: DomainVolumes) -> Iterator[str]:
    for volume in spec.volumes:
        if isinstance(volume.source, DataVolume):
            yield volume.source.name
        elif isinstance(volume.source, PersistentVolumeClaim):
            yield volume.source.claim_name


def _admit_name(problems: Problems, path: str, name: str, used: set[str]) -> None:
    if len(name) > LONGEST_NAME or _OBJECT_NAME.fullmatch(name) is None:
        problems.add(
            "object_name", path, name, f"1 to {LONGEST_NAME} lower-case letters, digits, '-' and '.' are expected"
        )
    if name not in used:
        problems.add("unused_template", path, name, "the name in a data_volume of volumes is expected")


def _admit_source(problems: Problems, path: str, template: DataVolumeTemplate, spec: DomainVolumes) -> None:
    source = template.source
    if isinstance(source, (BlankImport, UploadImport)) and not template.size:
        problems.add("template_size", f"{path}.storage.resources.requests.storage", None, "an empty disk has a size")
    if isinstance(source, ClaimImport) and source.name == template.name:
        problems.add("template_of_itself", f"{path}.source.pvc.name", source.name, "another image is expected")
    if not isinstance(source, (HttpImport, RegistryImport)):
        return
    kind = "http" if isinstance(source, HttpImport) else "registry"
    if re.fullmatch(_SCHEMES[type(source)], source.url) is None:
        expected = "http:// or https://" if kind == "http" else "docker://, oci-archive: or oci:"
        problems.add("import_url", f"{path}.source.{kind}.url", source.url, f"a URL with {expected} is expected")
    for option, name, known, names in (
        ("cert_config_map", source.ca, spec.config_maps, "config_maps"),
        ("secret_ref", source.credentials, spec.secrets, "secrets"),
    ):
        require_data(problems, f"{path}.source.{kind}.{option}", name, known, names)


__all__ = ["admit_templates"]
