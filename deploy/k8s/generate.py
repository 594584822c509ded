#!/usr/bin/env python3
"""Writes the plain manifests of this folder from the Helm chart; --check only compares.

Usage: deploy/k8s/generate.py [--check]      needs helm (SIMM_HELM or on the path) and PyYAML
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parent
CHART = FOLDER.parent / "helm/simm"
NAMESPACE = "simm"
# Of Helm, not of the cluster.
HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")
# file -> (what it is, values)
MANIFESTS = {
    "simm.yaml": ("One manager, three data servers; pools in /dev/shm/simm of the nodes.", []),
    "simm-rdma.yaml": (
        "One manager, a data server on each node labelled simm=true; RDMA on the nodes' network,"
        "\n# huge pages on a hugetlbfs at /dev/hugepages.",
        [
            "dataserver.kind=DaemonSet",
            "dataserver.memory=64GiB",
            "dataserver.nodeSelector.simm=true",
            "dataserver.rdma.enabled=true",
            "dataserver.hugepages.enabled=true",
            "dataserver.pool.hostPath.path=/dev/hugepages/simm",
            "dataserver.hostNetwork=true",
        ],
    ),
    "simm-etcd.yaml": (
        "Three managers on an etcd at http://etcd.etcd.svc.cluster.local:2379.",
        [
            "manager.replicas=3",
            "manager.etcd.endpoints={http://etcd.etcd.svc.cluster.local:2379}",
        ],
    ),
}


def namespace() -> dict:
    """hostPath volumes and the host's network are refused by Kubernetes' stricter levels."""
    level = {"pod-security.kubernetes.io/enforce": "privileged"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": level},
    }


def render(settings: list[str]) -> list[dict]:
    command = [os.environ.get("SIMM_HELM", "helm"), "template", "simm", str(CHART)]
    command += ["--namespace", NAMESPACE, "--kube-version", "1.31.0", "--no-hooks"]
    for setting in settings:
        how = "--set-string" if setting.startswith("dataserver.nodeSelector") else "--set"
        command += [how, setting]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"helm template failed: {done.stderr}")
    docs = [doc for doc in yaml.safe_load_all(done.stdout) if doc]
    for doc in docs:
        for label in HELM_LABELS:
            doc["metadata"]["labels"].pop(label, None)
    return [namespace(), *docs]


class Dumper(yaml.SafeDumper):
    """Blocks of text as such, no aliases, lists indented."""

    def ignore_aliases(self, data):
        return True

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)


def text_of(dumper, text):
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def mapping_of(dumper, mapping):
    """Short leaves stay on one line, files in ConfigMaps are blocks."""
    node = dumper.represent_mapping("tag:yaml.org,2002:map", mapping)
    if len(str(mapping)) > 64 or any("\n" in str(value) for value in mapping.values()):
        node.flow_style = False
    return node


Dumper.add_representer(str, text_of)
Dumper.add_representer(dict, mapping_of)
# Leaves on one line.
STYLE = {"default_flow_style": None, "sort_keys": False, "width": 95}


def write(what: str, settings: list[str]) -> str:
    how = "".join(f"\n#   --set {setting}" for setting in settings)
    head = f"# {what}\n# Made by deploy/k8s/generate.py from deploy/helm/simm; change it there."
    body = yaml.dump_all(render(settings), Dumper=Dumper, **STYLE)
    return head + how + "\n---\n" + body


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a file is not as made now")
    check = parser.parse_args().check
    differ = []
    for name, (what, settings) in MANIFESTS.items():
        path = FOLDER / name
        made = write(what, settings)
        if path.exists() and path.read_text() == made:
            continue
        differ.append(name)
        if not check:
            path.write_text(made)
    if check and differ:
        print(f"not as the chart makes them: {', '.join(differ)}; run deploy/k8s/generate.py")
        return 1
    print(f"{len(MANIFESTS)} manifests, {len(differ)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
