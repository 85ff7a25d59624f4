"""`backup` and `restore`: a stopped node's data as one file, and back (docs/storage.md)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.common import home_option, json_option, option, show

if TYPE_CHECKING:
    from node.config import NodeConfig


@click.command()
@home_option
@option("--out", required=True, type=click.File("wb", lazy=False), metavar="FILE",
        help="Where the archive goes; - is stdout.")  # fmt: skip
@option("--with-vault", is_flag=True, help="Sealed records too. Erase such an archive when they have to be erased.")
@json_option
def backup(home: Path, out: Any, with_vault: bool, as_json: bool) -> None:
    """Write a stopped node's data into one tar archive: chain, log and, if asked for, vault; no private keys.

    It is checked first: its state must be the one a quorum certified. Other nodes go on meanwhile; a follower kept for
    backups need not be missed by anyone.

    \b
    Example:
        medchain backup --home cluster/hospital --out hospital.tar
    """
    from node import config
    from node.home import open_home
    from storage.archive import backup as write

    opened = open_home(config.load(home))
    try:
        size_bytes = sum(path.stat().st_size for path in opened.folder.db.iterdir() if path.is_file())
        with _bar(size_bytes) as bar:
            manifest = write(
                opened.folder, opened.kv, opened.store, out, with_vault=with_vault,
                progress=lambda done: bar.update(min(done, size_bytes) - bar.pos),
            )  # fmt: skip
    finally:
        opened.close()
    document = {"home": str(home), "chain": manifest.chain_id.hex(), "height": manifest.height, "file": out.name}
    if out.name != "<stdout>":
        show(document, as_json)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@home_option
@option("--keep-key", is_flag=True,
        help="Sign with this node's key again. Only where it has not run since the backup was made.")  # fmt: skip
@json_option
def restore(file: Path, home: Path, keep_key: bool, as_json: bool) -> None:
    """Make a node's data of an archive; from there on the node fetches what is newer from its peers.

    HOME holds the node's configuration, key and genesis, as `medchain init --genesis` makes them, and no data beyond
    those of a new chain. The archive is trusted in nothing: its state must be certified by validators that lead back to
    the genesis in it, and `medchain start` compares that with yours.

    A validator that comes back from a backup does not know what it signed since. Its key therefore signs nothing any
    more (MC5007): the node follows, and the validators replace its key.

    \b
    Example:
        medchain restore hospital.tar --home hospital
    """
    from node import config
    from node.home import DATA, clear_new
    from storage.archive import restore as make

    loaded = config.load(home)
    clear_new(loaded)
    archive: Any
    with click.open_file(str(file), "rb") as archive:
        size_bytes = 0 if str(file) == "-" else file.stat().st_size
        with _bar(size_bytes) as bar:
            manifest = make(
                archive, loaded.home / DATA, with_log=keep_key,
                progress=lambda done: bar.update(min(done, size_bytes) - bar.pos),
            )  # fmt: skip
    signs = keep_key or not _mute(loaded)
    document = {"home": str(home), "chain": manifest.chain_id.hex(), "height": manifest.height, "signs": signs}
    show(document, as_json)


def _bar(size_bytes: int) -> Any:
    return click.progressbar(length=max(size_bytes, 1), label="bytes", file=sys.stderr, show_pos=True)


def _mute(loaded: NodeConfig) -> bool:
    """Make a validator's key sign nothing any more; whether it was one's."""
    from node import keys
    from node.home import open_home
    from storage.shortening import mute

    opened = open_home(loaded)
    try:
        public = keys.load(loaded.key_path).public
        if opened.store.tip.validators.index(public) is None:
            return False
        opened.store.mute(public)
        opened.wal.replay()
        mute(opened.wal, public)
        return True
    finally:
        opened.close()
