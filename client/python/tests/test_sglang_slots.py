"""Memory in which one rank hands values on to others: locks, labels, deaths, sizes."""

import fcntl
import hashlib
import multiprocessing
import random
import time

import numpy as np
import pytest
import sglang_release  # noqa: F401
from simm._native import gather, scatter
from simm.sglang import slots
from simm.sglang.slots import Slots


def digest(name):
    return hashlib.sha256(str(name).encode()).digest()


def values_of(name, sizes):
    """Bytes that only this name has."""
    return [np.full(size, (name * 7 + index) % 256, np.uint8) for index, size in enumerate(sizes)]


def put(own, name, sizes=(5000, 70_001)):
    values = values_of(name, sizes)
    own.put(digest(name), [value.ctypes.data for value in values], list(sizes))


def taken(own, name, sizes=(5000, 70_001)):
    """None: nothing was there. Otherwise whether all bytes are right."""
    into = [np.zeros(size + 1, np.uint8) for size in sizes]
    if not own.take(digest(name), [value.ctypes.data for value in into], list(sizes)):
        return None
    wanted = values_of(name, sizes)
    right = all((got[:-1] == want).all() for got, want in zip(into, wanted, strict=True))
    return right and not any(got[-1] for got in into)


@pytest.fixture
def two(tmp_path):
    """Two processes' slots of one folder."""
    pair = Slots(tmp_path), Slots(tmp_path)
    yield pair
    for own in pair:
        own.close()


@pytest.mark.parametrize("size", [0, 1, 63, 64, 1023, 1024, 1025, 4096, 70_001])
@pytest.mark.parametrize("shift", [0, 1, 17])
def test_copies_of_any_size_and_alignment(size, shift):
    rng = np.random.default_rng(size)
    value = rng.integers(0, 256, size + shift, np.uint8)[shift:]
    packed = np.zeros(2 * size + 2, np.uint8)
    base = packed.ctypes.data + 1
    gather([value.ctypes.data] * 2, [size] * 2, base)
    assert (packed[1 : 1 + size] == value).all() and (packed[1 + size : -1] == value).all()
    assert packed[0] == packed[-1] == 0
    back = np.zeros(size + shift + 1, np.uint8)
    scatter([back.ctypes.data + shift], [size], base + size)
    assert (back[shift:-1] == value).all() and not back[:shift].any() and back[-1] == 0


def test_copies_refuse_what_is_no_batch():
    for call in (gather, scatter):
        for wrong in (([1], [1, 2], 0), ([-1], [1], 0), (["a"], [1], 0), (None, [], 0)):
            with pytest.raises((TypeError, ValueError, OverflowError)):
                call(*wrong)


def test_the_oldest_is_replaced(two):
    mine, others = two
    for name in range(slots.SLOTS + 1):
        put(mine, name)
    assert taken(others, 0) is None
    assert [taken(others, name) for name in range(1, slots.SLOTS + 1)] == [True] * slots.SLOTS


def test_a_slot_that_is_read_is_not_written(two, tmp_path):
    mine, others = two
    for name in range(slots.SLOTS):
        put(mine, name)
    readers = []
    for path in sorted(tmp_path.glob("slot-*")):
        put(others, 100 + len(readers))  # one of those that nobody reads
        readers.append(path.open("rb"))
        fcntl.flock(readers[-1], fcntl.LOCK_SH)
    before = [path.read_bytes() for path in sorted(tmp_path.glob("slot-*"))]
    with pytest.raises(OSError, match="no slot could be had"):
        put(others, 200)
    assert before == [path.read_bytes() for path in sorted(tmp_path.glob("slot-*"))]
    for reader in readers:
        reader.close()
    put(others, 200)
    assert taken(mine, 200) is True


def test_a_mapping_keeps_no_lock(two, tmp_path):
    mine, others = two
    put(mine, 1)
    assert taken(others, 1) is True
    with open(tmp_path / "slot-0", "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_writer_that_dies_leaves_nothing(two, monkeypatch):
    mine, others = two
    for name in range(slots.SLOTS):
        put(mine, name)

    def dies(addresses, sizes, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(slots, "gather", dies)
        with pytest.raises(KeyboardInterrupt):
            put(mine, 9)
    assert taken(others, 9) is None and taken(others, 0) is None  # 0 was the oldest
    put(others, 10)  # the empty one is the next
    assert [taken(mine, name) for name in (1, 2, 3, 10)] == [True] * 4


def test_what_another_clock_has_written_is_not_taken(two, monkeypatch):
    mine, others = two
    with monkeypatch.context() as patch:
        patch.setattr(slots.time, "monotonic", lambda: 1e12)
        put(mine, 1)
    assert taken(others, 1) is None


def test_slots_grow_under_those_who_have_them_mapped(two):
    mine, others = two
    put(mine, 1)
    assert taken(others, 1) is True
    large = (300_000, 1)
    for name in range(2, 2 + slots.SLOTS):
        put(mine, name, large)
    for name in range(2, 2 + slots.SLOTS):
        assert taken(others, name, large) is True


def test_without_room_for_another_the_old_ones_serve(two, monkeypatch):
    mine, others = two
    put(mine, 1)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slots.os, "posix_fallocate", full)
    put(mine, 2)
    assert taken(others, 1) is None and taken(others, 2) is True


def test_slots_that_were_taken_away_are_made_anew(two, tmp_path):
    mine, others = two
    put(mine, 1)
    assert taken(others, 1) is True
    for path in tmp_path.glob("slot-*"):
        path.unlink()
    assert taken(others, 1) is None
    put(others, 2)
    assert taken(mine, 2) is True


def test_the_last_one_that_closes_frees_the_memory(tmp_path):
    first, second = Slots(tmp_path), Slots(tmp_path)
    put(first, 1)
    first.close()
    first.close()
    assert taken(second, 1) is True
    assert taken(first, 1) is None
    with pytest.raises(OSError):
        put(first, 2)
    second.close()
    assert not list(tmp_path.glob("slot-*"))


def test_what_a_killed_process_has_left_is_freed_by_the_next_start(tmp_path):
    (tmp_path / "slot-0").write_bytes(bytes(10_000))
    own = Slots(tmp_path)
    assert not list(tmp_path.glob("slot-*"))
    own.close()


def rank(folder, seed, rounds, answers):
    """Hands on and takes at random; the bytes that it takes must be those of the name."""
    own, choice = Slots(folder), random.Random(seed)
    sizes = (300_000, 123_457)
    found = wrong = 0
    end = time.monotonic() + 60
    while found < rounds and time.monotonic() < end:
        name = choice.randrange(6)
        if choice.random() < 0.4:
            try:
                put(own, name, sizes)
            except OSError:
                pass  # all are in use
        right = taken(own, name, sizes)
        found += right is not None
        wrong += right is False
    own.close()
    answers.put((found, wrong))


def test_processes_that_hand_on_and_take_at_once_never_mix_bytes(tmp_path):
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    started = [
        context.Process(target=rank, args=(tmp_path, seed, 300, answers)) for seed in range(4)
    ]
    for process in started:
        process.start()
    results = [answers.get(timeout=90) for _ in started]
    for process in started:
        process.join()
    assert all(found >= 300 for found, _ in results), results
    assert not any(wrong for _, wrong in results), results
    assert not list(tmp_path.glob("slot-*"))
