"""`backup` and `restore`: a stopped node's data as one file, and back (docs/storage.md)."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import click

from node.cli.common import bar, home_option, json_option, option, output, settings_of, show

DRAFT = "restoring"  # in the node's home, until it is whole


@click.command()
@home_option
@option("--out", required=True, metavar="FILE", help="Where the archive goes; - is stdout.")
@option("--with-vault", is_flag=True, help="Sealed records too. Erase such an archive when they have to be erased.")
@json_option
def backup(home: Path, out: str, with_vault: bool, as_json: bool) -> None:
    """Write a stopped node's data into one tar archive: chain, log and, if asked for, vault; no private keys.

    It is checked first: its state must be the one a quorum certified. Other nodes go on meanwhile; a follower kept for
    backups need not be missed by anyone.

    \b
    Example:
        medchain backup --home cluster/hospital --out hospital.tar
    """
    from node.home import open_home
    from storage.archive import backup as write

    opened = open_home(settings_of(home))
    try:
        size_bytes = sum(path.stat().st_size for path in opened.folder.db.iterdir() if path.is_file())
        with bar("bytes", size_bytes) as read, output(out) as file:
            manifest = write(
                opened.folder, opened.kv, opened.store, file, with_vault=with_vault,
                progress=lambda done: read.update(min(done, size_bytes) - read.pos),
            )  # fmt: skip
    finally:
        opened.close()
    document = {"home": str(home), "chain": manifest.chain_id.hex(), "height": manifest.height, "file": out}
    if out != "-":
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
    those of a new chain. The archive is trusted in nothing: it must be of that genesis, and is checked as `medchain
    verify` checks. If anything is wrong with it, HOME stays as it was.

    A validator that comes back from a backup does not know what it signed since. Its key therefore signs nothing any
    more (MC5007): the node follows, and the validators replace its key.

    \b
    Example:
        medchain restore hospital.tar --home hospital
    """
    from ledger.execution import Executor
    from node import keys
    from node.home import check_new, read_genesis, take_place
    from node.plugins import load_registry
    from storage.archive import restore as make
    from storage.chain import ChainStore
    from storage.datadir import DataDir
    from storage.leveldb import LevelDB

    loaded = settings_of(home)
    check_new(loaded)
    key = keys.load(loaded.key_path).public
    genesis = read_genesis(loaded.genesis_path)
    executor = Executor(genesis, load_registry(genesis))
    draft = loaded.home / DRAFT
    shutil.rmtree(draft, ignore_errors=True)  # of an attempt that was killed
    try:
        archive: Any
        with click.open_file(str(file), "rb") as archive, ExitStack() as bars:
            size_bytes = 0 if str(file) == "-" else file.stat().st_size
            read = bars.enter_context(bar("bytes", size_bytes))
            blocks = bars.enter_context(bar("blocks", 1))

            def verified(height: int, tip_height: int) -> None:
                blocks.length = tip_height
                blocks.update(height - blocks.pos)

            manifest = make(
                archive, draft, executor, key, with_log=keep_key, verified=verified,
                progress=lambda done: read.update(min(done, size_bytes) - read.pos),
            )  # fmt: skip
        with DataDir(draft) as folder, closing(LevelDB(folder.db)) as kv:
            signs = not ChainStore(kv).is_muted(key, for_good=True)
        take_place(loaded, draft)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    document = {"home": str(home), "chain": manifest.chain_id.hex(), "height": manifest.height, "signs": signs}
    show(document, as_json)
