#!/usr/bin/env python3
"""What doctor says of the way to a data server: packets that get smaller, and those that vanish.

Usage: path_test.py FOLDER_OF_THE_PROGRAMS

Runs in a network namespace of its own, made by unshare: that takes root.
"""

import os
import shutil
import subprocess
import sys
import unittest

from cli_cluster import BIN, DONE, UNWELL, CliTest


def run(*command):
    subprocess.run(command, check=True)


def nft(rules):
    subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True)


class PathTest(CliTest):
    SERVERS = ("one", "two")

    @classmethod
    def setUpClass(cls):
        run("ip", "link", "set", "lo", "up")
        super().setUpClass()

    def said(self, report, level, about):
        return [c for c in report["checks"] if (c["level"], c["about"]) == (level, about)]

    def test_1_all_is_well(self):
        report = self.json(DONE, "doctor")
        for name in self.SERVERS:
            whats = [check["what"] for check in self.said(report, "ok", name)]
            self.assertIn("path MTU 65535 by lo", whats)

    def test_2_smaller_packets_on_the_way(self):
        run("ip", "address", "add", "10.77.0.9/32", "dev", "lo")
        run("ip", "route", "replace", "local", "10.77.0.9", "dev", "lo", "table", "local",
            "mtu", "1280")  # fmt: skip
        self.start_server("far", advertise="10.77.0.9", listen="10.77.0.9:0")
        try:
            report = self.json(DONE, "doctor")
            (path,) = [c for c in self.said(report, "warning", "far") if "packets to" in c["what"]]
            self.assertIn("are of 1280 B at most, though lo here takes 65535 B", path["what"])
            self.assertIn("MTU", path["mend"])
        finally:
            process = self.processes.pop("far")
            process.terminate()
            process.wait(timeout=20)

    def test_3_full_packets_vanish(self):
        port = self.addresses["one"]["data_listen"].rsplit(":", 1)[1]
        nft(f"""
            table inet hole {{
              chain in {{
                type filter hook input priority 0;
                tcp dport {port} meta length > 1000 drop
              }}
            }}""")
        try:
            report = self.json(UNWELL, "--timeout-ms", "1500", "doctor")
        finally:
            nft("delete table inet hole")
        (hole,) = [c for c in self.said(report, "bad", "one") if "over tcp" in c["what"]]
        self.assertIn("black hole", hole["what"])
        self.assertIn("ping -M do", hole["mend"])
        self.assertEqual(self.said(report, "bad", "two"), [])


if __name__ == "__main__":
    if "SIMM_OWN_NETWORK" not in os.environ:
        works = subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0
        if not works or shutil.which("nft") is None or shutil.which("ip") is None:
            print("NOT TESTED: the way to a data server takes root, iproute2 and nftables")
            sys.exit(1 if "SIMM_REQUIRE_NETWORKS" in os.environ else 0)
        os.environ["SIMM_OWN_NETWORK"] = "1"
        again = [sys.executable, sys.argv[0], str(BIN), *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "--net", "--", *again])
    unittest.main()
