#!/usr/bin/python3
"""Looks at, and damages, what a rig's registry holds.

    registry_tool.py size REGISTRY/NAME:TAG                  bytes of the layers, compressed
    registry_tool.py mix REGISTRY/NAME FROM INTO AS N...     tags AS: the image FROM with the layers N (from 0) of INTO
    registry_tool.py claim REGISTRY/NAME FROM AS DIGEST      tags AS: the image FROM with a wrong digest of its TOCs
    registry_tool.py corrupt STORAGE REGISTRY/NAME:TAG FILE  damages the contents of a file in the stored eStargz blob
"""

import gzip
import hashlib
import json
import os
import struct
import sys
import urllib.request
import zlib

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
FOOTER_SIZE = 51
# No gzip member of a file's contents is longer: the converter cuts files into chunks of 4 MiB.
MEMBER_LIMIT = 8 << 20


class Repository:
    """One repository of a registry without authentication, over plain HTTP."""

    def __init__(self, name):
        host, self.path = name.split("/", 1)
        self.base = f"http://{host}"

    def request(self, method, path, data=None, headers=None):
        url = path if path.startswith("http") else f"{self.base}/v2/{self.path}/{path}"
        return urllib.request.urlopen(urllib.request.Request(url, data, headers or {}, method=method), timeout=60)

    def manifest(self, tag):
        with self.request("GET", f"manifests/{tag}", headers={"Accept": MANIFEST}) as answer:
            return json.load(answer)

    def blob_json(self, digest):
        with self.request("GET", f"blobs/{digest}") as answer:
            return json.load(answer)

    def put_blob(self, data):
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        with self.request("POST", "blobs/uploads/", b"") as answer:
            location = answer.headers["Location"]
        separator = "&" if "?" in location else "?"
        url = f"{location}{separator}digest={digest}"
        self.request("PUT", url, data, {"Content-Type": "application/octet-stream"}).close()
        return {"digest": digest, "size": len(data)}

    def put_manifest(self, tag, manifest):
        self.request("PUT", f"manifests/{tag}", json.dumps(manifest).encode(), {"Content-Type": MANIFEST}).close()


def open_reference(reference):
    name, tag = reference.rsplit(":", 1)
    return Repository(name), tag


def size(reference):
    repository, tag = open_reference(reference)
    print(sum(layer["size"] for layer in repository.manifest(tag)["layers"]))


def mix(name, base_tag, other_tag, as_tag, *numbers):
    repository = Repository(name)
    base, other = repository.manifest(base_tag), repository.manifest(other_tag)
    config, other_config = (repository.blob_json(m["config"]["digest"]) for m in (base, other))
    for number in map(int, numbers):
        base["layers"][number] = other["layers"][number]
        config["rootfs"]["diff_ids"][number] = other_config["rootfs"]["diff_ids"][number]
    base["config"].update(repository.put_blob(json.dumps(config).encode()))
    repository.put_manifest(as_tag, base)


def claim(name, tag, as_tag, digest):
    repository = Repository(name)
    manifest = repository.manifest(tag)
    for layer in manifest["layers"]:
        layer["annotations"]["containerd.io/snapshot/stargz/toc.digest"] = digest
    repository.put_manifest(as_tag, manifest)


def blob_file(storage, digest):
    algorithm, value = digest.split(":")
    return os.path.join(storage, "docker/registry/v2/blobs", algorithm, value[:2], value, "data")


def read_toc(path):
    """The table of contents of an eStargz blob: the gzip member whose offset the footer's extra field holds."""
    with open(path, "rb") as blob:
        blob.seek(-FOOTER_SIZE, os.SEEK_END)
        footer = blob.read(FOOTER_SIZE)
        offset = int(footer[16:32], 16)
        blob.seek(offset)
        tar = gzip.decompress(blob.read()[:-FOOTER_SIZE])
    length = int(tar[124:135], 8)
    return json.loads(tar[512 : 512 + length])


def corrupt(storage, reference, file):
    repository, tag = open_reference(reference)
    for layer in repository.manifest(tag)["layers"]:
        path = blob_file(storage, layer["digest"])
        for entry in read_toc(path)["entries"]:
            if entry["name"].strip("/") == file.strip("/") and entry["type"] == "reg":
                flip(path, entry["offset"])
                return
    sys.exit(f"{reference} has no file {file}")


def flip(path, offset):
    """Damages the gzip member at an offset in such a way that it still inflates wherever that is possible: the
    chunk digest must tell, and not the decompressor. The stored file is replaced, since it may be shared."""
    with open(path, "rb") as blob:
        data = bytearray(blob.read())
    inflated = inflate(data, offset)
    for position in range(offset + 64, min(offset + 4096, len(data) - 1)):
        data[position] ^= 0x01
        damaged = inflate(data, offset)
        if damaged is not None and inflated is not None and damaged != inflated and len(damaged) == len(inflated):
            break
        data[position] ^= 0x01
    else:
        data[offset + 64] ^= 0xFF
    with open(path + ".tmp", "wb") as out:
        out.write(data)
    os.rename(path + ".tmp", path)


def inflate(data, offset):
    """The contents of a gzip member, its checksum not looked at; None when it does not inflate."""
    (flags,) = struct.unpack_from("B", data, offset + 3)
    header = 10 + (2 + struct.unpack_from("<H", data, offset + 10)[0] if flags & 4 else 0)
    begin = offset + header
    try:
        return zlib.decompressobj(-15).decompress(bytes(data[begin : begin + MEMBER_LIMIT]))
    except zlib.error:
        return None


def main():
    commands = {"size": size, "mix": mix, "claim": claim, "corrupt": corrupt}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
