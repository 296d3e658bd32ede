#!/usr/bin/python3
"""Packs layer directories into an OCI image layout.

    oci_layout.py LAYOUT LAYERS IMAGE=LAYER[,LAYER...]...

LAYERS is the directory that holds the layer directories: a root filesystem, or the upper directory of an overlay,
whose whiteouts (character device 0:0, the trusted.overlay.opaque attribute) become `.wh.` entries. LAYOUT is made
when absent; its index then names just these images. A layer that was packed before is not packed again. Layers are
compressed by pigz. Attributes are kept: owner, mode, whole seconds of mtime, xattrs, devices, hard links.
"""

import argparse
import hashlib
import json
import os
import stat
import subprocess
import tarfile

OPAQUE = "trusted.overlay.opaque"
# The virtual environment of the python images; it does not matter where it is absent.
PATH = "PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Filled by the kernel, or by whoever starts the container: an image holds the empty directories.
KERNEL_DIRS = ("proc", "sys", "dev")


class HashingWriter:
    """Passes everything on, and knows the SHA-256 of what went by."""

    def __init__(self, out):
        self.out = out
        self.sha256 = hashlib.sha256()

    def write(self, data):
        self.sha256.update(data)
        self.out.write(data)
        return len(data)

    def digest(self):
        return "sha256:" + self.sha256.hexdigest()


class LayerTar:
    """Writes one directory tree as a layer."""

    def __init__(self, root, out):
        self.root = root
        self.tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT)
        self.first_names = {}

    def write(self):
        self.add_children("")
        self.tar.close()

    def add_children(self, directory):
        for name in sorted(os.listdir(os.path.join(self.root, directory))):
            path = os.path.join(directory, name)
            self.add(path)
            if self.is_dir(path) and path not in KERNEL_DIRS:
                self.add_children(path)

    def is_dir(self, path):
        return stat.S_ISDIR(os.lstat(os.path.join(self.root, path)).st_mode)

    def add(self, path):
        full = os.path.join(self.root, path)
        st = os.lstat(full)
        if stat.S_ISSOCK(st.st_mode):
            return
        if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
            self.marker(os.path.dirname(path), ".wh." + os.path.basename(path))
            return
        entry = tarfile.TarInfo(path)
        entry.mode = stat.S_IMODE(st.st_mode)
        entry.uid, entry.gid, entry.mtime = st.st_uid, st.st_gid, int(st.st_mtime)
        xattrs = {n: os.getxattr(full, n, follow_symlinks=False) for n in os.listxattr(full, follow_symlinks=False)}
        for name, value in xattrs.items():
            if not name.startswith("trusted.overlay."):
                entry.pax_headers["SCHILY.xattr." + name] = value.decode("utf-8", "surrogateescape")
        self.add_as(entry, full, st)
        if xattrs.get(OPAQUE) == b"y":
            self.marker(path, ".wh..wh..opq")

    def add_as(self, entry, full, st):
        first = self.first_names.setdefault(st.st_ino, entry.name)
        if stat.S_ISDIR(st.st_mode):
            entry.type = tarfile.DIRTYPE
        elif first != entry.name:
            entry.type, entry.linkname = tarfile.LNKTYPE, first
        elif stat.S_ISLNK(st.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(full)
        elif stat.S_ISFIFO(st.st_mode):
            entry.type = tarfile.FIFOTYPE
        elif stat.S_ISREG(st.st_mode):
            entry.size = st.st_size
            with open(full, "rb") as content:
                self.tar.addfile(entry, content)
            return
        else:
            entry.type = tarfile.CHRTYPE if stat.S_ISCHR(st.st_mode) else tarfile.BLKTYPE
            entry.devmajor, entry.devminor = os.major(st.st_rdev), os.minor(st.st_rdev)
        self.tar.addfile(entry)

    def marker(self, directory, name):
        entry = tarfile.TarInfo(os.path.join(directory, name))
        entry.mode = 0o600
        self.tar.addfile(entry)


class Layout:
    """An OCI image layout directory."""

    def __init__(self, root):
        self.root = root
        self.blobs = os.path.join(root, "blobs", "sha256")
        os.makedirs(self.blobs, exist_ok=True)
        self.write_json("oci-layout", {"imageLayoutVersion": "1.0.0"})

    def write_json(self, name, value):
        with open(os.path.join(self.root, name), "w", encoding="utf-8") as out:
            json.dump(value, out)

    def put_json(self, media_type, value):
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(self.blobs, digest), "wb") as out:
            out.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    def put_layer(self, directory):
        """Packs a directory; returns its descriptor and the digest of the uncompressed tar."""
        memo = directory.rstrip("/") + ".layer.json"
        if os.path.exists(memo):
            with open(memo, encoding="utf-8") as known:
                layer = json.load(known)
            if os.path.exists(os.path.join(self.blobs, layer["digest"].removeprefix("sha256:"))):
                return layer
        temp = os.path.join(self.root, "layer.tmp")
        with open(temp, "wb") as out:
            pigz = subprocess.Popen(["pigz", "-n", "-6"], stdin=subprocess.PIPE, stdout=out)
            tar = HashingWriter(pigz.stdin)
            LayerTar(directory, tar).write()
            pigz.stdin.close()
            if pigz.wait() != 0:
                raise SystemExit("pigz failed")
        digest = sha256_of(temp)
        size = os.path.getsize(temp)
        os.rename(temp, os.path.join(self.blobs, digest))
        layer = {"digest": "sha256:" + digest, "size": size, "diff_id": tar.digest()}
        with open(memo, "w", encoding="utf-8") as out:
            json.dump(layer, out)
        return layer

    def put_image(self, name, directories):
        layers = [self.put_layer(directory) for directory in directories]
        config = {
            "architecture": subprocess.check_output(["dpkg", "--print-architecture"], text=True).strip(),
            "os": "linux",
            "config": {"Env": [PATH], "Cmd": ["/bin/bash"]},
            "rootfs": {"type": "layers", "diff_ids": [layer["diff_id"] for layer in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.put_json("application/vnd.oci.image.config.v1+json", config),
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": layer["digest"],
                    "size": layer["size"],
                }
                for layer in layers
            ],
        }
        descriptor = self.put_json(manifest["mediaType"], manifest)
        # containerd's importer takes the name of the image from this annotation.
        descriptor["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
        return descriptor

    def write_index(self, descriptors):
        self.write_json("index.json", {"schemaVersion": 2, "manifests": descriptors})


def sha256_of(path):
    sha256 = hashlib.sha256()
    with open(path, "rb") as content:
        while data := content.read(1 << 20):
            sha256.update(data)
    return sha256.hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layout")
    parser.add_argument("layers")
    parser.add_argument("images", nargs="+", metavar="IMAGE=LAYER[,LAYER...]")
    args = parser.parse_args()
    layout = Layout(args.layout)
    descriptors = []
    for image in args.images:
        name, layers = image.split("=", 1)
        directories = [os.path.join(args.layers, layer) for layer in layers.split(",")]
        descriptors.append(layout.put_image(name, directories))
    layout.write_index(descriptors)


if __name__ == "__main__":
    main()
