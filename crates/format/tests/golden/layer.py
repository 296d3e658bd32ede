"""Writes layer.tar, the layer in most of the blobs, and layer.txt, what a container sees of it.

The text is made from what is put into the archive, not by the code that it tests.
"""

import hashlib
import io
import random
import tarfile


def chunk_end():
    """64 bytes after which Podman's rolling checksum ends a chunk: the low 16 bits of its second sum are set."""
    rng = random.Random(7)
    data = bytes(rng.choice(b"abcdefghijklmnopqrstuvwxyz \n") for _ in range(400000))
    window, s1, s2 = [0] * 64, 64 * 31, 64 * 63 * 31
    for at, byte in enumerate(data):
        drop, window[at % 64] = window[at % 64], byte
        s1 = (s1 + byte - drop) & 0xFFFFFFFF
        s2 = (s2 + s1 - 64 * (drop + 31)) & 0xFFFFFFFF
        if at >= 64 and s2 & 0xFFFF == 0xFFFF:
            return data[at - 63 : at + 1]


def lines(start, end):
    return b"".join(b"line %06d of a file\n" % number for number in range(start, end))


END = chunk_end()
CAPABILITY = bytes([1, 0, 0, 2, 0, 4] + [0] * 14)
NOTE = b"hello"
CONTENTS = {
    "bin/tool": lines(0, 500),
    "data/chunked": lines(0, 700) + END + lines(700, 900) + END + lines(900, 1000),
    "data/sparse": lines(0, 100) + bytes(50000) + lines(100, 200) + bytes(5000),
    "data/starts-with-a-hole": bytes(3000) + b"end",
    "data/zeros": bytes(20000),
    "etc/conf": b"a = 1\n",
    "etc/old": b"old\n",
    "n\u00e4me with space": b"x",
}
KINDS = {tarfile.FIFOTYPE: "fifo", tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block"}

out = io.BytesIO()
tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)
# The root and directories that only names of others imply.
shown = {name: "dir opaque=false 0755 0:0 0 nlink=%d" % links for name, links in [
    ("/", 8), ("/implied", 3), ("/implied/deeper", 2),
]}


def add(name, type=tarfile.REGTYPE, mode=0o644, mtime=1700000000, **fields):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = type, mode, mtime
    for key, value in fields.items():
        setattr(info, key, value)
    content = CONTENTS.get(name, b"") if type == tarfile.REGTYPE else b""
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
    show(info, content)


def show(info, content):
    name, attributes = "/" + info.name, f"{info.mode:04o} {info.uid}:{info.gid} {int(info.mtime)}"
    parent, last = name.rsplit("/", 1)
    if last == ".wh..wh..opq":
        shown[parent] = shown[parent].replace("opaque=false", "opaque=true")
    elif last.startswith(".wh."):
        shown[f"{parent}/{last[4:]}"] = f"whiteout 0000 0:0 {int(info.mtime)} nlink=1"
    elif info.type == tarfile.DIRTYPE:
        shown[name] = f"dir opaque=false {attributes} nlink=2"
    elif info.type == tarfile.LNKTYPE:
        target = "/" + info.linkname
        shown[name] = shown[target] = shown[target].replace("nlink=1", "nlink=2")
    elif info.type == tarfile.SYMTYPE:
        shown[name] = f"symlink {info.linkname} {attributes} nlink=1"
    elif info.type == tarfile.REGTYPE:
        xattrs = f" security.capability={CAPABILITY.hex()} user.note={NOTE.hex()}" if info.pax_headers else ""
        digest = f" sha256:{hashlib.sha256(content).hexdigest()}"
        shown[name] = f"file {len(content)} {attributes} nlink=1{xattrs}{digest}"
    else:
        device = "" if info.type == tarfile.FIFOTYPE else f" {info.devmajor}:{info.devminor}"
        shown[name] = f"{KINDS[info.type]}{device} {attributes} nlink=1"


add("bin", tarfile.DIRTYPE, 0o755)
add("bin/tool", mode=0o4755, pax_headers={
    "SCHILY.xattr.user.note": NOTE.decode(), "SCHILY.xattr.security.capability": CAPABILITY.decode(),
})
add("bin/link", tarfile.LNKTYPE, linkname="bin/tool")
add("bin/soft", tarfile.SYMTYPE, 0o777, linkname="../bin/tool")
add("data", tarfile.DIRTYPE, 0o755)
for file in ["data/chunked", "data/sparse", "data/starts-with-a-hole", "data/zeros"]:
    add(file)
add("dev", tarfile.DIRTYPE, 0o755)
add("dev/null", tarfile.CHRTYPE, 0o666, devmajor=1, devminor=3)
add("dev/disk", tarfile.BLKTYPE, 0o660, devmajor=259, devminor=70000, gid=6)
add("dev/pipe", tarfile.FIFOTYPE, 0o600)
add("etc", tarfile.DIRTYPE, 0o755)
add("etc/.wh.gone", mtime=1700000002)
add("etc/conf", uid=1000, gid=100, mtime=1700000001.25)
add("etc/empty")
add("etc/old", mtime=0)
add("implied/deeper/empty")
add("n\u00e4me with space")
add("opaque", tarfile.DIRTYPE, 0o1777)
add("opaque/.wh..wh..opq")
tar.close()

with open("layer.tar", "wb") as file:
    file.write(out.getvalue())
with open("layer.txt", "w", encoding="utf-8") as file:
    for name in sorted(shown, key=lambda name: name.encode().split(b"/")):
        file.write(f"{name} {shown[name]}\n")
