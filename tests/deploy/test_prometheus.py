"""Alerts and dashboards, with Debian's Prometheus and a live cluster."""

import json
import mmap
import re
import shutil
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
import yaml

import live
from chart import ROOT

PROMETHEUS = ROOT / "deploy/prometheus"
GRAFANA = ROOT / "deploy/grafana"
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
ALERT_NAMES = [rule["alert"] for rule in RULES if "alert" in rule]
BOARDS = ["cluster", "dataserver", "client"]

# With etcd only: not in this cluster.
ELSEWHERE = re.compile("simm_manager_(leader_known|is_leader)")
CLIENTS = ["client", "client-all"]  # simm-bench over tcp, and over all that there is
# The time that an alert looks back on, so that it clears within the test.
SHORT_LOOK = "[20s]"


def run(*command):
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_rules_and_example_are_well_formed(promtool):
    for what, file in (("rules", "alerts.yaml"), ("config", "prometheus.yaml")):
        code, said = run(promtool, "check", what, PROMETHEUS / file)
        assert code == 0 and "SUCCESS" in said, said


def test_each_alert_fires_and_clears(promtool):
    code, said = run(promtool, "test", "rules", ROOT / "tests/deploy/alerts_test.yaml")
    assert code == 0, said
    tested = yaml.safe_load((ROOT / "tests/deploy/alerts_test.yaml").read_text())["tests"]
    for name in ALERT_NAMES:
        cases = [c for t in tested for c in t.get("alert_rule_test", [])]
        cases = [c for c in cases if c["alertname"] == name]
        fires = [c["eval_time"] for c in cases if c["exp_alerts"]]
        clears = [c["eval_time"] for c in cases if not c["exp_alerts"]]
        assert fires and clears, f"{name} is not shown to fire and to clear"


def test_each_alert_has_a_section_in_the_runbook():
    readme = (ROOT / "deploy/README.md").read_text()
    for rule in RULES:
        if "alert" not in rule:
            continue
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["runbook"] == f"deploy/README.md#{rule['alert'].lower()}"
        assert f"\n### {rule['alert']}\n" in readme, f"deploy/README.md lacks {rule['alert']}"
    sections = re.findall(r"^### (Simm\w+)$", readme, re.M)
    assert sorted(sections) == sorted(ALERT_NAMES)


def test_dashboards_are_as_their_tables_make_them():
    code, said = run(sys.executable, GRAFANA / "make_dashboards.py", "--check")
    assert code == 0, said


def queries():
    for name in BOARDS:
        for panel in json.loads((GRAFANA / f"{name}.json").read_text())["panels"]:
            for target in panel["targets"]:
                yield name, panel["title"], target["expr"]


def test_dashboards_have_what_grafana_needs():
    for name in BOARDS:
        board = json.loads((GRAFANA / f"{name}.json").read_text())
        assert board["uid"] == f"simm-{name}" and board["schemaVersion"] >= 36
        numbers = [panel["id"] for panel in board["panels"]]
        assert len(set(numbers)) == len(numbers) >= 10
        cells = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
            here = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                    for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
            assert not cells & here, f"{panel['title']} lies over another panel"
            cells |= here
            assert panel["fieldConfig"]["defaults"]["unit"]


def flip_values(data: Path):
    """One bit in each 16 KiB of what is used of a pool's data file: whatever lies there, values of
    that size are hit."""
    with open(data, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for at in range(8 << 10, len(memory), 16 << 10):
            if memory[at] != 0:
                memory[at] ^= 1


class Prometheus:
    """A running Prometheus that scrapes a cluster every second."""

    def __init__(self, processes: live.Processes, cluster: live.Cluster, folder):
        (port,) = live.free_ports(1)
        self.address = f"127.0.0.1:{port}"
        # The alerts as they are, without the time that they wait.
        rules = json.loads(json.dumps(ALERTS))
        for group in rules["groups"]:
            group["interval"] = "1s"
            for rule in group["rules"]:
                rule.pop("for", None)
                rule["expr"] = rule["expr"].replace("[15m])", SHORT_LOOK + ")")
        (folder / "alerts.yaml").write_text(yaml.safe_dump(rules))
        config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        servers = [cluster.http[name] for name in cluster.names]
        targets = {
            "simm-manager": [cluster.http["manager"]],
            "simm-dataserver": servers,
            "simm-client": [cluster.http[name] for name in CLIENTS],
        }
        for job in config["scrape_configs"]:
            job["static_configs"][0]["targets"] = targets.get(job["job_name"], [])
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        binary = shutil.which("prometheus")
        assert binary, "prometheus is missing: deploy/install_packages.sh --deploy"
        processes.start(
            "prometheus", binary, f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.address}",
        )  # fmt: skip
        live.wait_for("Prometheus is ready", lambda: live.fetch(self.address, "/-/ready"))

    def query(self, expr: str) -> list[dict]:
        path = "/api/v1/query?" + urllib.parse.urlencode({"query": expr})
        return json.loads(live.fetch(self.address, path))["data"]["result"]

    def firing(self) -> set[str]:
        alerts = json.loads(live.fetch(self.address, "/api/v1/alerts"))["data"]["alerts"]
        return {a["labels"]["alertname"] for a in alerts if a["state"] == "firing"}


@pytest.fixture(scope="module")
def clients(cluster, tmp_path_factory):
    """Two programs that read and write all the time and show what their client library counts."""
    folder = tmp_path_factory.mktemp("clients")
    for name, port in zip(CLIENTS, live.free_ports(len(CLIENTS))):
        cluster.http[name] = f"127.0.0.1:{port}"
    with live.Processes(folder) as processes:
        for name, transport in zip(CLIENTS, ["tcp", "auto"]):
            processes.start(
                name, cluster.bin_dir / "simm-bench", "mixed", "--manager", cluster.manager,
                "--http", cluster.http[name], "--transport", transport, "--value-size", "16KiB",
                "--batch", "4", "--keys", "64", "--seconds", "10000", "--deadline-ms", "500",
                "--put-rate", "40", "--seed", str(len(name)), "--replace-fraction", "0.5",
            )  # fmt: skip
        for name in CLIENTS:
            live.wait_for(f"{name} shows its metrics", lambda n=name: cluster.metrics(n))
        yield processes


@pytest.fixture(scope="module")
def prometheus(cluster, clients, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    with live.Processes(folder) as processes:
        yield Prometheus(processes, cluster, folder)


def programs(cluster):
    return ["manager", *cluster.names, *CLIENTS]


def test_metrics_are_well_formed(cluster, clients, promtool):
    for name in programs(cluster):
        done = subprocess.run(
            [promtool, "check", "metrics"], input=cluster.metrics(name),
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0 and not done.stderr, f"{name}: {done.stderr}"


def shown_metrics(cluster):
    names = {"up"}
    for name in programs(cluster):
        names |= set(re.findall(r"^(\w+)[{ ]", cluster.metrics(name), re.M))
    return names


def metrics_in(expr):
    return set(re.findall(r"\b(?:simm|process)_\w+|\bup\b", re.sub(r'"[^"]*"', "", expr)))


def test_every_panel_has_data(cluster, prometheus):
    shown = shown_metrics(cluster)
    empty = []
    for round_ in range(2):  # twice, so that every rate has something to show
        cluster.bench("fill", "--value-size", "64KiB", "--transport", "tcp", "--seed", str(round_))
        cluster.bench("get", "--value-size", "64KiB", "--seconds", "1", "--transport", "tcp")
    wanted = [(board, title, expr) for board, title, expr in queries()]
    assert len(wanted) > 60

    def data_of(expr):
        filled = expr.replace("$__rate_interval", "20s").replace("$cluster", "main")
        return prometheus.query(filled.replace("$instance", ".*"))

    for board, title, expr in wanted:
        unknown = metrics_in(expr) - shown
        assert all(ELSEWHERE.fullmatch(name) for name in unknown), f"{board}/{title}: {unknown}"
        if unknown:
            data_of(expr)  # parsed all the same
            continue
        try:
            live.wait_for(f"data for {expr}", lambda e=expr: data_of(e), seconds=20)
        except AssertionError:
            empty.append(f"{board}/{title}: {expr}")
    assert not empty, "\n".join(empty)


# ---- the table of all metrics

TABLE = ROOT / "common/metrics/README.md"
SHOWS = {"manager": "manager", "server-0": "data server", "client-all": "client"}


def families(text):
    """name -> (type, label names, help) of one scrape."""
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M))
    helps = dict(re.findall(r"^# HELP (\w+) (.*)$", text, re.M))
    labels = {name: set() for name in kinds}
    for series, inside in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.M):
        name = series if series in kinds else re.sub("_(bucket|sum|count)$", "", series)
        labels[name] |= set(re.findall(r'(\w+)="', re.sub(r'\\\\.', "", inside))) - {"le"}
    return {name: (kinds[name], ", ".join(sorted(labels[name])), helps[name]) for name in kinds}


def rows_of(cluster):
    """The lines of the table, from what real processes show."""
    rows, shown_by = {}, {}
    for process, who in SHOWS.items():
        for name, facts in families(cluster.metrics(process)).items():
            assert rows.setdefault(name, facts) == facts, f"{name} differs between processes"
            shown_by.setdefault(name, []).append(who)
    return {
        f"| `{name}` | {kind} | {labels} | {', '.join(shown_by[name])} | {text.rstrip('.')} |"
        for name, (kind, labels, text) in rows.items()
    }


def test_the_table_of_metrics_is_what_processes_show(cluster, prometheus):
    written = set(re.findall(r"^\| `(?:simm|process)_.*$", TABLE.read_text(), re.M))
    shown = rows_of(cluster)
    missing = "\n".join(sorted(shown - written))
    assert not missing, f"{TABLE.name} lacks\n{missing}"
    stale = {row for row in written - shown if "with etcd" not in row}
    assert not stale, f"{TABLE.name} has what no process shows\n" + "\n".join(sorted(stale))


def test_series_are_few(cluster, prometheus):
    """A bound that no client, key or namespace can raise: what a process shows is counted."""
    for name in programs(cluster):
        lines = [x for x in cluster.metrics(name).splitlines() if not x.startswith("#")]
        assert len(lines) < 600, f"{name} shows {len(lines)} series"


def test_alerts_ask_for_metrics_that_exist(cluster, clients):
    shown = shown_metrics(cluster)
    for rule in RULES:
        names = {n for n in metrics_in(rule["expr"]) if not n.startswith("simm_hit_ratio")}
        unknown = {n for n in names if n not in shown and "unevictable" not in n}
        assert all(ELSEWHERE.fullmatch(name) for name in unknown), f"{rule}: {unknown}"


def test_a_paused_server_opens_a_clients_breaker_and_its_return_clears_it(cluster, prometheus):
    assert "SimmBreakerOpen" not in prometheus.firing()
    cluster.pause("server-0")
    try:
        live.wait_for("SimmBreakerOpen fires", lambda: "SimmBreakerOpen" in prometheus.firing())
    finally:
        cluster.resume("server-0")
    live.wait_for("SimmBreakerOpen clears", lambda: "SimmBreakerOpen" not in prometheus.firing())


def test_damaged_memory_is_told_and_clears_when_it_is_over(cluster, prometheus):
    """Bytes of the pools' data files are flipped, as faulty memory would do it, until a client has
    met one of them."""
    assert "SimmValuesCorrupt" not in prometheus.firing()

    def damage():
        for name in cluster.names:
            flip_values(cluster.pools[name])
        return sum(
            cluster.metric(name, "simm_client_validation_failures_total") for name in CLIENTS
        )

    live.wait_for("a client has met damaged bytes", damage)
    live.wait_for("SimmValuesCorrupt fires", lambda: "SimmValuesCorrupt" in prometheus.firing())
    live.wait_for("it clears", lambda: "SimmValuesCorrupt" not in prometheus.firing())


def test_a_killed_server_is_told_and_its_return_clears_it(cluster, prometheus):
    quiet = prometheus.firing()
    assert not quiet & {"SimmServerDown", "SimmServerDead", "SimmNoLeader"}
    cluster.kill("server-1")
    live.wait_for("SimmServerDown fires", lambda: "SimmServerDown" in prometheus.firing())
    live.wait_for("SimmServerDead fires", lambda: "SimmServerDead" in prometheus.firing())
    cluster.start_server("server-1")
    cluster.wait_ready("server-1")
    gone = {"SimmServerDown", "SimmServerDead", "SimmMapEpochsDiverge"}
    live.wait_for("the alerts clear", lambda: not gone & prometheus.firing())


def test_a_frozen_map_is_told_and_its_thaw_clears_it(cluster, prometheus):
    """Both servers at once: more than a third, so none is declared dead."""
    for name in cluster.names:
        cluster.kill(name)
    live.wait_for("SimmMapFrozen fires", lambda: "SimmMapFrozen" in prometheus.firing())
    for name in cluster.names:
        cluster.start_server(name)
        cluster.wait_ready(name)
    live.wait_for("SimmMapFrozen clears", lambda: "SimmMapFrozen" not in prometheus.firing())


def test_a_manager_that_is_away_is_told_and_its_return_clears_it(cluster, prometheus):
    cluster.stop("manager")
    live.wait_for("SimmNoLeader fires", lambda: "SimmNoLeader" in prometheus.firing())
    cluster.start_manager()
    live.wait_for("SimmNoLeader clears", lambda: "SimmNoLeader" not in prometheus.firing())
