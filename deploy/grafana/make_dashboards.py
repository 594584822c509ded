#!/usr/bin/env python3
"""Writes cluster.json, dataserver.json and client.json from the tables below; --check compares.

A panel is (title, unit, queries); a query is (PromQL, legend). $cluster and $instance are the
variables of the dashboard, $__rate_interval is Grafana's.
"""

import argparse
import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
C = 'cluster=~"$cluster"'
I = C + ',instance=~"$instance"'
R = "[$__rate_interval]"


def rate(metric: str, where: str, by: str = "") -> str:
    group = f" by ({by})" if by else ""
    return f"sum{group} (rate({metric}{{{where}}}{R}))"


def quantile(q: float, metric: str, where: str, by: str) -> str:
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{{{where}}}{R})))"


def quantiles(metric: str, where: str, by: str):
    return [
        (quantile(q, metric, where, by), f"{{{{{by}}}}} p{name}")
        for q, name in ((0.5, "50"), (0.99, "99"))
    ]


CLUSTER = [
    ("Data servers", "short", [(f"sum by (state) (simm_manager_servers{{{C}}})", "{{state}}")]),
    (
        "Capacity in use",
        "percentunit",
        [
            (
                f'1 - sum(simm_pool_bytes{{state="free",{C}}}) / sum(simm_pool_data_bytes{{{C}}})',
                "in use",
            )
        ],
    ),
    (
        "Hit rate",
        "percentunit",
        [
            (
                "("
                + rate("simm_client_keys_total", f'op="get",outcome="ok",{C}')
                + " / "
                + rate("simm_client_keys_total", f'op="get",{C}')
                + ")",
                "as clients see it",
            ),
            (
                rate("simm_dataserver_keys_total", f'op="get",outcome="ok",{C}')
                + " / "
                + rate("simm_dataserver_keys_total", f'op="get",{C}'),
                "as servers count it",
            ),
        ],
    ),
    ("Processes up", "short", [(f'sum by (job) (up{{job=~"simm-.*",{C}}})', "{{job}}")]),
    ("Pool by state", "bytes", [(f"sum by (state) (simm_pool_bytes{{{C}}})", "{{state}}")]),
    (
        "Value bytes through the servers",
        "Bps",
        [
            (rate("simm_dataserver_value_bytes_read_total", C), "read"),
            (rate("simm_dataserver_value_bytes_written_total", C), "written"),
        ],
    ),
    (
        "Keys a second",
        "ops",
        [(rate("simm_dataserver_keys_total", C, "op, outcome"), "{{op}} {{outcome}}")],
    ),
    (
        "Requests at the data servers",
        "s",
        quantiles("simm_dataserver_request_seconds", C, "op"),
    ),
    (
        "Evictions",
        "ops",
        [(rate("simm_pool_evictions_total", C, "cause"), "{{cause}}")],
    ),
    (
        "Age at eviction, shortest",
        "s",
        [(f"min(simm_pool_last_evicted_age_seconds{{{C}}} > 0) or vector(0)", "since last use")],
    ),
    (
        "Epoch of the key map",
        "short",
        [
            (f"max(simm_manager_epoch{{{C}}})", "manager"),
            (f"min(simm_dataserver_map_epoch{{{C}}})", "the last data server"),
        ],
    ),
    (
        "Map frozen, leader known, state not saved",
        "short",
        [
            (f"max(simm_manager_map_frozen{{{C}}})", "frozen"),
            (f"max(simm_manager_leader_known{{{C}}})", "leader known"),
            (f"sum(increase(simm_manager_store_failures_total{{{C}}}{R}))", "not saved"),
        ],
    ),
    (
        "Shards of each server",
        "short",
        [(f"sum by (server) (simm_manager_shards{{{C}}})", "{{server}}")],
    ),
    ("Manager's calls", "s", quantiles("simm_rpc_seconds", C, "method")),
    (
        "Heartbeats and registrations",
        "ops",
        [
            (rate("simm_manager_heartbeats_total", C), "heartbeats"),
            (rate("simm_manager_registrations_total", C, "outcome"), "{{outcome}}"),
        ],
    ),
]

DATASERVER = [
    ("Ready", "short", [(f"min by (instance) (simm_dataserver_ready{{{I}}})", "{{instance}}")]),
    ("Entries", "short", [(f"sum by (instance) (simm_pool_entries{{{I}}})", "{{instance}}")]),
    (
        "Sessions",
        "short",
        [(f"sum by (instance) (simm_dataserver_sessions{{{I}}})", "{{instance}}")],
    ),
    (
        "Version",
        "short",
        [
            (
                f'count by (version) (simm_build_info{{program="simm-dataserver",{I}}})',
                "{{version}}",
            )
        ],
    ),
    ("Pool by state", "bytes", [(f"sum by (state) (simm_pool_bytes{{{I}}})", "{{state}}")]),
    (
        "Bytes of values in the data file",
        "percentunit",
        [
            (
                f"sum by (instance) (simm_pool_value_bytes{{{I}}})"
                f" / sum by (instance) (simm_pool_data_bytes{{{I}}})",
                "{{instance}}",
            )
        ],
    ),
    (
        "Load of the index",
        "percentunit",
        [
            (
                f"sum by (instance) (simm_pool_entries{{{I}}})"
                f" / sum by (instance) (simm_pool_slots{{{I}}})",
                "{{instance}}",
            )
        ],
    ),
    (
        "Keys by operation and transport",
        "ops",
        [
            (
                rate("simm_dataserver_keys_total", I, "op, outcome, transport"),
                "{{op}} {{outcome}} {{transport}}",
            )
        ],
    ),
    (
        "Value bytes",
        "Bps",
        [
            (rate("simm_dataserver_value_bytes_read_total", I, "instance"), "read {{instance}}"),
            (
                rate("simm_dataserver_value_bytes_written_total", I, "instance"),
                "written {{instance}}",
            ),
        ],
    ),
    ("Time of a request", "s", quantiles("simm_dataserver_request_seconds", I, "op")),
    (
        "Evictions by cause, on the put path",
        "ops",
        [
            (rate("simm_pool_evictions_total", I, "cause"), "{{cause}}"),
            (rate("simm_pool_inline_evictions_total", I), "on the put path"),
        ],
    ),
    (
        "Age at eviction",
        "s",
        [(f"simm_pool_last_evicted_age_seconds{{{I}}}", "{{instance}}")],
    ),
    (
        "Time of evictions",
        "s",
        [(quantile(0.99, "simm_pool_eviction_seconds", I, "instance"), "{{instance}} p99")],
    ),
    (
        "Connections by transport and state",
        "short",
        [
            (
                f"sum by (transport, state) (simm_dataserver_connections{{{I}}})",
                "{{transport}} {{state}}",
            )
        ],
    ),
    (
        "Registered memory",
        "bytes",
        [
            (
                f"sum by (instance, transport) (simm_dataserver_registered_bytes{{{I}}})",
                "{{instance}} {{transport}}",
            )
        ],
    ),
    (
        "Leases and pins",
        "ops",
        [
            (rate("simm_dataserver_leased_extents_total", I), "leased"),
            (rate("simm_dataserver_leases_refused_total", I), "leases refused"),
            (rate("simm_dataserver_recalls_total", I), "recalled"),
            (rate("simm_dataserver_pins_total", I), "pinned"),
            (rate("simm_dataserver_pins_refused_total", I), "pins refused"),
        ],
    ),
    (
        "What went wrong",
        "ops",
        [
            (rate("simm_pool_busy_total", I), "puts refused"),
            (rate("simm_dataserver_protocol_errors_total", I), "garbage"),
            (rate("simm_dataserver_stalled_closed_total", I), "stalled"),
            (rate("simm_dataserver_connections_refused_total", I), "connections refused"),
            (rate("simm_dataserver_recalls_unanswered_total", I), "recalls unanswered"),
        ],
    ),
    (
        "Processor",
        "short",
        [
            (
                rate("process_cpu_seconds_total", f'job="simm-dataserver",{I}', "instance"),
                "{{instance}}",
            )
        ],
    ),
    (
        "Resident memory",
        "bytes",
        [(f'process_resident_memory_bytes{{job="simm-dataserver",{I}}}', "{{instance}}")],
    ),
]

CLIENT = [
    (
        "Hit rate",
        "percentunit",
        [
            (
                rate("simm_client_keys_total", f'op="get",outcome="ok",{I}')
                + " / "
                + rate("simm_client_keys_total", f'op="get",{I}'),
                "get",
            )
        ],
    ),
    (
        "Keys by operation, outcome, transport",
        "ops",
        [
            (
                rate("simm_client_keys_total", I, "op, outcome, transport"),
                "{{op}} {{outcome}} {{transport}}",
            )
        ],
    ),
    (
        "Value bytes",
        "Bps",
        [(rate("simm_client_value_bytes_total", I, "direction"), "{{direction}}")],
    ),
    ("Time of a call", "s", quantiles("simm_client_call_seconds", I, "op")),
    (
        "Length of the prefix that was there",
        "short",
        [(quantile(0.5, "simm_client_prefix_hit_keys", I, "op"), "{{op}} p50")],
    ),
    (
        "Circuit breakers",
        "short",
        [(f"sum by (state) (simm_client_breakers{{{I}}})", "{{state}}")],
    ),
    (
        "Retries, validation, late answers",
        "ops",
        [
            (rate("simm_client_retries_total", I), "keys sent again"),
            (rate("simm_client_validation_retries_total", I), "slots in flux"),
            (rate("simm_client_validation_failures_total", I), "values corrupt"),
            (rate("simm_client_late_answers_total", I), "late answers"),
            (rate("simm_client_breaker_rejections_total", I), "answered by a breaker"),
        ],
    ),
    (
        "Connections by transport",
        "short",
        [(f"sum by (transport) (simm_client_connections{{{I}}})", "{{transport}}")],
    ),
    (
        "Registered memory",
        "bytes",
        [(f"sum by (instance) (simm_client_registered_bytes{{{I}}})", "{{instance}}")],
    ),
    (
        "Epoch of the key map",
        "short",
        [
            (f"max(simm_manager_epoch{{{C}}})", "manager"),
            (f"min(simm_client_map_epoch{{{I}}})", "the last client"),
        ],
    ),
]

# name -> (title, panels, how many of the first are single numbers, metric that has the instances)
BOARDS = {
    "cluster": ("SiMM: cluster", CLUSTER, 4, None),
    "dataserver": ("SiMM: data server", DATASERVER, 4, "simm_dataserver_ready"),
    "client": ("SiMM: client", CLIENT, 1, "simm_client_map_epoch"),
}


def variable(name: str, query: str) -> dict:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": name},
        "definition": query,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "sort": 1,
    }


def panel(number: int, title: str, unit: str, queries, single: bool, at: dict) -> dict:
    source = {"type": "prometheus", "uid": "${datasource}"}
    made = {
        "id": number,
        "title": title,
        "type": "stat" if single else "timeseries",
        "datasource": source,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": source, "expr": expr, "legendFormat": legend}
            for i, (expr, legend) in enumerate(queries)
        ],
    }
    if single:
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    else:
        made["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    return made


def board(name: str) -> dict:
    title, panels, singles, instances = BOARDS[name]
    made = []
    for i, (heading, unit, queries) in enumerate(panels):
        if i < singles:
            width = 24 // singles
            at = {"x": width * i, "y": 0, "w": width, "h": 5}
        else:
            row, column = divmod(i - singles, 3)
            at = {"x": 8 * column, "y": 5 + 8 * row, "w": 8, "h": 8}
        made.append(panel(i + 1, heading, unit, queries, i < singles, at))
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        variable("cluster", "label_values(simm_build_info, cluster)"),
    ]
    if instances:
        query = f'label_values({instances}{{cluster=~"$cluster"}}, instance)'
        variables.append(variable("instance", query))
    return {
        "uid": f"simm-{name}",
        "title": title,
        "tags": ["simm"],
        "schemaVersion": 37,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": variables},
        "links": [{"title": "SiMM", "type": "dashboards", "tags": ["simm"], "asDropdown": False}],
        "panels": made,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="exit 1 if a file is not as made now")
    check = parser.parse_args().check
    differ = []
    for name in BOARDS:
        path = FOLDER / f"{name}.json"
        text = json.dumps(board(name), indent=1) + "\n"
        if path.exists() and path.read_text() == text:
            continue
        differ.append(name)
        if not check:
            path.write_text(text)
    if check and differ:
        print(f"not as the tables make them: {', '.join(differ)}; run {Path(__file__).name}")
        return 1
    print(f"{len(BOARDS)} dashboards, {len(differ)} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
