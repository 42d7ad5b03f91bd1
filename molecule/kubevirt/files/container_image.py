# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Write an archive of a container image in OCI's layout, with a disk as its only file: container_image.py ARCHIVE"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile

OCI = "application/vnd.oci.image"


def make_tar(files: dict[str, bytes]) -> bytes:
    """Return a tar archive."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def make_image(layer: bytes) -> bytes:
    """Return the archive of an image with one layer."""
    files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def store(content: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        files[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"{OCI}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    layers = {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]}
    config = {"os": "linux", "architecture": "amd64", "rootfs": layers}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": store(json.dumps(config).encode(), "config.v1+json"),
        "layers": [store(layer, "layer.v1.tar")],
    }
    listed = store(json.dumps(manifest).encode(), "manifest.v1+json")
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [listed]}).encode()
    return make_tar(files)


def main(path: str) -> None:
    """Write the archive. Its disk is raw, has 4 MiB and begins with a text."""
    disk = b"from the container image\n".ljust(4 << 20, b"\0")
    with open(path, "wb") as file:
        file.write(make_image(make_tar({"disk/disk.img": disk})))


if __name__ == "__main__":
    main(sys.argv[1])
