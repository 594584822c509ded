"""Forks, and interpreters that exit with calls under way."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from cluster import Cluster

PRELUDE = """
import os, sys, threading, time
import numpy as np
import simm
from simm import errors, kv
from simm._native import NativeClient
address = sys.argv[1]
kv.set_flag("cm_primary_node_ip", address.rsplit(":", 1)[0])
kv.set_flag("cm_primary_node_port", address.rsplit(":", 1)[1])
"""


def run(
    cluster: Cluster, code: str, seconds: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PRELUDE + code, cluster.address],
        capture_output=True, text=True, timeout=seconds, check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )  # fmt: skip


def test_after_a_fork_the_child_is_told(cluster):
    done = run(
        cluster,
        """
client = simm.Client(address)
store = kv.Store()
view = store.allocate(10).view()
client.put("forked", b"1", replace=True)
child = os.fork()
if child == 0:
    told = 0
    for call in (lambda: client.get("forked"), lambda: simm.Client(address), kv.Store):
        try:
            call()
        except errors.ForkError as error:
            assert "spawn" in str(error)
            told += 1
    assert store.exists("forked") is False
    assert store.put("forked", view) == -1004
    assert store.mget(["a", "b"], [view, view]) == [-1004, -1004]
    del client, store
    sys.exit(40 + told)  # with the exit handlers
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 43, status
assert client.get("forked") == b"1", "the parent goes on"
assert store.exists("forked") is True
print("fine")
""",
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_a_fork_before_the_first_client_is_fine(cluster):
    done = run(
        cluster,
        """
child = os.fork()
client = simm.Client(address)
assert client.exists("nobody") is False
if child != 0:
    _, status = os.waitpid(child, 0)
    assert status == 0
    print("fine")
""",
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


@pytest.mark.parametrize("explicit", ["", "client.close()", "del client"])
def test_exit_with_asynchronous_calls_under_way(explicit):
    with Cluster(servers=1) as cluster:
        cluster_pause = f"""
import signal
os.kill({cluster.pid("server-0")}, signal.SIGSTOP)
"""
        done = run(
            cluster,
            f"""
client = NativeClient([address], transport="tcp")
client.exists(["warm"], 1000)
{cluster_pause}
for i in range(500):
    client.remove_async([f"k{{i}}"], 20_000, lambda codes: None)
{explicit}
print("fine")
""",
            seconds=15,
        )
        cluster.resume("server-0")
        assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
        assert done.stderr == ""


def test_exit_with_daemon_threads_in_calls(cluster):
    for _ in range(5):
        done = run(
            cluster,
            """
store = kv.Store()
block = store.allocate(1 << 20)
store.put("page", block.view())
begun = threading.Semaphore(0)

def work():
    keys, views = ["page"] * 50, [block.view()] * 50
    begun.release()
    while True:
        store.mget(keys, views)
        store.mexists(keys)

for _ in range(6):
    threading.Thread(target=work, daemon=True).start()
for _ in range(6):
    begun.acquire()
time.sleep(0.05)
print("fine")
""",
            seconds=30,
        )
        assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr[-3000:]


def test_exit_while_a_daemon_thread_waits_for_its_deadline():
    with Cluster(servers=1) as cluster:
        begin = time.monotonic()
        done = run(
            cluster,
            f"""
import signal
client = simm.Client(address, transport="tcp", deadline=1.0)
client.put("k", b"1")
os.kill({cluster.pid("server-0")}, signal.SIGSTOP)
def work():
    try:
        client.put("l", b"1")
    except simm.SimmError:
        pass
threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
print("fine")
""",
            seconds=60,
        )
        cluster.resume("server-0")
        assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr
        assert time.monotonic() - begin < 40, "the exit hung"


def test_a_thousand_stores_leave_nothing_behind(cluster):
    # A process of its own: connections to the clusters of other tests come and go.
    done = run(
        cluster,
        """
def once():
    store = kv.Store()
    store.mexists(["a", "b"])
    block = store.allocate(100_000)
    store.put("leak", block.view())

def counts():
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), pages * 4096

for _ in range(100):
    once()
before = counts()
for _ in range(1000):
    once()
end = time.monotonic() + 10
while time.monotonic() < end and counts()[:2] > before[:2]:
    time.sleep(0.005)
after = counts()
assert after[0] <= before[0] + 2, f"descriptors: {before[0]}, then {after[0]}"
assert after[1] <= before[1] + 2, f"threads: {before[1]}, then {after[1]}"
assert after[2] <= before[2] + (16 << 20), f"bytes: {before[2]}, then {after[2]}"
print("fine")
""",
        seconds=120,
    )
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


def test_clients_may_be_dropped_while_the_interpreter_exits(cluster):
    """The exit closes all clients and gives up the GIL meanwhile; threads let go of theirs then."""
    code = """
import atexit
value = np.zeros(4096, np.uint8)
clients = [NativeClient([address], "default", "tcp") for _ in range(24)]
keys = [f"exit-{index}" for index in range(256)]
for client in clients:
    for _ in range(4):
        client.exists_async(keys, 5000, lambda codes: None)
        client.put_async(keys[:8], [value.ctypes.data] * 8, [value.nbytes] * 8, 5000,
                         callback=lambda codes: None)
go = threading.Event()
def drop():
    go.wait()
    while True:
        try:
            clients.pop()
        except IndexError:
            return
for _ in range(3):
    threading.Thread(target=drop, daemon=True).start()
del client
atexit.register(go.set)  # runs before the module's own exit
print("fine")
"""
    for round_ in range(12):
        # Freed memory is overwritten: who still uses it crashes.
        done = run(cluster, code, MALLOC_PERTURB_="165")
        assert (done.returncode, done.stdout) == (0, "fine\n"), (round_, done.stderr)
