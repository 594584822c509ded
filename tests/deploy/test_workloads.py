"""What the chart promises about its objects: names, rights, selectors, pools that stay."""

import pytest

import chart
from chart import CASES

every_case = pytest.mark.parametrize("case", CASES)
LONG = "r" * 53  # the longest release name that Helm takes


@pytest.mark.parametrize("release", ["simm", "a", "cache-simm-eu", LONG])
@every_case
def test_any_name_and_namespace(case, release):
    if release == LONG and case == "zones":
        said = chart.template(CASES[case], release).stderr
        assert "longer than the 52 characters" in said
        return
    docs = chart.render(CASES[case], release, "some-namespace")
    seen = set()
    for doc in docs:
        name = doc["metadata"]["name"]
        assert doc["metadata"]["namespace"] == "some-namespace"
        assert len(name) <= (52 if doc["kind"] == "StatefulSet" else 63)
        assert (doc["kind"], name) not in seen
        seen.add((doc["kind"], name))
    # Nothing in it knows another namespace.
    assert "svc.cluster.local" in str(docs) and ".default." not in str(docs)


def test_two_releases_of_one_namespace_do_not_meet():
    def names(release):
        return {(d["kind"], d["metadata"]["name"]) for d in chart.render({}, release)}

    assert not names("one") & names("two")
    (a,), (b,) = (chart.part(chart.render({}, r), "dataserver") for r in ("one", "two"))
    assert host_paths(a) != host_paths(b)


def host_paths(workload):
    volumes = workload["spec"]["template"]["spec"]["volumes"]
    return {v["hostPath"]["path"] for v in volumes if "hostPath" in v}


@every_case
def test_pods_have_no_needless_rights(case):
    docs = chart.render(CASES[case])
    assert not any(doc["kind"].endswith(("Role", "RoleBinding")) for doc in docs)
    pods = list(chart.pod_specs(docs))
    assert len(pods) >= 3
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False  # SIMM_..._PORT would be taken for options
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"] + pod.get("initContainers", []):
            security = container["securityContext"]
            rights = security["capabilities"].get("add", [])
            assert security["capabilities"]["drop"] == ["ALL"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert "memory" in container["resources"]["limits"]
            as_root = security["runAsUser"] == 0
            assert as_root != security["runAsNonRoot"]
            if container in pod["containers"] and case != "rdma":
                assert not as_root and rights == []
            elif container in pod["containers"]:
                assert rights == (["IPC_LOCK"] if as_root else [])
            else:
                assert rights == ["CHOWN"]


@every_case
def test_selectors_select(case):
    docs = chart.render(CASES[case])
    pods = {d["metadata"]["name"]: d["spec"]["template"] for d in chart.workloads(docs)}
    all_labels = [p["metadata"]["labels"] for p in pods.values()]

    def matches(selector, labels):
        return selector.items() <= labels.items()

    for workload in chart.workloads(docs):
        # Its own pods, and only those, or two StatefulSets would fight over them.
        selector = workload["spec"]["selector"]["matchLabels"]
        own = pods[workload["metadata"]["name"]]["metadata"]["labels"]
        assert [x for x in all_labels if matches(selector, x)] == [own]
    for doc in docs:
        spec = doc.get("spec", {})
        if doc["kind"] == "Service":
            selector = spec["selector"]
        elif doc["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            selector = spec["selector"]["matchLabels"]
        elif doc["kind"] == "NetworkPolicy":
            selector = spec["podSelector"]["matchLabels"]
        else:
            continue
        component = doc["metadata"]["labels"]["app.kubernetes.io/component"]
        chosen = [x for x in all_labels if matches(selector, x)]
        assert chosen
        assert {x["app.kubernetes.io/component"] for x in chosen} == {component}


def test_network_policies_let_through_what_is_needed_and_no_more():
    docs = chart.render(CASES["etcd"])
    policies = {d["metadata"]["name"]: d["spec"] for d in docs if d["kind"] == "NetworkPolicy"}
    own = {"app.kubernetes.io/name": "simm", "app.kubernetes.io/instance": "simm"}
    own_pods = {"podSelector": {"matchLabels": own}}
    for name, ports in (("manager", ["grpc"]), ("dataserver", ["grpc", "data"])):
        spec = policies[f"simm-{name}"]
        assert set(spec["policyTypes"]) == {"Ingress", "Egress"}
        data, metrics = spec["ingress"]
        assert [p["port"] for p in data["ports"]] == ports
        assert own_pods in data["from"]
        assert [p["port"] for p in metrics["ports"]] == ["http"]
        assert {"to": [own_pods]} in spec["egress"]
    etcd = policies["simm-manager"]["egress"][-1]
    assert [p["port"] for p in etcd["ports"]] == [2379, 2380]
    closed = chart.render({"networkPolicy": {"clients": [], "metrics": []}})
    for spec in (d["spec"] for d in closed if d["kind"] == "NetworkPolicy"):
        assert [rule["from"] for rule in spec["ingress"]] == [[own_pods]]


@pytest.mark.parametrize("kind", ["StatefulSet", "DaemonSet"])
def test_the_pool_is_found_again_by_the_next_pod(kind):
    """The path on the node depends on nothing that changes when a pod is deleted and made anew."""
    (workload,) = chart.part(chart.render({"dataserver": {"kind": kind}}), "dataserver")
    pod = workload["spec"]["template"]["spec"]
    (path,) = host_paths(workload)
    assert path == "/dev/shm/simm/cache.simm"
    container = pod["containers"][0]
    places = set()
    for pod_name in ("simm-dataserver-abcde", "simm-dataserver-fghij"):
        if kind == "StatefulSet":
            pod_name = "simm-dataserver-0"
        places.add(chart.environment(container, pod_name, "node-1", {})["SIMM_POOL"])
    assert len(places) == 1
    # Two servers on one node do not share it.
    other = chart.environment(container, "simm-dataserver-1", "node-2", {})["SIMM_POOL"]
    assert other not in places


def test_claims_are_of_the_named_class_and_stay():
    (workload,) = chart.part(chart.render(CASES["claim"]), "dataserver")
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "local-shm"
    assert "persistentVolumeClaimRetentionPolicy" not in workload["spec"]
    (manager,) = chart.part(chart.render({}), "manager")
    assert manager["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"


def test_a_change_of_the_configuration_restarts_pods_and_a_new_chart_does_not():
    def template(values):
        return chart.part(chart.render(values), "dataserver")[0]["spec"]["template"]

    key = "simm/config"
    before, after = template({}), template({"log": {"level": "debug"}})
    assert before["metadata"]["annotations"][key] != after["metadata"]["annotations"][key]
    assert not any("version" in label or "chart" in label for label in before["metadata"]["labels"])


def test_etcd_needs_no_volume_and_servers_know_all_managers():
    docs = chart.render(CASES["etcd"])
    (manager,) = chart.part(docs, "manager")
    assert manager["spec"]["replicas"] == 3 and "volumeClaimTemplates" not in manager["spec"]
    configs = {d["metadata"]["name"]: d["data"] for d in docs if d["kind"] == "ConfigMap"}
    config = configs["simm-dataserver"]["dataserver.yaml"]
    for i in range(3):
        assert f"simm-manager-{i}.simm-manager-pods.cache.svc.cluster.local:30001" in config
    # And each says of itself what the others call it: its pod's name, not its address or host.
    env = manager["spec"]["template"]["spec"]["containers"][0]["env"]
    values = {e["name"]: e.get("value") or e["valueFrom"]["fieldRef"]["fieldPath"] for e in env}
    assert list(values) == ["POD_NAME", "SIMM_ADVERTISE"]
    assert values["POD_NAME"] == "metadata.name"
    domain = "simm-manager-pods.cache.svc.cluster.local"
    assert values["SIMM_ADVERTISE"] == f"$(POD_NAME).{domain}"
    (pods,) = [
        d for d in docs if d["kind"] == "Service" and d["metadata"]["name"] == "simm-manager-pods"
    ]
    # A manager that is not ready yet must be found by the others too.
    assert pods["spec"]["clusterIP"] == "None" and pods["spec"]["publishNotReadyAddresses"]
    assert manager["spec"]["serviceName"] == "simm-manager-pods"
    assert "/simm/cache/simm" in configs["simm-manager"]["manager.yaml"]


def test_the_start_may_take_as_long_as_the_pool_needs():
    def seconds(memory):
        (workload,) = chart.part(chart.render({"dataserver": {"memory": memory}}), "dataserver")
        probe = workload["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
        return probe["failureThreshold"] * probe["periodSeconds"]

    assert 60 <= seconds("1GiB") <= 90
    assert seconds("2TiB") >= 2048


def test_helm_finds_nothing_to_complain_about():
    done = chart.helm("lint", "--strict", str(chart.CHART), "--kube-version", chart.KUBE_VERSION)
    assert done.returncode == 0, done.stdout + done.stderr
