"""`verify`: re-check a whole data folder without trusting anything in it."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.common import home_option, json_option, show


@click.command()
@home_option
@json_option
def verify(home: Path, as_json: bool) -> None:
    """Re-check a stopped node's data: hashes, signatures, certificates, execution, roots. Status 1 if anything differs.

    \b
    Example:
        medchain verify --home cluster/hospital
    """
    from node import config
    from node.offline import verify_folder

    loaded = config.load(home)
    with click.progressbar(length=1, label="blocks", file=click.get_text_stream("stderr"), show_eta=True) as bar:

        def progress(height: int, tip_height: int) -> None:
            bar.length = max(tip_height, 1)
            bar.update(height - bar.pos)

        result = verify_folder(loaded, progress)
    show(result, as_json)
