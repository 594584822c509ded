#!/usr/bin/env python3
"""What `simmctl doctor` says of RDMA, where there is a device: run by lane `rdma` in its machine.

Usage: doctor_check.py FOLDER_OF_THE_PROGRAMS
"""

import json
import re
import resource
import subprocess
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cluster/cli"))

from cli_cluster import BIN, DONE, CliTest, wait_until  # noqa: E402


def link(*words):
    subprocess.run(["ip", "link", "set", "dev", *words], check=True)


class DoctorTest(CliTest):
    """One data server, on the far end of the link."""

    # Emulated processors: patience.
    MANAGER_FLAGS = ("--heartbeat-ms", "500", "--suspect-ms", "5000", "--dead-ms", "20000")
    SERVER_FLAGS = ("--rdma-device", "rxe1")

    def doctor(self, code=DONE, **more):
        return self.json(code, "--timeout-ms", "15000", "doctor", **more)["checks"]

    def said(self, checks, level, about):
        return [c["what"] for c in checks if (c["level"], c["about"]) == (level, about)]

    @classmethod
    def setUpClass(cls):
        link("rdma0", "mtu", "4200")
        link("rdma1", "mtu", "4200")
        super().setUpClass()

    def test_1_well(self):
        checks = self.doctor()
        self.assertIn("a value was put, read back and removed over verbs",
                      self.said(checks, "ok", "one"), checks)  # fmt: skip
        self.assertEqual([c for c in checks if c["level"] == "bad"], [])
        self.assertNotRegex(json.dumps(checks), "RDMA port")

    def test_2_small_packets(self):
        link("rdma0", "mtu", "1500")
        link("rdma1", "mtu", "1500")
        checks = self.doctor()
        for about in ("here", "one"):
            said = "\n".join(self.said(checks, "warning", about))
            for port in ("rxe0/1 sends 1024 B a packet: rdma0", "rxe1/1 sends 1024 B a packet"):
                self.assertIn("RDMA port " + port, said)

    def test_3_little_memory_may_be_locked(self):
        def poor():
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))

        done = subprocess.run(
            [str(BIN / "simmctl"), "--manager", self.manager, "--timeout-ms", "15000", "--json",
             "doctor"], capture_output=True, preexec_fn=poor, check=False, timeout=120,
        )  # fmt: skip
        checks = json.loads(done.stdout)["checks"]
        (memlock,) = [c for c in checks if c["about"] == "here" and "memlock" in c["what"]]
        self.assertEqual(memlock["level"], "warning")
        self.assertIn("RDMA cannot register more", memlock["what"])
        self.assertIn("LimitMEMLOCK=infinity", memlock["mend"])

    def test_4_a_port_is_down(self):
        link("rdma0", "down")
        try:
            wait_until("doctor sees it", lambda: re.search(
                r"RDMA port rxe0/1 is (?!ACTIVE)", json.dumps(self.doctor(None))))  # fmt: skip
        finally:
            link("rdma0", "up")


if __name__ == "__main__":
    unittest.main()
