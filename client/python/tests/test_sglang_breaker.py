"""When the breaker opens, and that a healthy but slow cluster never opens it (a fake one)."""

import fake_native
import pytest
import sglang_pools as pools
from sglang.srt.mem_cache.hicache_storage import PoolName, PoolTransfer
from sglang_backend import Hands, backend_of, cluster, hashes  # noqa: F401
from simm.sglang.guards import Breaker, NegativeCache
from simm.sglang.transfer import Transfer

CODES = fake_native.CODES
PAGES = 8


class Steps:
    """A client whose calls take the given times and then answer with the given code."""

    def __init__(self, *answers):
        self.answers = list(answers)  # (seconds, code); seconds None: until the deadline
        self.now = 0.0

    def clock(self):
        return self.now

    def _codes(self, keys, deadline_ms):
        seconds, code = self.answers.pop(0)
        self.now += deadline_ms / 1000 if seconds is None else seconds
        return [CODES[code]] * len(keys)

    def get(self, keys, addresses, sizes, deadline_ms):
        codes = self._codes(keys, deadline_ms)
        return codes, [size if code == 0 else 0 for code, size in zip(codes, sizes)]

    def put(self, keys, addresses, sizes, deadline_ms):
        return self._codes(keys, deadline_ms)


@pytest.fixture
def pool(backend_of):
    """Eight pages of 512 KiB, so that a step of 1 MiB is two of them."""
    shape = pools.Shape(tokens=64, layers=8, heads=8, head_dim=512)
    return backend_of(pools.mha(shape))._pools.get("kv")


def opened(pool, steps, what, deadlines):
    """Whether the breaker opens over reads or writes of the pool that share one deadline."""
    breaker = Breaker(lambda: True, lambda: None)
    breaker.open = lambda reason: reasons.append(reason)
    reasons = []
    transfer = Transfer(steps, CODES, breaker, NegativeCache(0), 1 << 20, steps.clock)
    budget = transfer.budget(deadlines)
    move = getattr(transfer, what)
    move(pool, hashes(PAGES), pools.indices_of(pool.pool, PAGES), budget)
    return bool(reasons)


LATE = {"read": "MISS", "write": "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("what", LATE)
def test_a_call_that_got_nothing_in_all_its_time_opens_it(pool, what):
    assert opened(pool, Steps((None, LATE[what]), *[(0, LATE[what])] * 3), what, 1.0)


@pytest.mark.parametrize("what", LATE)
def test_a_slow_last_step_behind_good_ones_does_not(pool, what):
    late = [(None, LATE[what])] * 3  # the last of it is given what rounding has left
    assert not opened(pool, Steps((0.45, "OK"), (0.45, "OK"), *late), what, 1.0)
    assert not opened(pool, Steps((0.2, "OK"), *late), what, 1.0)


def test_the_rest_of_a_write_that_no_server_takes_does_not(pool):
    assert not opened(pool, Steps((0, "OK"), *[(0, "UNAVAILABLE")] * 3), "write", 1.0)
    assert opened(pool, Steps(*[(0, "UNAVAILABLE")] * 4), "write", 1.0)


@pytest.mark.parametrize("what", LATE)
def test_a_step_without_a_fair_chance_does_not(pool, what):
    steps = [(0.6, "BUSY" if what == "write" else "OK"), *[(None, LATE[what])] * 3]
    assert not opened(pool, Steps(*steps), what, 1.0)
    assert not opened(pool, Steps((None, LATE[what]), *[(0, LATE[what])] * 3), what, 0.05)


@pytest.mark.parametrize("what,late", [("batch_get_v2", "MISS"), ("batch_set_v2", "BUSY")])
def test_a_second_pool_left_with_little_time_does_not(backend_of, cluster, what, late):
    anchor, side = pools.mha(), pools.mha()
    backend = backend_of(anchor, {"deadline_s": 0.4, "set_deadline_s": 0.4})
    backend.register_mem_host_pool_v2(side, PoolName.SWA)
    backend.register_mem_host_pool_v2(pools.mamba(), PoolName.MAMBA)
    names = hashes(4)
    assert all(backend.batch_set_v1(names, pools.indices_of(anchor, 4)))

    def slow(keys, addresses, sizes, deadline_ms):
        """The first call takes most of the time, the second gets nothing in the rest."""
        hands.now += [0.37, deadline_ms / 1000][min(len(asked), 1)]
        asked.append(deadline_ms)
        codes = [CODES["OK" if len(asked) == 1 else late]] * len(keys)
        return (codes, sizes) if what == "batch_get_v2" else codes

    asked = []
    client, hands = cluster.clients[-1], Hands(backend, cluster)
    client.get = client.put = slow
    indices = pools.indices_of(anchor, 4)
    transfers = [
        PoolTransfer(name=name, host_indices=indices, keys=names)
        for name in (PoolName.KV, PoolName.SWA)
    ]
    results = getattr(backend, what)(transfers)
    assert results == {PoolName.KV: [True] * 4, PoolName.SWA: [False] * 4}
    assert asked == [400, 30]
    assert backend.counters()["breaker_opened"] == 0
