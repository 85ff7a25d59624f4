"""`join`: a new node's data from a snapshot, instead of all blocks since genesis."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.common import Failure, home_option, json_option, option, settings_of, show

if TYPE_CHECKING:
    from node.join import Progress

LINE_EVERY_S = 0.2
WAITING_EVERY_S = 5.0


@click.command()
@home_option
@option("--keep-key", is_flag=True,
        help="Sign with this node's key though it is a validator's. Only where no node ever ran with it.")  # fmt: skip
@json_option
def join(home: Path, keep_key: bool, as_json: bool) -> None:
    """Fetch a new node's state from its peers, checked piece by piece, instead of executing every block since genesis.

    HOME holds the node's configuration (with p2p.peers), key and genesis, as `medchain init --genesis` makes them. Each
    of these peers must know the node's key: unless it is a validator's, it stands in their p2p.known_keys.

    The peers are trusted in nothing: all of it must lead back to the validators in genesis. A peer that sends something
    else is named. Cut off, the same command goes on where it stopped. Afterwards `medchain start` catches up by blocks.

    The node then has the last blocks whole (as many as transactions stay valid for) and no histories from before.

    It does not know what its key signed if a node ran with it before. So the key of a validator signs nothing any more
    (MC5007): the node follows, and the validators replace its key.

    \b
    Example:
        medchain join --home pharmacy
    """
    import asyncio

    from node import keys
    from node.join import CannotJoin
    from node.join import join as run
    from node.logs import make_logger

    loaded = settings_of(home)
    line = _Line()
    log = make_logger("warning", loaded.log.format)
    try:
        key = keys.load(loaded.key_path)
        height, signs, progress = asyncio.run(run(loaded, key, log, line.told, keep_key=keep_key))
    except CannotJoin as error:
        raise Failure(error.code, str(error)) from None
    finally:
        line.end()
    document = {
        "home": str(home),
        "height": height,
        "signs": signs,
        "bytes": progress.size_bytes,
        "seconds": round(time.monotonic() - progress.started_s, 1),
        "pieces": {key.hex(): count for key, count in progress.peers.items()},
        "refused": {key.hex(): reason for key, reason in progress.liars.items()},
    }
    show(document, as_json)


class _Line:
    """Progress with rate and time left, on a terminal's last line; for a pipe a line now and then."""

    def __init__(self) -> None:
        self._shown_s = 0.0
        self._waiting_shown_s = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def told(self, progress: Progress) -> None:
        now_s = time.monotonic()
        if progress.waits_for:
            if now_s - self._waiting_shown_s >= WAITING_EVERY_S:
                self._waiting_shown_s = now_s
                click.echo(f"waiting: {progress.waits_for}", err=True)
            return
        if now_s - self._shown_s < (LINE_EVERY_S if self._is_terminal else 10 * LINE_EVERY_S):
            return
        self._shown_s = now_s
        share = progress.buckets_done / progress.buckets
        left = "time left unknown" if progress.left_s is None else f"{progress.left_s:.0f} s left"
        text = (
            f"height {progress.height}: {share:.0%} of the state, {progress.blocks_left} blocks to go, "
            f"{progress.size_bytes / 1e6:.1f} MB at {progress.rate_bytes_per_s / 1e6:.1f} MB/s from "
            f"{len(progress.peers)} peers, {left}"
        )
        click.echo(f"\r{text}\x1b[K" if self._is_terminal else text, nl=not self._is_terminal, err=True)

    def end(self) -> None:
        if self._is_terminal and self._shown_s:
            click.echo(err=True)
