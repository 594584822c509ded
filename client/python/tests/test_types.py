"""What mypy --strict says about the package and about a program that uses it."""

from __future__ import annotations

import subprocess
import sys

SAMPLE = """
import asyncio
from typing import Optional
import simm
from simm import kv
from simm._native import CODES, NativeClient


def use(client: simm.Client) -> Optional[bytes]:
    stored: bool = client.put("key", b"value", replace=True)
    lengths: list[Optional[int]] = client.get_many_into(["a"], [bytearray(5)])
    with client.register(bytearray(5)) as registration:
        registration.close()
    total: int = client.clear() + sum(length or 0 for length in lengths)
    print(stored, total, client.stats()["gets"], client.locate("a")["server"])
    return client.get("key")


async def use_async() -> None:
    async with await simm.AsyncClient.connect("127.0.0.1:30001", deadline=1.0) as client:
        values: list[Optional[bytes]] = await client.get_many(["a", b"b"])
        print(values, await client.put("a", b"1"))


def use_kv() -> list[int]:
    kv.set_flag("cm_primary_node_ip", "127.0.0.1")
    store = kv.Store()
    block = store.allocate(10)
    there: list[bool] = store.mexists(["a"])
    there[0] = False
    return store.mget(["a"], [block.view()]) + [store.put("a", block.view())]


def use_native(client: NativeClient) -> list[int]:
    client.get_async(["a"], [0], [0], 1000, False, lambda codes, sizes: print(codes, sizes))
    codes, sizes = client.get(["a"], [0], [0], CODES["OK"])
    return codes + sizes


asyncio.run(use_async())
"""


def mypy(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-incremental", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_program_is_understood(tmp_path):
    sample = tmp_path / "sample.py"
    sample.write_text(SAMPLE)
    done = mypy(sample)
    assert done.returncode == 0, done.stdout


def test_a_mistake_is_found(tmp_path):
    sample = tmp_path / "wrong.py"
    sample.write_text("import simm\nx: int = simm.Client().get('key')\n")
    done = mypy(sample)
    assert done.returncode == 1 and "Incompatible types in assignment" in done.stdout


def test_the_package_itself_is_strict():
    done = mypy("--ignore-missing-imports", "-p", "simm")
    assert done.returncode == 0, done.stdout
