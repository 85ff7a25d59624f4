"""`prune` and `repair`: what a stopped node's data may need (docs/storage.md)."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.common import bar, home_option, json_option, option, settings_of, show


@click.command()
@option("--keep", type=click.IntRange(1), metavar="BLOCKS",
        help="How many of the last blocks stay whole. Default: the setting storage.keep_blocks.")  # fmt: skip
@home_option
@json_option
def prune(home: Path, keep: int | None, as_json: bool) -> None:
    """Forget old blocks of a stopped node, and give their room back to the disk.

    Headers, certificates and the state stay: the node proves and validates as before, and no longer shows transactions,
    receipts and histories of the blocks that are gone. There is no way back but from a backup or from other nodes, so
    somebody should keep all of it. A running node does the same from time to time once storage.keep_blocks is set.

    \b
    Example:
        medchain prune --home cluster/hospital --keep 100000
    """
    from node.home import open_home
    from storage.pruning import keep_blocks_min
    from storage.pruning import prune as slices

    loaded = settings_of(home)
    opened = open_home(loaded)
    try:
        kv, store = opened.kv, opened.store
        needed = keep_blocks_min(store.tip.parameters)
        if keep is None and loaded.storage.keep_blocks:
            keep = max(loaded.storage.keep_blocks, needed)
        if not keep:
            raise click.UsageError("say how many blocks to keep with --keep, or set storage.keep_blocks")
        if keep < needed:
            raise click.UsageError(f"--keep: this chain needs {needed} blocks at least")
        before, first = kv.approximate_size_bytes(), store.pruned
        with bar("blocks", store.tip.height - keep - first) as shown:
            for height in slices(kv, store, keep):
                shown.update(height - first - shown.pos)
        click.echo("compacting", err=True)
        kv.compact()
        pruned, after = store.pruned, kv.approximate_size_bytes()
    finally:
        opened.close()
    show({"home": str(home), "pruned": pruned, "bytes_before": before, "bytes_after": after}, as_json)


@click.command()
@home_option
@json_option
def repair(home: Path, as_json: bool) -> None:
    """Check a stopped node's data and replace what is damaged; started again, the node fetches the rest from its peers.

    What is damaged is moved into data/damaged-N and may be removed once the node is well. A validator signs nothing
    before it has again all that it once had. If its log is damaged, nobody knows what its key signed: it signs nothing
    any more, and the validators replace it (MC5007).

    \b
    Example:
        medchain repair --home cluster/hospital
    """
    from node.repair import repair as mend

    with bar("blocks", 1) as shown:

        def progress(height: int, tip_height: int) -> None:
            shown.length = max(tip_height, 1)
            shown.update(height - shown.pos)

        report = mend(settings_of(home), progress)
    document = {
        "home": str(home),
        "damages": list(report.damages),
        "moved_to": None if report.aside is None else str(report.aside),
        "signs_from": report.refetch + 1 if report.refetch else 0,
        "muted": report.muted,
    }
    show(document, as_json)
