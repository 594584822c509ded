#!/usr/bin/env python3
"""What operators ask simmctl: status, shards, keys, top, config, doctor, bench, completion.

Usage: operate_test.py FOLDER_OF_THE_PROGRAMS
"""

import fcntl
import json
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import termios
import time
import unittest
from pathlib import Path

from cli_cluster import BIN, DONE, NOT_THERE, REFUSED, UNWELL, USAGE, CliTest, wait_until

COMMANDS = ("status", "nodes", "node", "map", "shards", "keys", "get", "put", "rm", "exists", "top",
            "events", "config", "doctor", "bench", "completion", "clear")  # fmt: skip


def in_terminal(command, keys=b"", environment=None, seconds=30):
    """Runs it on a terminal of its own; what it printed and its exit code. `keys` are typed once
    something is there to be seen."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment or {})
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    text, end = b"", time.monotonic() + seconds
    while select.select([terminal], [], [], max(0, end - time.monotonic()))[0]:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # it has ended
            break
        if not part:
            break
        text += part
        if keys and b"q ends this" in text:
            os.write(terminal, keys)
            keys = b""
    if time.monotonic() > end:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    return text.decode(), code


class OperateTest(CliTest):
    SERVERS = ("one", "two")

    def command(self, *arguments):
        return [str(BIN / "simmctl"), "--manager", self.manager, *arguments]

    def test_status_at_a_glance(self):
        text = self.text(DONE, "status")
        for part in ("health      healthy\n", "servers     2 alive\n", "capacity    [", "entries",
                     "hit rate    ", "traffic     ", " out, ", "cluster "):  # fmt: skip
            self.assertIn(part, text)
        self.assertNotIn("!", text)
        status = self.json(DONE, "status")
        self.assertEqual((status["health"], status["findings"]), ("healthy", []))
        self.assertEqual(set(status["rates"]),
                         {"hits", "misses", "puts", "evictions", "bytes_read", "bytes_written"})

    def test_colours_on_a_terminal_alone(self):
        self.assertNotIn("\x1b", self.text(DONE, "status"))
        text, code = in_terminal(self.command("status"), environment={"TERM": "xterm"})
        self.assertEqual(code, DONE, text)
        self.assertIn("\x1b[1;32mhealthy\x1b[0m", text)
        for quiet in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
            text, _ = in_terminal(self.command("status"), environment=quiet)
            self.assertIn("healthy", text)
            self.assertNotIn("\x1b", text)

    def test_shards(self):
        text = self.text(DONE, "shards")
        self.assertIn("65,536 shards; 0 on their way", text)
        self.assertRegex(text, r"one +alive +32,768 +\[#{20}\] +50 %")
        servers = self.json(DONE, "shards")["servers"]
        self.assertEqual({s["name"]: s["shards"] for s in servers}, {"one": 32768, "two": 32768})

    def test_keys(self):
        for i in range(30):
            self.check(DONE, "--namespace", "scanned", "put", f"chat/{i}", "-", stdin=b"x" * i)
        self.check(DONE, "--namespace", "scanned", "put", "other", "-", stdin=b"1")
        self.check(DONE, "--namespace", "elsewhere", "put", "chat/none", "-", stdin=b"1")
        got = self.json(DONE, "--namespace", "scanned", "keys", "--prefix", "chat/")
        self.assertEqual({k["key"]: k["bytes"] for k in got["keys"]},
                         {f"chat/{i}": i for i in range(30)})
        self.assertTrue(got["complete"])
        self.assertGreaterEqual(got["scanned"], 32)
        for key in got["keys"][:3]:
            place = self.json(DONE, "--namespace", "scanned", "map", key["key"])
            self.assertEqual(place["server"], key["server"])
        few = self.json(DONE, "--namespace", "scanned", "keys", "--limit", "3")
        self.assertEqual((len(few["keys"]), few["complete"]), (3, False))
        one = self.json(DONE, "--namespace", "scanned", "keys", "--node", "one")["keys"]
        self.assertEqual({k["server"] for k in one}, {"one"})
        text = self.text(DONE, "--namespace", "scanned", "keys", "--prefix", "oth")
        self.assertRegex(text, r"1 +(one|two) +other\n1 keys; ")
        hexed = self.text(DONE, "--hex-key", "--namespace", "scanned", "keys", "--prefix", "6f74")
        self.assertIn(b"other".hex(), hexed)
        self.assertIn(b"no namespace", self.check(REFUSED, "--namespace", "no", "keys").stderr)
        self.check(NOT_THERE, "--namespace", "scanned", "keys", "--node", "nobody")
        self.check(USAGE, "keys", "--limit", "0")
        self.check(USAGE, "keys", "--limit", "1001")

    def test_top(self):
        text = self.text(DONE, "top", "--once")
        self.assertIn("health      healthy", text)
        self.assertRegex(text, r"NAME +STATE +USED +OUT +IN")
        self.assertRegex(text, r"(?m)^two +alive ")
        self.assertNotIn("\x1b", text)
        lines = self.text(DONE, "--json", "top", "--rounds", "2", "--interval-ms", "100")
        looks = [json.loads(line) for line in lines.splitlines()]
        self.assertEqual([{n["name"] for n in look["nodes"]} for look in looks],
                         [{"one", "two"}] * 2)  # fmt: skip

    def test_top_ends_by_a_key(self):
        text, code = in_terminal(self.command("top", "--interval-ms", "60000"), keys=b"xq")
        self.assertEqual(code, DONE, text)
        self.assertGreaterEqual(text.count("q ends this"), 1)

    def test_rates_are_seen(self):
        # Traffic over tcp: what goes over shared memory no server sees.
        load = subprocess.Popen(self.command("bench", "--seconds", "20", "--transport", "tcp",
                                             "--value-size", "4KiB"))  # fmt: skip
        try:
            wait_until("somebody writes", lambda: self.status()["rates"]["puts"] > 0)
        finally:
            load.send_signal(signal.SIGINT)
            load.wait(timeout=20)
        self.run_simmctl("clear", "--namespace", "simmctl-bench", "--yes")

    def test_config(self):
        programs = self.json(DONE, "config")["programs"]
        self.assertEqual([p["name"] for p in programs], ["manager", "one", "two"])
        options = {o["name"]: o for o in programs[1]["options"]}
        self.assertEqual(options["memory"]["source"], "flag --memory")
        self.assertIn("64", options["memory"]["value"])
        self.assertEqual(options["transport"], {"name": "transport", "value": "auto",
                                                "source": "default"})  # fmt: skip
        text = self.text(DONE, "config", "one", "--changed")
        self.assertIn("one: simm-dataserver ", text)
        self.assertRegex(text, r"name +one +flag --name")
        self.assertNotIn("default", text)
        self.assertIn("new-cluster", self.text(DONE, "config", "manager"))
        self.assertIn(b"neither", self.check(NOT_THERE, "config", "nobody").stderr)

    def test_bench(self):
        got = self.json(DONE, "bench", "--seconds", "0.3", "--value-size", "64KiB", "--threads",
                        "2")  # fmt: skip
        for phase in ("put", "get"):
            self.assertGreater(got[phase]["keys"], 0)
            self.assertGreater(got[phase]["bytes_per_s"], 0)
            self.assertEqual((got[phase]["failed"], got[phase]["wrong"]), (0, 0))
            self.assertGreaterEqual(got[phase]["call_p99_ms"], got[phase]["call_p50_ms"])
        left = self.json(DONE, "--namespace", "simmctl-bench", "keys")["keys"]
        self.assertEqual(left, [])
        text = self.text(DONE, "bench", "--seconds", "0.1", "--value-size", "4KiB")
        self.assertRegex(text, r"(?m)^get  .*/s \(.*p99")
        for size in ("7", "257MiB", "x"):
            self.check(USAGE, "bench", "--value-size", size)

    def test_completion(self):
        script = self.text(DONE, "completion", "bash")

        def complete(*words):
            ask = (f"{script}\nCOMP_WORDS=({' '.join(words)})\nCOMP_CWORD={len(words) - 1}\n"
                   '_simmctl; printf "%s\\n" "${COMPREPLY[@]}"')  # fmt: skip
            done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
            self.assertEqual(done.stderr, "")
            return set(done.stdout.split())

        self.assertLessEqual(set(COMMANDS), complete("simmctl", "''"))
        self.assertEqual(complete("simmctl", "sha"), {"shards"})
        self.assertLessEqual({"show", "remove", "drain", "undrain"}, complete("simmctl", "node",
                                                                              "''"))  # fmt: skip
        self.assertIn("--limit", complete("simmctl", "--json", "events", "--l"))
        self.assertIn("--json", complete("simmctl", "events", "--j"))
        for shell in ("zsh", "fish"):
            text = self.text(DONE, "completion", shell)
            for command in COMMANDS:
                self.assertIn(command, text)
        self.check(USAGE, "completion", "tcsh")

    def test_help_names_every_command(self):
        text = self.text(DONE, "--help")
        for command in COMMANDS:
            self.assertRegex(text, rf"(?m)^  (nodes, )?{command}[ ,]")


class DoctorTest(CliTest):
    SERVERS = ("one", "two")

    def levels(self, report, level):
        return [(c["about"], c["what"]) for c in report["checks"] if c["level"] == level]

    def test_1_all_is_well(self):
        report = self.json(DONE, "doctor")
        self.assertEqual(report["bad"], 0, report)
        good = self.levels(report, "ok")
        for name in ("one", "two"):
            for transport in ("tcp", "shm"):
                self.assertIn(
                    (name, f"a value was put, read back and removed over {transport}"), good
                )
        self.assertTrue(any(about.startswith("manager ") for about, _ in good), good)
        self.assertRegex(self.text(DONE, "doctor"), r"(?m)^ok    one: simm-dataserver .* answers")
        self.assertEqual(self.json(DONE, "--namespace", "simmctl-doctor", "keys")["keys"], [])

    def test_2_low_limits(self):
        def poor():
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
            resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))

        done = subprocess.run(
            [str(BIN / "simmctl"), "--manager", self.manager, "--json", "doctor"],
            capture_output=True, preexec_fn=poor, check=False, timeout=60,
        )  # fmt: skip
        self.assertEqual(done.returncode, DONE, done.stderr)
        checks = json.loads(done.stdout)["checks"]
        memlock = [c for c in checks if c["about"] == "here" and "memlock" in c["what"]]
        self.assertIn("64.0 KiB", memlock[0]["what"])
        self.assertIn("LimitMEMLOCK", memlock[0]["mend"])
        files = [c for c in checks if c["about"] == "here" and "512 open files" in c["what"]]
        self.assertEqual(files[0]["level"], "warning")

    def test_3_a_paused_server(self):
        process = self.processes["two"]
        process.send_signal(signal.SIGSTOP)
        try:
            report = self.json(UNWELL, "--timeout-ms", "1000", "doctor")
            bad = self.levels(report, "bad")
            self.assertTrue(any(about == "two" and "does not answer" in what
                                for about, what in bad), bad)  # fmt: skip
            self.assertFalse([about for about, _ in bad if about == "one"], bad)
            text = self.text(UNWELL, "--timeout-ms", "1000", "doctor")
            self.assertRegex(text, r"(?m)^BAD   two: does not answer")
            self.assertIn("is the process running", text)
        finally:
            process.send_signal(signal.SIGCONT)
        wait_until("it is back", lambda: self.status()["health"] == "healthy")

    def test_4_a_closed_port(self):
        # It says another host than it listens on: nobody can connect there.
        self.start_server("astray", advertise="127.0.0.77")
        wait_until("it has joined", lambda: self.status()["servers"]["alive"] == 3)
        report = self.json(UNWELL, "--timeout-ms", "1000", "doctor")
        said = [c for c in report["checks"] if c["about"] == "astray" and c["level"] == "bad"]
        self.assertTrue(any("data port 127.0.0.77" in c["what"] and "refused" in c["what"]
                            and "--advertise" in c["mend"] for c in said), said)  # fmt: skip

    def test_5_no_manager(self):
        report = self.json(UNWELL, "--timeout-ms", "500", "doctor", manager="127.0.0.1:9")
        about = [about for about, _ in self.levels(report, "bad")]
        self.assertEqual(about, ["manager 127.0.0.1:9", "cluster"])

    def test_6_a_dead_server_is_named(self):
        self.processes["two"].kill()
        wait_until("it is dead", lambda: self.status()["servers"]["dead"] >= 1)
        text = self.text(DONE, "status")
        self.assertIn("health      degraded", text)
        self.assertRegex(text, r"(?m)^! .*two.* dead")
        self.assertIn("simmctl node remove NAME", text)
        report = self.json(UNWELL, "--timeout-ms", "1000", "doctor")
        self.assertTrue(any("two" in what and "dead" in what
                            for about, what in self.levels(report, "bad")))  # fmt: skip
        self.assertTrue(Path(self.folder.name).exists())


if __name__ == "__main__":
    unittest.main()
