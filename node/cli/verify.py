"""`verify`: re-check a whole data folder without trusting anything in it."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.common import bar, home_option, json_option, settings_of, show


@click.command()
@home_option
@json_option
def verify(home: Path, as_json: bool) -> None:
    """Re-check a stopped node's data: hashes, signatures, certificates, execution, roots, and that the log of votes has
    its end. Status 1 if anything differs.

    Where old blocks were pruned there is nothing to execute from: there, the state is compared with what a quorum
    certified, and headers and certificates with each other from genesis on.

    \b
    Example:
        medchain verify --home cluster/hospital
    """
    from node.home import open_home
    from storage.verification import verify_store

    opened = open_home(settings_of(home))
    try:
        tip_height = opened.store.tip.height
        opened.records()  # as far as store and log know of each other
        with bar("blocks", tip_height) as shown:
            verify_store(opened.kv, opened.store, opened.executor, lambda height, _: shown.update(height - shown.pos))
        pruned = opened.store.pruned
    finally:
        opened.close()
    document = {"home": str(home), "chain": opened.genesis.chain_id.hex(), "height": tip_height, "verified": True}
    show(document | ({"pruned": pruned} if pruned else {}), as_json)
