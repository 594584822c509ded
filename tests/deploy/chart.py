"""Renders the chart with the real helm and looks into what comes out."""

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/simm"
KUBE_VERSION = "1.31.0"

# The value sets of the tests: name -> values.
CASES = {
    "defaults": {},
    "daemonset": {"dataserver": {"kind": "DaemonSet", "memory": "1.5TiB"}},
    "etcd": {
        "manager": {
            "replicas": 3,
            "etcd": {"endpoints": ["http://etcd-0.etcd:2379", "http://etcd-1.etcd:2380"]},
        }
    },
    "rdma": {
        "dataserver": {
            "kind": "DaemonSet",
            "memory": "512GiB",
            "transport": "verbs",
            "rdma": {"enabled": True, "count": 2, "devices": ["mlx5_0", "mlx5_1"], "gidIndex": 3},
            "hugepages": {"enabled": True},
            "pool": {"hostPath": {"path": "/dev/hugepages/simm"}},
            "hostNetwork": True,
        }
    },
    "rdma-without-root": {"dataserver": {"rdma": {"enabled": True, "runAsRoot": False}}},
    "zones": {
        "dataserver": {
            "zones": [{"name": "rack-1"}, {"name": "Rack_2", "replicas": 5}],
            "sharedMemory": {"enabled": True},
        }
    },
    "zone-label": {"dataserver": {"zoneFromPodLabel": "topology.kubernetes.io/zone"}},
    "claim": {"dataserver": {"pool": {"kind": "claim", "claim": {"storageClass": "local-shm"}}}},
    "empty-dir": {
        "dataserver": {"pool": {"kind": "emptyDir"}, "memory": "700MiB", "preStopSeconds": 2},
        "networkPolicy": {"enabled": False},
    },
    "huge-empty-dir": {
        "dataserver": {
            "pool": {"kind": "emptyDir"},
            "hugepages": {"enabled": True, "size": "1Gi"},
            "memory": "16GiB",
        }
    },
    "anonymous": {
        "dataserver": {
            "pool": {"kind": "anonymous"},
            "hugepages": {"enabled": True},
            "resources": {"limits": {"memory": "4Gi", "cpu": 8}},
            "options": {"threads": 4, "verify-commits": True},
        },
        "manager": {
            "persistence": {"existingClaim": "mine"},
            "options": {"dead-ms": 20000},
            "preStopSeconds": 0,
        },
    },
    "everything": {
        "fullnameOverride": "kv",
        "commonLabels": {"team": "serving"},
        "commonAnnotations": {"owner": "me"},
        "image": {
            "registry": "registry.example.com/team/",
            "tag": "sha256:" + "0" * 64,
            "pullPolicy": "Always",
            "pullSecrets": ["pull"],
        },
        "listenHost": "[::]",
        "log": {"level": "debug", "json": False},
        "manager": {
            "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
            "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"role": "control"},
            "podLabels": {"x": "y"},
            "podAnnotations": {"x": "y"},
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
            "priorityClassName": "high",
        },
        "dataserver": {
            "ports": {"grpc": 31003, "data": 31002, "http": 31082},
            "affinity": {"nodeAffinity": {}},
            "nodeSelector": {"role": "memory"},
            "runtimeClassName": "fast",
            "extraEnv": [{"name": "TZ", "value": "UTC"}],
        },
        "serviceAccount": {"name": "account", "annotations": {"a": "b"}},
        "networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
        "monitoring": {
            "monitors": True,
            "rules": True,
            "dashboards": True,
            "labels": {"release": "prometheus"},
        },
    },
    "no-account": {"serviceAccount": {"create": False}},
}


def helm_path() -> str:
    path = os.environ.get("SIMM_HELM") or shutil.which("helm")
    if not path:
        raise RuntimeError("helm is missing: `tests/run.sh deploy` builds it, or set SIMM_HELM")
    return path


def helm(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [helm_path(), *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def template(values: dict, release="simm", namespace="cache") -> subprocess.CompletedProcess:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values, file)
        file.flush()
        return helm(
            "template", release, str(CHART), "--namespace", namespace,
            "--kube-version", KUBE_VERSION, "--values", file.name,
        )  # fmt: skip


@functools.cache
def _render(values_json: str, release: str, namespace: str) -> str:
    done = template(json.loads(values_json), release, namespace)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


def render(values: dict, release="simm", namespace="cache") -> list[dict]:
    """The objects of a release."""
    text = _render(json.dumps(values), release, namespace)
    return [doc for doc in yaml.safe_load_all(text) if doc]


def workloads(docs):
    return [doc for doc in docs if doc["kind"] in ("StatefulSet", "DaemonSet", "Deployment")]


def part(docs, name: str):
    """The workloads of one part."""
    return [
        doc
        for doc in workloads(docs)
        if doc["metadata"]["labels"]["app.kubernetes.io/component"] == name
    ]


def pod_specs(docs):
    for doc in docs:
        if doc["kind"] == "Pod":
            yield doc["spec"]
        elif "template" in doc.get("spec", {}):
            yield doc["spec"]["template"]["spec"]


def quantity(text) -> int:
    """Bytes of a Kubernetes quantity."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()
    power = {"": 0, "Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4}[unit]
    return int(float(number) * 1024**power)


def environment(container: dict, pod: str, node: str, labels: dict) -> dict[str, str]:
    """The environment as the kubelet would make it."""
    made: dict[str, str] = {}
    for entry in container.get("env", []):
        if "value" in entry:
            value = re.sub(r"\$\((\w+)\)", lambda m: made.get(m[1], m[0]), entry["value"])
        else:
            path = entry["valueFrom"]["fieldRef"]["fieldPath"]
            label = re.fullmatch(r"metadata\.labels\['(.*)'\]", path)
            fields = {"metadata.name": pod, "spec.nodeName": node, "status.podIP": "10.1.2.3"}
            value = labels.get(label[1], "") if label else fields[path]
        made[entry["name"]] = value
    return made
