"""Where one node of a loaded cluster spends its time: `python -m bench.profile` prints a table and draws a flame graph.

py-spy samples the node's Python stacks from outside for the whole window, so that nothing in the product knows of it.
Samples in which a thread does not run are left out; the stages' shares (bench/stages.py) are of the processor time that
the kernel counted for the main thread. What it counted for all others is one figure: of the store's, which compacts,
py-spy sees nothing. Waiting for a core is told from idleness by the kernel's own account. The node is
not stopped to be read, as that cost it four fifths of its throughput here: now and then a stack is read while it
changes, and counts for `other` or is dropped.

Must not know: what a stage does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import flame, machine, stages
from bench.command import sayer
from bench.mix import MIXES
from bench.observer import BenchError, processor_s, status
from bench.options import Options
from bench.report import document
from bench.run import run
from bench.stage import RESULTS
from ledger.errors import ConfigError
from node.cluster.runner import ClusterNode, LocalCluster

RATE_PER_S = 100  # samples, at a few per cent of a core
MARGIN_S = 0.5  # of the window at each end, for the sampler to start and end within the load


_say = sayer("profile")


class Profiler:
    """Samples one node while a run loads it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.stacks: dict[stages.Stack, int] = {}
        self.account: stages.Account | None = None

    async def __call__(self, cluster: LocalCluster, window_s: float) -> None:
        """From now on for a window."""
        node = cluster.nodes[self._number]
        out = cluster.directory / "profile.txt"
        duration_s = max(1, int(window_s - 2 * MARGIN_S))
        await asyncio.sleep(MARGIN_S)
        before, began_s = await _used(node), time.monotonic()
        await self._sample(node, duration_s, out)
        after, took_s = await _used(node), time.monotonic() - began_s
        self.stacks = stages.parse(out.read_text("utf-8").splitlines())
        processor_s, main_s, waiting_s, txs = (end - start for start, end in zip(before, after, strict=True))
        self.account = stages.account(self.stacks, took_s, round(txs), processor_s, main_s, waiting_s)

    async def _sample(self, node: ClusterNode, duration_s: int, out: Path) -> None:
        program = shutil.which("py-spy", path=str(Path(sys.executable).parent))
        if program is None or node.pid is None:
            raise BenchError("py-spy is not in this environment, or the node is gone")
        process = await asyncio.create_subprocess_exec(
            program, "record", "--pid", str(node.pid), "--duration", str(duration_s), "--rate", str(RATE_PER_S),
            "--format", "raw", "--nolineno", "--nonblocking", "--output", str(out),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode:
            raise BenchError(
                f"py-spy: {errors.decode('utf-8', 'replace').strip()[-300:]}; it must be allowed to trace the node: "
                "as root, or with kernel.yama.ptrace_scope 0"
            )


async def _used(node: ClusterNode) -> tuple[float, float, float, float]:
    """(processor seconds, those of its main thread, seconds in which that waited for a core, transactions executed) so
    far.
    """
    found, pid = await status(node.api_url), node.pid or 0
    main_s = processor_s(Path(f"/proc/{pid}/task/{pid}/stat"))
    return found["account"]["process_s"], main_s, waited_s(pid), found["counters"]["transactions"]


def waited_s(pid: int) -> float:
    """How long a process's main thread was ready to run and did not, by the kernel; 0 where it does not say."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def keep(profiler: Profiler, run_document: dict[str, Any], stem: str) -> None:
    assert profiler.account is not None
    RESULTS.mkdir(parents=True, exist_ok=True)
    config = run_document["config"]
    title = f"One node of {config['nodes']}, {config['rate']:.0f} tx/s of the mix {config['mix']}, {config['commit']}"
    (RESULTS / f"{stem}.svg").write_text(flame.to_svg(profiler.stacks, title), "utf-8")
    (RESULTS / f"{stem}.txt").write_text(stages.to_lines(profiler.stacks), "utf-8")
    us_per_tx = {stage: profiler.account.us_per_tx(stage) for stage in (*stages.STAGES, stages.OTHER_THREADS)}
    found = {"format": "medchain/profile/2", **machine.place(), "us_per_tx": us_per_tx}
    found |= {"account": asdict(profiler.account), "run": run_document}
    (RESULTS / f"{stem}.json").write_text(json.dumps(found) + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.profile", description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=4, help="validators (default 4)")
    parser.add_argument("--node", type=int, default=0, help="number of the one to look at (default 0)")
    parser.add_argument("--share", type=float, default=0.3, help="load as a share of the limit L (default 0.3)")
    parser.add_argument("--duration", type=float, default=20.0, help="seconds of load after the warm-up (default 20)")
    parser.add_argument("--mix", choices=sorted(set(MIXES) - {"sized"}), default="standard", help="of kinds")
    given = parser.parse_args(arguments)
    options = Options(nodes=given.nodes, share=given.share, duration_s=given.duration, mix=given.mix)
    for problem in options.problems():
        parser.error(problem)
    if not 0 <= given.node < given.nodes or not given.share > 0 or not given.duration >= 3:
        parser.error("--node: one of the nodes; --share: above 0; --duration: 3 or more")
    profiler = Profiler(given.node)
    try:
        found = document(*asyncio.run(run(options, _say, profiler)))
    except (BenchError, ConfigError, OSError, EOFError, TimeoutError) as error:
        _say(f"no result: {error or type(error).__name__}")
        return 1
    except KeyboardInterrupt:
        return 130
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-profile"
    keep(profiler, found, stem)
    assert profiler.account is not None
    results = found["results"]
    sys.stdout.write("\n".join(stages.to_text(profiler.account)) + "\n")
    sys.stdout.write(
        f"{sum(profiler.stacks.values())} samples, {profiler.account.txs} transactions; the cluster committed "
        f"{results['committed_per_s']:.0f} tx/s, {results['committed_per_s'] / results['limit']:.0%} of L\n"
    )
    _say(f"kept in {RESULTS.name}/{stem}.svg, .json and .txt (the stacks)")
    return 0 if found["sound"] else 1


if __name__ == "__main__":
    sys.exit(main())
