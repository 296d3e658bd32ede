"""kubernetes.py: checks the files of dist/kubernetes without a cluster: they parse, and what they name is there."""

import pathlib
import re
import sys

import yaml

TOP = pathlib.Path(__file__).resolve().parent.parent
BASE = TOP / "dist/kubernetes"
SOCKET = "/run/containerd-stargz-grpc/containerd-stargz-grpc.sock"


def check(holds, what):
    if not holds:
        sys.exit(f"dist/kubernetes: {what}")


def main():
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    listed = set(kustomization["resources"])
    found = {file.name for file in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    check(listed == found, f"kustomization.yaml lists {listed}, there are {found}")
    objects = [o for name in sorted(listed) for o in yaml.safe_load_all((BASE / name).read_text())]
    check({o["kind"] for o in objects} == {"Namespace", "DaemonSet"}, "other objects than a namespace and a DaemonSet")
    daemons = next(o for o in objects if o["kind"] == "DaemonSet")
    spaces = [o["metadata"]["name"] for o in objects if o["kind"] == "Namespace"]
    check(spaces == [kustomization["namespace"]], "the namespace is not the one that is made")

    spec = daemons["spec"]["template"]["spec"]
    labels = daemons["spec"]["template"]["metadata"]["labels"].items()
    check(daemons["spec"]["selector"]["matchLabels"].items() <= labels, "the selector does not select its pods")
    (container,) = spec["containers"]
    check(container["image"] in {i["name"] for i in kustomization["images"]}, "the image has no name to replace")
    volumes = {v["name"]: v for v in spec["volumes"]}
    mounts = {m["name"]: m for m in container["volumeMounts"]}
    check(volumes.keys() == mounts.keys(), "volumes and mounts are not the same")
    check(mounts["root"]["mountPropagation"] == "Bidirectional", "mounts would not reach the node")
    for name, volume in volumes.items():
        if "hostPath" in volume:
            check(volume["hostPath"]["path"] == mounts[name]["mountPath"], f"{name}: the node has it elsewhere")
    maps = {m["name"]: m["files"] for m in kustomization["configMapGenerator"]}
    check(volumes["config"]["configMap"]["name"] in maps, "the configuration is not made")
    for file in sum(maps.values(), []):
        check((BASE / file).is_file(), f"no {file}")
    check(f"--address={SOCKET}" in container["args"], "another socket than that of containerd")
    for file in ("containerd-1.toml", "containerd-2.toml"):
        check(f'"{SOCKET}"' in (BASE / file).read_text(), f"{file}: another socket")
    version = re.search(r'^version = "(.*)"', (TOP / "Cargo.toml").read_text(), re.M)[1]
    check(kustomization["images"][0]["newTag"] == version, f"the image is not that of version {version}")


main()
