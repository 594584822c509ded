"""The Helm chart, rendered by helm and held against Kubernetes' schemas and the real programs."""

import json
import re
import subprocess

import kubernetes_validate
import pytest
import yaml

import chart
from chart import CASES

every_case = pytest.mark.parametrize("case", CASES)


def is_built_in(doc):
    return doc["apiVersion"] != "monitoring.coreos.com/v1"


@every_case
@pytest.mark.parametrize("version", ["1.25", "1.31", "1.37"])
def test_objects_fit_kubernetes_schemas(case, version):
    docs = [doc for doc in chart.render(CASES[case]) if is_built_in(doc)]
    assert len(docs) >= 9
    for doc in docs:
        if version == "1.25":  # rendered for a newer one, which knows this field
            doc = json.loads(json.dumps(doc))
            doc.get("spec", {}).pop("persistentVolumeClaimRetentionPolicy", None)
        kubernetes_validate.validate(doc, version, strict=True)


def test_schemas_do_bite():
    doc = chart.render({})[0]
    doc["metadata"]["nmae"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(doc, "1.31", strict=True)


def run_print_config(bin_dir, tmp_path, docs, workload):
    """The program of a workload's container with the container's file, environment, arguments."""
    container = workload["spec"]["template"]["spec"]["containers"][0]
    volumes = {v["name"]: v for v in workload["spec"]["template"]["spec"]["volumes"]}
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    name = volumes[mounts["/etc/simm"]]["configMap"]["name"]
    config = next(d for d in docs if d["kind"] == "ConfigMap" and d["metadata"]["name"] == name)
    for file, text in config["data"].items():
        (tmp_path / file).write_text(text)
    arguments = [a.replace("/etc/simm/", f"{tmp_path}/") for a in container["args"]]
    labels = {"topology.kubernetes.io/zone": "rack-9"}
    environment = chart.environment(container, "pod-0", "node-7", labels)
    done = subprocess.run(
        [bin_dir / f"simm-{container['name']}", *arguments, "--print-config"],
        env=environment, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    return done, container, mounts


def in_force(output):
    """option -> (value, where it came from)"""
    lines = (line.rsplit(" # ", 1) for line in output.splitlines())
    return {
        text.split(":", 1)[0]: (text.split(":", 1)[1].strip(), source.strip())
        for text, source in lines
    }


@every_case
def test_programs_take_what_the_chart_gives_them(case, bin_dir, tmp_path):
    docs = chart.render(CASES[case])
    for workload in chart.workloads(docs):
        done, container, mounts = run_print_config(bin_dir, tmp_path, docs, workload)
        assert done.returncode == 0, done.stderr
        assert "unknown" not in done.stderr and "warning" not in done.stderr.lower(), done.stderr
        options = in_force(done.stdout)
        if container["name"] == "manager":
            if case == "etcd":
                name = "pod-0.simm-manager-pods.cache.svc.cluster.local"
                assert options["advertise"] == (name, "env SIMM_ADVERTISE")
                assert "etcd-1.etcd:2380" in options["etcd"][0]
                assert options["etcd-prefix"][0] == "/simm/cache/simm"
            else:
                assert options["state"][0] in mounts
            continue
        kind = workload["kind"]
        expected = "pod-0" if kind == "StatefulSet" else "node-7"
        assert options["name"] == (expected, "env SIMM_NAME")
        assert options["advertise"][0] == "10.1.2.3"
        pool = options["pool"][0].strip('"')
        anonymous = "/pool" not in mounts
        assert pool == ("" if anonymous else f"/pool/{expected}")


def test_zones_reach_the_programs(bin_dir, tmp_path):
    zones = {}
    for case in ("zones", "zone-label", "defaults"):
        docs = chart.render(CASES[case])
        for workload in chart.part(docs, "dataserver"):
            done, _, _ = run_print_config(bin_dir, tmp_path, docs, workload)
            selector = workload["spec"]["template"]["spec"].get("nodeSelector", {})
            zone = in_force(done.stdout)["zone"][0].strip('"')
            zones[workload["metadata"]["name"], case] = (zone, selector)
    label = "topology.kubernetes.io/zone"
    assert zones == {
        ("simm-dataserver-rack-1", "zones"): ("rack-1", {label: "rack-1"}),
        ("simm-dataserver-rack-2", "zones"): ("Rack_2", {label: "Rack_2"}),
        ("simm-dataserver", "zone-label"): ("rack-9", {}),
        ("simm-dataserver", "defaults"): ("", {}),
    }


def test_ports_agree(bin_dir, tmp_path):
    """Container ports, probes, services and what the programs listen on are the same."""
    docs = chart.render(CASES["everything"])
    services = {d["metadata"]["name"]: d for d in docs if d["kind"] == "Service"}
    for workload in chart.workloads(docs):
        done, container, _ = run_print_config(bin_dir, tmp_path, docs, workload)
        options = in_force(done.stdout)
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        listening = {"grpc": "listen", "data": "data-listen", "http": "http"}
        for name, port in ports.items():
            assert options[listening[name]][0].strip('"') == f"[::]:{port}"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"]["port"] == "http"
        service = services[f"kv-{container['name']}"]
        assert {p["name"]: p["port"] for p in service["spec"]["ports"]} == ports


def container_limit(values):
    (workload,) = chart.part(chart.render(values), "dataserver")
    container = workload["spec"]["template"]["spec"]["containers"][0]
    return container["resources"]


@pytest.mark.parametrize("memory", ["64MiB", "8GiB", "8Gi", "1.5TiB"])
def test_pool_and_bookkeeping_fit_the_limit(memory):
    resources = container_limit({"dataserver": {"memory": memory}})
    pool = chart.quantity(memory.removesuffix("B"))
    limit = chart.quantity(resources["limits"]["memory"])
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert pool + (192 << 20) + pool // 100 < limit < 1.03 * pool + (256 << 20)


def test_huge_pages_are_accounted_apart():
    for size, page in (("2Mi", 2 << 20), ("1Gi", 1 << 30)):
        resources = container_limit(
            {
                "dataserver": {
                    "memory": "16GiB",
                    "hugepages": {"enabled": True, "size": size},
                    "pool": {"kind": "emptyDir"},
                }
            }
        )
        huge = chart.quantity(resources["limits"][f"hugepages-{size}"])
        assert huge % page == 0 and (16 << 30) + page <= huge <= (16 << 30) + 2 * page
        assert resources["requests"].items() >= {f"hugepages-{size}": f"{huge >> 20}Mi"}.items()
        assert chart.quantity(resources["limits"]["memory"]) < 1 << 30


def test_bookkeeping_of_a_full_server_stays_below_what_the_chart_reckons(bin_dir, tmp_path):
    import live

    memory, mean = "96MiB", "1KiB"
    limit = container_limit({"dataserver": {"memory": memory, "meanValue": mean}})["limits"]
    allowed = chart.quantity(limit["memory"]) - chart.quantity(memory.removesuffix("B"))
    arguments = ["--memory", memory, "--mean-value", mean]
    with live.Cluster(bin_dir, tmp_path, servers=1, server_arguments=arguments) as cluster:
        # 512 B a value: twice as many values as the index is sized for.
        cluster.bench("fill", "--value-size", "512")
        status = (cluster.proc("server-0") / "status").read_text()
        anonymous = int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) << 10
        assert cluster.metric("server-0", "simm_pool_entries") > 80_000
    assert anonymous < allowed, f"{anonymous} B of bookkeeping, {allowed} B are reckoned"


WRONG = [
    ({"dataserver": {"kind": "Deployment"}}, ["/dataserver/kind", "Deployment", "DaemonSet"]),
    ({"dataserver": {"kinds": 1}}, ["/dataserver", "kinds"]),
    ({"dataserver": {"memory": "lots"}}, ["/dataserver/memory", "lots", "GiB"]),
    ({"dataserver": {"memory": "10KiB"}}, ["dataserver.memory", "10KiB", "meanValue"]),
    ({"dataserver": {"rdma": {"enabled": "yes"}}}, ["/dataserver/rdma/enabled", "boolean"]),
    ({"dataserver": {"ports": {"http": 80}}}, ["/dataserver/ports/http", "80", "1,024"]),
    ({"dataserver": {"ports": {"http": 30002}}}, ["dataserver.ports", "30002", "differ"]),
    ({"dataserver": {"options": {"memry": 1}}}, ["dataserver.options.memry", "'1'", "threads"]),
    ({"manager": {"options": {"dead": 1}}}, ["manager.options.dead", "'1'", "dead-ms"]),
    ({"manager": {"replicas": 2}}, ["manager.replicas", "2", "1, and with etcd also 3, 5"]),
    ({"manager": {"replicas": 3}}, ["manager.replicas", "3", "manager.etcd.endpoints"]),
    ({"manager": {"etcd": {"endpoints": ["etcd"]}}}, ["/manager/etcd/endpoints", "etcd", "http"]),
    (
        {"dataserver": {"resources": {"limits": {"memory": "8Gi"}}}},
        ["dataserver.resources.limits.memory", "8Gi", "8512Mi"],
    ),
    (
        {"dataserver": {"kind": "DaemonSet", "pool": {"kind": "claim"}}},
        ["dataserver.pool.kind", "claim", "hostPath"],
    ),
    ({"dataserver": {"pool": {"kind": "claim"}}}, ["dataserver.pool.claim.storageClass", "''"]),
    (
        {"dataserver": {"hugepages": {"enabled": True}}},
        ["dataserver.pool.hostPath.path", "/dev/shm/simm", "hugetlbfs"],
    ),
    ({"dataserver": {"transport": "verbs"}}, ["dataserver.transport", "verbs", "auto, shm, tcp"]),
    (
        {"dataserver": {"zones": [{"name": "a"}, {"name": "a"}]}},
        ["dataserver.zones", "'a'", "twice"],
    ),
    ({"dataserver": {"zones": [{"name": "a" * 40}]}}, ["dataserver.zones", "aaaa", "52"]),
    ({"listenHost": "1.2.3.4"}, ["/listenHost", "1.2.3.4", "0.0.0.0"]),
    ({"log": {"level": "loud"}}, ["/log/level", "loud", "debug|info"]),
]


@pytest.mark.parametrize("values, said", WRONG, ids=[json.dumps(v)[:60] for v, _ in WRONG])
def test_wrong_values_are_named_with_what_is_allowed(values, said):
    done = chart.template(values)
    assert done.returncode != 0
    for word in said:
        assert word in done.stderr, done.stderr


def options_of(bin_dir, program):
    said = subprocess.run([bin_dir / program, "--help"], capture_output=True, text=True, check=True)
    return set(re.findall(r"^  --([a-z-]+) ", said.stdout, re.M)) - {
        "config", "print-config", "version", "help", "ready-file",
    }  # fmt: skip


@pytest.mark.parametrize("part", ["manager", "dataserver"])
def test_every_option_of_the_programs_can_be_set(part, bin_dir):
    """An option is either set by the chart or allowed in `options`; none is left behind."""
    error = chart.template({part: {"options": {"x": 1}}}).stderr
    allowed = set(re.search(r"allowed: (.*)", error)[1].split(", "))
    own = set()
    for case in CASES.values():
        docs = chart.render(case)
        for config in (d for d in docs if d["kind"] == "ConfigMap"):
            own |= set(yaml.safe_load(config["data"].get(f"{part}.yaml", "{}")))
        for workload in chart.part(docs, part):
            for entry in workload["spec"]["template"]["spec"]["containers"][0].get("env", []):
                if entry["name"].startswith("SIMM_"):
                    own.add(entry["name"].removeprefix("SIMM_").lower().replace("_", "-"))
    assert allowed | own == options_of(bin_dir, f"simm-{part}")


def test_values_and_schema_have_the_same_keys():
    values = yaml.safe_load((chart.CHART / "values.yaml").read_text())
    schema = json.loads((chart.CHART / "values.schema.json").read_text())

    def compare(value, node, path):
        if "properties" not in node:
            return
        assert node["additionalProperties"] is False, path
        assert set(value) == set(node["properties"]) - {"global"}, path
        for key, child in node["properties"].items():
            if isinstance(value.get(key), dict):
                compare(value[key], child, f"{path}.{key}")

    compare(values, schema, "values")

