"""Ranks of a host that read the same pages: one fetches, the others copy (fake cluster)."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sglang_pools as pools
from sglang_backend import backend_of, cluster, hashes  # noqa: F401
from sglang_release import PATH
from simm.sglang import shared, slots

SIZE = 1 << 20
KEYS = ["a", "b", "c"]


class Rank:
    """Memory for three values and a fetch that counts, waits and may fail from some value on."""

    def __init__(self, folder, namespace="n", good=3, begun=None, go=None):
        import torch

        self.shared = shared.SharedReads(namespace, str(folder))
        self.memory = torch.zeros((3, SIZE), dtype=torch.uint8)
        self.good = good
        self.begun, self.go = begun, go
        self.fetched = 0
        self.result = None

    def fetch(self):
        self.fetched += 1
        if self.begun:
            self.begun.set()
        if self.go:
            assert self.go.wait(60)
        for index in range(self.good):
            self.memory[index].fill_(index + 1)
        return [index < self.good for index in range(3)]

    def read(self, left_s=120.0):
        addresses = [self.memory[index].data_ptr() for index in range(3)]
        self.result = self.shared.read(KEYS, addresses, [SIZE] * 3, left_s, self.fetch)

    def has_bytes(self):
        return [
            bool((self.memory[index] == index + 1).all()) if good else None
            for index, good in enumerate(self.result)
        ]


def run_together(leader, followers):
    """The followers begin while the leader fetches; it ends once all of them wait."""
    threads = [threading.Thread(target=leader.read)]
    threads[0].start()
    assert leader.begun.wait(60)
    for follower in followers:
        threads.append(threading.Thread(target=follower.read))
        threads[-1].start()
    name, end = str(name_of(leader)), time.monotonic() + 60
    # Each of those who wait has the file open.
    while sum(open_file(fd) == name for fd in os.listdir("/proc/self/fd")) < len(threads):
        assert time.monotonic() < end
        time.sleep(0.001)
    leader.go.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def open_file(fd):
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def left_behind(folder):
    """Names of those who lead; the slots' files stay until the last rank closes."""
    return [path for path in folder.rglob("*") if len(path.name) == shared.NAME_LENGTH]


@pytest.fixture
def leader(tmp_path):
    return Rank(tmp_path, begun=threading.Event(), go=threading.Event())


def test_one_fetches_and_the_others_copy(tmp_path, leader):
    followers = [Rank(tmp_path) for _ in range(7)]
    run_together(leader, followers)
    assert leader.fetched == 1 and [rank.fetched for rank in followers] == [0] * 7
    for rank in (leader, *followers):
        assert rank.has_bytes() == [True] * 3
    assert left_behind(tmp_path) == []


def test_what_the_leader_did_not_get_the_others_try_for_themselves(tmp_path, leader):
    leader.good = 1
    follower = Rank(tmp_path)
    run_together(leader, [follower])
    assert leader.result == [True, False, False]
    assert follower.fetched == 1 and follower.has_bytes() == [True] * 3
    assert left_behind(tmp_path) == []


def test_who_comes_later_copies_too(tmp_path):
    first, second = Rank(tmp_path), Rank(tmp_path)
    first.read()
    second.read()
    assert (first.fetched, second.fetched) == (1, 0)
    assert second.has_bytes() == [True] * 3 and left_behind(tmp_path) == []


def test_what_is_no_longer_fresh_is_fetched(tmp_path, monkeypatch):
    first, second = Rank(tmp_path), Rank(tmp_path)
    first.read()
    monkeypatch.setattr(slots, "FRESH_S", 0.0)
    second.read()
    assert second.fetched == 1 and second.has_bytes() == [True] * 3


def test_other_namespaces_fetch_for_themselves(tmp_path, leader):
    stranger = Rank(tmp_path, namespace="m")
    thread = threading.Thread(target=leader.read)
    thread.start()
    assert leader.begun.wait(60)
    stranger.read()  # while the leader is at it: it waits for nobody
    assert stranger.fetched == 1
    leader.go.set()
    thread.join()
    late = Rank(tmp_path, namespace="m2")
    late.read()
    assert late.fetched == 1


def test_a_slow_leader_is_not_waited_for(tmp_path, leader):
    thread = threading.Thread(target=leader.read)
    thread.start()
    assert leader.begun.wait(60)
    follower = Rank(tmp_path)
    start = time.monotonic()
    follower.read(left_s=0.2)
    assert time.monotonic() - start >= 0.1  # half of its own time
    assert follower.fetched == 1 and follower.has_bytes() == [True] * 3
    leader.go.set()
    thread.join()


def test_a_leader_that_is_killed_leaves_its_followers_to_themselves(tmp_path):
    code = (
        "import sys, time; from simm.sglang.shared import SharedReads\n"
        "import ctypes; buffer = ctypes.create_string_buffer(3 << 20)\n"
        "base = ctypes.addressof(buffer)\n"
        "def fetch(): print('leads', flush=True); time.sleep(60)\n"
        "SharedReads('n', sys.argv[1]).read(['a', 'b', 'c'],\n"
        "    [base, base + (1 << 20), base + (2 << 20)], [1 << 20] * 3, 60.0, fetch)\n"
    )
    bootstrap = f"import sglang_release\n{code}"
    process = subprocess.Popen(
        [sys.executable, "-c", bootstrap, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env=dict(os.environ, SIMM_SGLANG_PATH=str(Path(PATH).resolve())),
    )
    assert process.stdout.readline() == "leads\n"
    follower = Rank(tmp_path)
    thread = threading.Thread(target=follower.read)
    thread.start()
    process.send_signal(signal.SIGKILL)
    process.wait()
    thread.join(60)
    assert follower.fetched == 1 and follower.has_bytes() == [True] * 3
    # The name that the dead leader has left is taken over.
    again = Rank(tmp_path)
    again.read()
    assert again.has_bytes() == [True] * 3 and left_behind(tmp_path) == []


def test_who_comes_when_the_leader_is_done_copies_too(tmp_path, leader, monkeypatch):
    """It has opened the file by its name, and gets the lock only when that has been taken away."""
    late, opened, finished = Rank(tmp_path), threading.Event(), threading.Event()
    real = shared._locked

    def locked(file, kind):
        if threading.current_thread().name == "late":
            opened.set()
            assert finished.wait(60)
        return real(file, kind)

    monkeypatch.setattr(shared, "_locked", locked)

    def lead():
        leader.read()
        finished.set()

    threads = [
        threading.Thread(target=lead),
        threading.Thread(target=late.read, name="late"),
    ]
    threads[0].start()
    assert leader.begun.wait(60)
    threads[1].start()
    assert opened.wait(60)
    leader.go.set()
    for each in threads:
        each.join(60)
    assert late.fetched == 0 and late.has_bytes() == [True] * 3


def name_of(rank):
    return rank.shared._folder / rank.shared._digest(KEYS, [SIZE] * 3).hex()


def test_a_name_that_was_left_serves_the_next(tmp_path):
    """Its leader was killed."""
    rank = Rank(tmp_path)
    name_of(rank).touch(mode=0o600)
    rank.read()
    assert rank.fetched == 1 and rank.has_bytes() == [True] * 3
    assert left_behind(tmp_path) == []


def test_nobody_takes_anothers_name_away(tmp_path, leader, monkeypatch):
    """One opens the file just before its leader takes the name away, another takes that name."""
    real, late = shared._locked, Rank(tmp_path)
    opened, go = threading.Event(), threading.Event()

    def locked(file, kind):
        if threading.current_thread().name == "late" and not go.is_set():
            opened.set()
            assert go.wait(60)
        return real(file, kind)

    monkeypatch.setattr(shared, "_locked", locked)
    name_of(late).touch(mode=0o600)
    thread = threading.Thread(target=late.read, name="late", kwargs={"left_s": 0.1})
    thread.start()
    assert opened.wait(60)
    name_of(late).unlink()
    other = threading.Thread(target=leader.read)
    other.start()
    assert leader.begun.wait(60)
    go.set()
    thread.join(60)
    assert late.fetched == 1 and late.has_bytes() == [True] * 3
    assert name_of(late).exists()  # the leader's, which is still at work
    leader.go.set()
    other.join(60)
    assert left_behind(tmp_path) == []


def test_a_folder_without_locks_means_that_all_fetch(tmp_path, monkeypatch):
    def broken(*arguments):
        raise OSError(37, "No locks available")

    rank = Rank(tmp_path)
    monkeypatch.setattr(shared.fcntl, "flock", broken)
    rank.read()
    assert rank.fetched == 1 and rank.has_bytes() == [True] * 3


def test_names_that_were_left_long_ago_are_swept_at_the_start(tmp_path, leader):
    thread = threading.Thread(target=leader.read)
    thread.start()
    assert leader.begun.wait(60)
    folder = leader.shared._folder
    old, young = folder / ("0" * 64), folder / ("1" * 64)
    for path in (old, young):
        path.touch()
    long_ago = time.time() - 2 * shared.LEFTOVER_S
    for path in (old, name_of(leader), folder / "users"):
        os.utime(path, (long_ago, long_ago))
    Rank(tmp_path)
    assert set(left_behind(tmp_path)) == {young, name_of(leader)}
    leader.go.set()
    thread.join(60)


def test_without_room_the_others_fetch(tmp_path, leader, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    follower = Rank(tmp_path)
    monkeypatch.setattr(slots.os, "posix_fallocate", full)
    run_together(leader, [follower])
    assert leader.has_bytes() == [True] * 3
    assert follower.fetched == 1 and follower.has_bytes() == [True] * 3


def test_a_fetch_that_raises_is_not_repeated(tmp_path):
    """And the name is free for the next."""
    rank = Rank(tmp_path)

    def fails():
        rank.fetched += 1
        raise OSError("not the folder's")

    good, rank.fetch = rank.fetch, fails
    with pytest.raises(OSError, match="not the folder's"):
        rank.read()
    assert rank.fetched == 1 and left_behind(tmp_path) == []
    rank.fetch = good
    rank.read()
    assert rank.has_bytes() == [True] * 3


def test_a_folder_of_somebody_else_is_not_used(tmp_path):
    folder = tmp_path / f"simm-sglang-{os.geteuid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    rank = Rank(tmp_path)
    assert not rank.shared.usable
    rank.read()
    assert rank.fetched == 1 and left_behind(tmp_path) == []
    assert not shared.SharedReads("n", str(tmp_path / "missing")).usable


def test_small_reads_take_no_lock(tmp_path):
    reads = shared.SharedReads("n", str(tmp_path))
    assert reads.read(["a"], [0], [4096], 1.0, lambda: [True]) == [True]
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    "transport,cores,extra,ranks,expected",
    [
        ("tcp", 64, {}, 8, 1),
        ("tcp", 64, {}, 1, 2),
        ("shm", 8, {}, 8, 2),
        ("shm", 7, {}, 8, 1),
        ("shm", 64, {"share_reads": "on"}, 8, 1),
        ("verbs", 2, {}, 8, 2),
        ("tcp", 64, {"share_reads": "off"}, 8, 2),
    ],
)
def test_ranks_share_where_it_pays(
    backend_of, cluster, tmp_path, monkeypatch, transport, cores, extra, ranks, expected
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(shared, "FOLDER", str(tmp_path))
    monkeypatch.setattr(shared.SharedReads.__init__, "__defaults__", (str(tmp_path),))
    shape = pools.Shape(tokens=128, layers=8, kv_lora_rank=16384)  # 1 MiB a page
    source = pools.mla(shape)
    pools.fill(source, 1)
    names = hashes(4)
    backend_of(source, extra, is_mla_model=True).batch_set_v1(names, pools.indices_of(source, 4))
    targets = [pools.mla(shape) for _ in range(2)]
    readers = [
        backend_of(pool, extra, is_mla_model=True, tp_size=ranks, tp_rank=rank)
        for rank, pool in enumerate(targets)
    ]
    for client in cluster.clients:
        client.servers = lambda: [{"name": "s", "address": "a:1", "transport": transport}]
    cluster.calls.clear()
    cluster.delay_s = 0.1
    results = [None, None]

    def read(index):
        indices = pools.indices_of(targets[index], 4)
        results[index] = readers[index].batch_get_v1(names, indices)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[True] * 4] * 2
    assert [name for name, _, _ in cluster.calls].count("get") == expected
    for pool in targets:
        assert pools.page_bytes(pool, 3) == pools.page_bytes(source, 3)
