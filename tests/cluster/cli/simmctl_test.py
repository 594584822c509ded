#!/usr/bin/env python3
"""simmctl against a real manager and data server: answers, JSON and exit codes.

Usage: simmctl_test.py FOLDER_OF_THE_PROGRAMS
"""

import json
import socket
import time
import unittest
from pathlib import Path

from cli_cluster import DONE, NOT_THERE, REFUSED, UNREACHABLE, USAGE, CliTest, wait_until


class SimmctlTest(CliTest):
    def test_put_get_remove(self):
        value = bytes(range(256)) * 1000  # longer than the first guess of 64 KiB
        self.check(DONE, "put", "page", "-", stdin=value)
        self.assertEqual(self.check(DONE, "get", "page").stdout, value)
        target = Path(self.folder.name, "page.bin")
        self.check(DONE, "get", "page", str(target))
        self.assertEqual(target.read_bytes(), value)
        self.check(DONE, "put", "page", "-", stdin=b"other")
        self.assertEqual(self.check(DONE, "get", "page").stdout, value)
        self.check(DONE, "put", "--replace", "page", "-", stdin=b"other")
        self.assertEqual(self.check(DONE, "get", "page").stdout, b"other")
        self.check(DONE, "rm", "page")
        self.check(NOT_THERE, "rm", "page")
        self.assertIn(b"not there", self.check(NOT_THERE, "get", "page").stderr)

    def test_empty_value(self):
        self.check(DONE, "put", "empty", "-")
        self.assertEqual(self.check(DONE, "get", "empty").stdout, b"")

    def test_exists(self):
        self.check(DONE, "put", "a", "-", stdin=b"1")
        self.assertEqual(self.check(DONE, "exists", "a").stdout, b"there  a\n")
        done = self.check(NOT_THERE, "exists", "a", "nobody", "--json")
        keys = json.loads(done.stdout)["keys"]
        self.assertEqual([key["result"] for key in keys], ["there", "absent"])

    def test_keys_of_any_bytes(self):
        self.check(DONE, "--hex-key", "put", "00ff0a", "-", stdin=b"bytes")
        self.assertEqual(self.check(DONE, "--hex-key", "get", "00FF0A").stdout, b"bytes")
        self.check(USAGE, "--hex-key", "get", "0g")
        self.check(USAGE, "--hex-key", "get", "000")

    def test_namespaces_never_meet(self):
        self.check(DONE, "put", "shared", "-", stdin=b"1")
        self.check(NOT_THERE, "--namespace", "other", "get", "shared")

    def test_clear_drops_one_namespace_and_wants_to_be_sure(self):
        for name in ("wiped", "kept"):
            for key in "abc":
                self.check(DONE, "--namespace", name, "put", key, "-", stdin=b"1")
        self.assertIn(b"--namespace", self.check(USAGE, "clear", "--yes").stderr)
        self.assertIn(b"--yes", self.check(USAGE, "clear", "--namespace", "wiped").stderr)
        self.check(DONE, "--namespace", "wiped", "exists", "a")
        done = self.check(DONE, "clear", "--namespace", "wiped", "--yes", "--json")
        self.assertEqual(json.loads(done.stdout), {"namespace": "wiped", "dropped": 3})
        self.check(NOT_THERE, "--namespace", "wiped", "exists", "a")
        self.check(DONE, "--namespace", "kept", "exists", "a", "b", "c")
        done = self.check(DONE, "clear", "--namespace", "wiped", "--yes")
        self.assertEqual(done.stdout, b"cleared namespace wiped: 0 entries dropped\n")

    def test_json(self):
        self.check(DONE, "--json", "put", "j", "-", stdin=b"xy")
        got = json.loads(self.check(DONE, "--json", "get", "j").stdout)
        self.assertEqual((got["bytes"], got["value_hex"]), (2, "7879"))
        self.assertEqual(json.loads(self.check(DONE, "map", "j", "--json").stdout)["server"], "one")
        nodes = json.loads(self.check(DONE, "nodes", "--json").stdout)["nodes"]
        self.assertEqual([(n["name"], n["state"], n["shards"]) for n in nodes],
                         [("one", "alive", 65536)])  # fmt: skip
        transports = {t["name"]: t for t in nodes[0]["transports"]}
        self.assertEqual(set(transports), {"tcp", "shm", "verbs"})
        self.assertTrue(transports["tcp"]["offered"])
        self.assertTrue(all(t["reason"] for t in transports.values()))
        status = json.loads(self.check(DONE, "status", "--json").stdout)
        self.assertEqual(len(status["cluster"]), 32)

    def test_for_people(self):
        self.assertIn(b"1 alive", self.check(DONE, "status").stdout)
        self.assertIn(b"one", self.check(DONE, "nodes").stdout)
        self.assertNotIn(b"\x1b", self.check(DONE, "nodes").stdout)
        self.assertIn(b"shard", self.check(DONE, "map", "k").stdout)

    def test_usage(self):
        self.check(USAGE)
        self.check(USAGE, "frobnicate")
        self.check(USAGE, "put", "key")
        self.check(USAGE, "put", "key", "/nonexistent")
        self.check(USAGE, "get", "")
        self.check(USAGE, "get", "k" * 257)
        self.check(DONE, "put", "k" * 256, "-", stdin=b"1")
        self.check(USAGE, "status", manager="nonsense")
        help_text = self.check(DONE, "--help").stdout
        for part in (b"Exit codes", b"Examples", b"SIMM_CLUSTER_MANAGER"):
            self.assertIn(part, help_text)

    def test_environment_names_the_manager(self):
        self.check(DONE, "status", environment={"SIMM_CLUSTER_MANAGER": self.manager})

    def test_refused(self):
        big = b"x" * (80 << 20)
        self.assertIn(b"larger", self.check(REFUSED, "put", "big", "-", stdin=big).stderr)
        self.assertIn(b"--yes", self.check(USAGE, "nodes", "remove", "nobody").stderr)
        self.check(NOT_THERE, "nodes", "remove", "nobody", "--yes")
        self.check(REFUSED, "nodes", "remove", "one", "--yes")

    def test_one_node(self):
        shown = self.check(DONE, "node", "show", "one").stdout.decode()
        self.assertIn("shards             65536", shown)
        node = json.loads(self.check(DONE, "--json", "node", "show", "one").stdout)
        self.assertEqual((node["name"], node["state"]), ("one", "alive"))
        self.check(NOT_THERE, "node", "show", "nobody")
        self.check(NOT_THERE, "node", "drain", "nobody")
        self.assertIn(b"start one first", self.check(REFUSED, "node", "drain", "one").stderr)
        self.check(DONE, "node", "undrain", "one")  # it was not drained: nothing changes

    def test_events(self):
        events = json.loads(self.check(DONE, "--json", "events", "--limit", "0").stdout)["events"]
        numbers = [event["number"] for event in events]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertIn(("joined", "one"), [(event["kind"], event["server"]) for event in events])
        self.assertLess(abs(events[-1]["unix_ms"] / 1000 - time.time()), 3600)
        later = self.check(DONE, "--json", "events", "--after", str(numbers[-1])).stdout
        self.assertEqual(json.loads(later), {"events": []})
        newest = self.check(DONE, "events", "--limit", "1").stdout.decode().splitlines()
        self.assertEqual(len(newest), 2, newest)

    def test_nobody_there(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "127.0.0.1:%d" % probe.getsockname()[1]
        for command in (["status"], ["get", "a"], ["nodes"], ["exists", "a"]):
            begin = time.monotonic()
            done = self.check(UNREACHABLE, "--timeout-ms", "500", *command, manager=address)
            self.assertLess(time.monotonic() - begin, 5)
            self.assertIn(address.encode(), done.stderr)
            self.assertIn(b"SIMM_CLUSTER_MANAGER", done.stderr)
            self.assertIn(b"quickstart", done.stderr)


class ReplicasTest(CliTest):
    """Two owners a shard."""

    SERVERS = ("one", "two", "three")
    MANAGER_FLAGS = ("--replicas", "2")

    def test_map_names_every_owner(self):
        named = set()
        for i in range(30):
            seen = self.json(DONE, "map", f"key-{i}")
            owners = [seen["server"], *seen["replicas"]]
            self.assertEqual(len(set(owners)), 2, owners)
            named.update(owners)
        self.assertEqual(named, set(self.SERVERS))
        for_people = self.text(DONE, "map", "key-29")
        self.assertIn(f"server  {owners[0]} at 127.0.0.1:", for_people)
        self.assertIn(f"replica {owners[1]}\n", for_people)

    def test_a_value_is_at_both_owners(self):
        self.check(DONE, "put", "both", "-", stdin=b"x" * 1000)
        wait_until("two entries are reported", lambda: self.entries() == 2)
        self.check(DONE, "rm", "both")
        wait_until("none is left", lambda: self.entries() == 0)

    def entries(self):
        return sum(node["entries"] for node in self.json(DONE, "nodes")["nodes"])


if __name__ == "__main__":
    unittest.main()
