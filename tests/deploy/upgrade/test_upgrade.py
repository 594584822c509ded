"""Versions N and N-1 in one cluster, and the way from one to the other.

Lane `upgrade` of tests/run.sh builds the programs of `previous_commit` and says where they are:
SIMM_PREVIOUS_BIN_DIR, beside SIMM_BIN_DIR.
"""

import itertools
import json

import pytest
from mixed import KEYS, MixedCluster, missing, put_keys


@pytest.mark.parametrize("manager, servers", [("old", "new"), ("new", "old"), ("new", "new")])
def test_each_version_of_the_clients_works_on_a_mixed_cluster(versions, tmp_path, manager, servers):
    with MixedCluster(versions, tmp_path, manager, servers) as cluster:
        for version in versions:
            cluster.exchange(version, "simm-bench")
            put_keys(cluster, version)
            status = json.loads(cluster.client(version, "simmctl", "--json", "nodes"))
            assert {node["name"] for node in status["nodes"]} == {"server-0", "server-1"}
        for reader, writer in itertools.product(versions, versions):
            assert missing(cluster, reader, writer) == []


@pytest.mark.parametrize("first, second", [("old", "new"), ("new", "old")])
def test_a_server_of_the_other_version_joins(versions, tmp_path, first, second):
    """A third of the shards moves, without their entries where a version cannot send or pull them:
    then those keys are misses, to both clients, and the others are there."""
    with MixedCluster(versions, tmp_path, "new", first, late=1) as cluster:
        put_keys(cluster, "old")
        cluster.start_server("server-2", versions[second])
        cluster.wait_ready("server-2")
        lost = [missing(cluster, reader, "old") for reader in versions]
        assert lost[0] == lost[1] and len(lost[0]) <= KEYS * 2 // 3
        for version in versions:
            cluster.exchange(version, "simm-bench")
        put_keys(cluster, "new")
        for reader in versions:
            assert missing(cluster, reader, "new") == []


def test_a_rolling_upgrade_loses_nothing_and_clients_of_before_work_through_it(versions, tmp_path):
    """Manager first, then one data server after another, as the README says; then back again."""
    with MixedCluster(versions, tmp_path, "old", "old") as cluster:
        put_keys(cluster, "old")
        # Works from before the first step until after the last one; a wrong byte ends it with 1.
        cluster.start(
            "load", versions["old"] / "simm-bench", "--manager", cluster.manager, "--verify",
            "--namespace", "load", "--seconds", "6", "--value-size", "64KiB", "--keys", "64",
            "--threads", "2", "get",
        )  # fmt: skip
        cluster.upgrade_manager("new")
        assert missing(cluster, "old", "old") == []
        for name in cluster.names:
            cluster.upgrade_server(name, "new")
            assert missing(cluster, "new", "old") == []
        put_keys(cluster, "new")
        assert cluster.stop("load", signal_it=False) == 0, cluster.log("load")
        for name in cluster.names:
            cluster.upgrade_server(name, "old")
        for reader, writer in itertools.product(versions, versions):
            assert missing(cluster, reader, writer) == []
