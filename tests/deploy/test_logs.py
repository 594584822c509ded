"""The log of real processes: one JSON object a line, ids that meet, nothing about a miss."""

import json
import os
import re
import subprocess

import live


def test_a_slow_get_is_found_in_both_logs_by_session_and_request(bin_dir, tmp_path):
    """Gets of 32 MiB a call over tcp take longer than 1 ms on any machine."""
    arguments = ["--memory", "96MiB", "--log-json", "--slow-op-ms", "1"]
    with live.Cluster(bin_dir, tmp_path, servers=1, server_arguments=arguments) as cluster:
        done = subprocess.run(
            [bin_dir / "simm-bench", "get", "--manager", cluster.manager, "--transport", "tcp",
             "--value-size", "1MiB", "--batch", "32", "--keys", "32", "--seconds", "1"],
            capture_output=True, text=True, check=True, timeout=60,
            env={**os.environ, "SIMM_SLOW_OP_MS": "1"},
        )  # fmt: skip
        boot = cluster.ctl("--json", "nodes")
    lines = [json.loads(line) for line in cluster.log("server-0").splitlines()]
    for line in lines:
        assert set(line) >= {"ts", "level", "component", "pid", "message"}, line
        assert line["component"] == "dataserver"
    named = [line for line in lines if line.get("server") == "server-0"]
    assert named and all(re.fullmatch("[0-9a-f]{32}", line["boot"]) for line in named)
    assert boot  # the manager knows it
    ids = re.compile(r"session ([0-9a-f]{16}), request (\d+)")
    at_client = set(ids.findall("\n".join(x for x in done.stderr.splitlines() if "slow get" in x)))
    messages = [line["message"] for line in lines]
    at_server = set(ids.findall("\n".join(m for m in messages if m.startswith("slow get"))))
    assert at_client & at_server, f"{done.stderr}\n{messages}"
    session = (at_client & at_server).pop()[0]
    assert any(m.startswith(f"session {session} of client ") for m in messages)


def test_manager_and_server_name_the_same_cluster(bin_dir, tmp_path):
    """From when they know it: lines of several clusters in one place can be told apart."""
    arguments = ["--memory", "32MiB", "--log-json"]
    with live.Cluster(bin_dir, tmp_path, servers=1, server_arguments=arguments) as cluster:
        cluster.stop("manager")
        cluster.start(
            "json", bin_dir / "simm-manager", "--log-json", "--listen", cluster.manager,
            "--http", cluster.http["manager"], "--state", tmp_path / "state",
        )  # fmt: skip
        live.wait_for("it is ready", lambda: live.fetch(cluster.http["manager"], "/readyz"))
        cluster.stop("server-0")
        cluster.start_server("server-0")
        cluster.wait_ready("server-0")
        known = json.loads(cluster.ctl("--json", "status"))["cluster"]
    for name in ("json", "server-0"):
        lines = [json.loads(line) for line in cluster.log(name).splitlines()]
        named = [line["cluster"] for line in lines if "cluster" in line]
        assert named and set(named) == {known}, lines


def test_no_line_a_miss_and_a_flood_is_bounded(bin_dir, tmp_path):
    """Thousands of slow calls a second and as many misses: some 20 lines a second say so."""
    arguments = ["--memory", "32MiB", "--slow-op-ms", "0"]
    with live.Cluster(bin_dir, tmp_path, servers=1, server_arguments=arguments) as cluster:
        before = cluster.log("server-0").count("\n") + cluster.log("manager").count("\n")
        done = subprocess.run(
            [bin_dir / "simm-bench", "mixed", "--manager", cluster.manager, "--transport", "tcp",
             "--value-size", "64KiB", "--batch", "8", "--keys", "4000", "--seconds", "2"],
            capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "SIMM_SLOW_OP_MS": "1"},
        )  # fmt: skip
        misses = cluster.metric(
            "server-0", 'simm_dataserver_keys_total{op="get",outcome="miss",transport="tcp"}'
        )
        after = cluster.log("server-0").count("\n") + cluster.log("manager").count("\n")
    assert misses > 1000, done.stderr
    assert after - before < 50
    slow = [line for line in done.stderr.splitlines() if " slow " in line]
    assert 0 < len(slow) < 500, "20 a second of two kinds at most, and it runs for some seconds"
