"""The limit of this machine: signature checks a second with as many processes as there are nodes, divided by them.

Run as `python -m bench.calibrate <seconds>`: waits for a line, checks for that long, prints checks a second.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence

from ledger.crypto import KeyPair, verify_joined

BODY_SIZE_BYTES = 155  # with signature and key about 250, as a transaction of the mix
SECONDS = 5.0  # cores of a host that is shared change by a tenth within a second: two made every third run void


def checks_per_s(seconds: float) -> float:
    """On one processor, one after the other, over a thousand different messages."""
    key = KeyPair.from_seed(bytes(32))
    wires = []
    for number in range(1_000):
        body = number.to_bytes(BODY_SIZE_BYTES, "big")
        wires.append(key.sign(body) + key.public + body)
    count, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        for wire in wires[:100]:
            if not verify_joined(wire):
                raise AssertionError("a signature of our own is invalid")
        wires = wires[100:] + wires[:100]
        count += 100
    return count / (time.perf_counter() - began_s)


def limit(nodes: int, seconds: float = SECONDS) -> float:
    """L: transactions a second that `nodes` nodes on this machine could check, if they did nothing else."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.calibrate", str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(nodes)
    ]
    try:
        for process in processes:  # all have loaded before any begins
            _line(process)
        rates = []
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            rates.append(float(_line(process)))
        return sum(rates) / nodes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a calibrating process ended")
    return line


def main(arguments: Sequence[str]) -> int:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        return 1
    sys.stdout.write(f"{checks_per_s(float(arguments[0]))}\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
