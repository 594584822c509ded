"""deploy/k8s is what the chart makes, and fits Kubernetes' schemas."""

import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

import chart

K8S = chart.ROOT / "deploy/k8s"
MANIFESTS = sorted(K8S.glob("*.yaml"))


def test_manifests_are_as_the_chart_makes_them():
    done = subprocess.run(
        [sys.executable, K8S / "generate.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifests_fit_kubernetes_schemas_and_are_complete(path):
    docs = list(yaml.safe_load_all(path.read_text()))
    for doc in docs:
        kubernetes_validate.validate(doc, "1.31", strict=True)
    kinds = [doc["kind"] for doc in docs]
    assert kinds[0] == "Namespace" and "Pod" not in kinds
    assert {"ConfigMap", "Service", "ServiceAccount", "NetworkPolicy"} <= set(kinds)
    text = path.read_text()
    assert "helm" not in text.replace("deploy/helm/simm", "").lower()
