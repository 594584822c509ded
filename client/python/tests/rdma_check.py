"""simm.Client over RDMA: run in the virtual machine of tests/rdma/vm.sh, whose device is rxe0.

Values go from and to registered numpy memory; the bytes are checked, and that none was copied.
"""

import numpy as np
from cluster import Cluster

import simm

VALUES, VALUE_BYTES = 16, 1_310_720


class RdmaCluster(Cluster):
    """Its data servers offer RDMA, not shared memory, which would be taken first."""

    def _start(self, name, program, *arguments):
        more = ("--transport", "verbs") if program == "simm-dataserver" else ()
        super()._start(name, program, *arguments, *more)


def check(client):
    rng = np.random.default_rng(1)
    source = rng.integers(0, 256, (VALUES, VALUE_BYTES), np.uint8)
    target = np.zeros_like(source)
    keys = [f"rdma-{index}" for index in range(VALUES)]
    with client.register(source), client.register(target):
        assert client.put_many(dict(zip(keys, source, strict=True))) == [True] * VALUES
        assert client.put(keys[0], source[0]) is False
        assert client.exists_many([*keys, "no"]) == [True] * VALUES + [False]
        assert client.get_many_into(keys, list(target)) == [VALUE_BYTES] * VALUES
        assert (target == source).all()
        target[:] = 0
        assert client.get_into(keys[5], target[5]) == VALUE_BYTES
        assert client.get_into("no", target[6]) is None
        assert (target[5] == source[5]).all() and not target[:5].any()
    (server,) = client.servers()
    assert server["transport"] == "verbs", server
    stats = client.stats()
    assert stats["bytes_read"] >= (VALUES + 1) * VALUE_BYTES
    assert stats["payload_bytes_copied"] == 0 and stats["bounced_values"] == 0, stats
    # The same without registration: right bytes, whatever it costs.
    loose = np.zeros(VALUE_BYTES, np.uint8)
    assert client.get_into(keys[1], loose) == VALUE_BYTES and (loose == source[1]).all()
    assert client.delete_many(keys) == [True] * VALUES


if __name__ == "__main__":
    with RdmaCluster(servers=1, memory="128MiB") as running:
        with simm.Client(running.address, transport="verbs", deadline=60.0) as opened:
            check(opened)
    print("rdma: Python over verbs: all bytes right, none copied")
