"""`init`, `start`, `demo`: make one node, run it, or see everything at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from ledger.errors import Code
from node.cli.common import (
    ENVIRONMENT_PREFIX,
    Exit,
    Failure,
    genesis_of,
    home_option,
    json_option,
    option,
    program,
    settings_of,
    show,
)

P2P_PORT_DEFAULT = 26_600
API_PORT_DEFAULT = 26_601
DEMO_SIZES = ("small", "normal")  # node.workload has them, and takes long to import


@click.command()
@home_option
@option("--genesis", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Join this chain.")
@option("--peer", "peers", multiple=True, metavar="KEY@HOST:PORT", help="A node to dial; may be repeated.")
@option("--p2p-port", default=P2P_PORT_DEFAULT, type=click.IntRange(1, 65_535), help="Port for other nodes.")
@option("--api-port", default=API_PORT_DEFAULT, type=click.IntRange(1, 65_535), help="Port for clients.")
@json_option
def init(home: Path, genesis: Path | None, peers: Sequence[str], p2p_port: int, api_port: int, as_json: bool) -> None:
    """Make the data folder of one node: key, genesis, configuration.

    Without --genesis it is a development chain of its own, with this node as its only validator. With it, the nodes to
    dial must know this one's key before they admit it: their operators add the line printed under "at_peers" to [p2p]
    in their medchain.toml, and start anew. Then `medchain join` or `medchain start`.

    \b
    Example:
        medchain init --home mynode
    """
    from ledger.genesis import Genesis
    from node import config, keys
    from node.cluster.plan import GENESIS_FILE, development_modules
    from node.home import initialise

    if (home / config.FILE_NAME).exists():
        raise Failure(Code.BAD_CONFIGURATION, f"{home}: holds a node already")
    addresses = [_peer(text) for text in peers]
    key = keys.generate()
    if genesis is not None:
        document = genesis_of(genesis)
    else:
        now_ms = time.time_ns() // 1_000_000
        document = Genesis("local", now_ms, (key.public,), development_modules(), development=True)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    keys.save(home / "node.key", key)
    (home / GENESIS_FILE).write_text(document.to_json(), "utf-8")
    values = {
        "genesis": GENESIS_FILE,
        "key": "node.key",
        "p2p.port": p2p_port,
        "p2p.peers": addresses,
        "api.port": api_port,
    }
    (home / config.FILE_NAME).write_text(config.to_toml(values), "utf-8")
    initialise(config.NodeConfig(home=home))
    shown = {"home": str(home), "key": key.public.hex(), "chain": document.chain_id.hex()}
    if genesis is not None:
        shown["at_peers"] = f'known_keys = ["{key.public.hex()}"]'
    shown |= {"api": f"http://127.0.0.1:{api_port}", "next": f"{program()} start --home {home}"}
    show(shown, as_json)
    if genesis is not None and not addresses:
        path = home / config.FILE_NAME
        click.echo(f"no --peer was given: list who is to be dialled as [p2p] peers in {path}", err=True)


def _peer(text: str) -> dict[str, object]:
    key, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not at or not colon or not port.isdecimal():
        raise Failure(Code.BAD_CONFIGURATION, f"--peer {text}: must be KEY@HOST:PORT")
    return {"key": key, "host": host.strip("[]"), "port": int(port)}


@click.command()
@home_option
@option("--p2p-host", envvar="MEDCHAIN_P2P__HOST", help="Address for other nodes.")
@option("--p2p-port", type=int, envvar="MEDCHAIN_P2P__PORT", help="Port for other nodes.")
@option("--api-host", envvar="MEDCHAIN_API__HOST", help="Loopback address for clients.")
@option("--api-port", type=int, envvar="MEDCHAIN_API__PORT", help="Port for clients.")
@option("--log-level", envvar="MEDCHAIN_LOG__LEVEL", help="debug, info, warning or error.")
@option("--log-format", envvar="MEDCHAIN_LOG__FORMAT", help="text or json.")
def start(home: Path, **flags: object) -> int:
    """Run a node in the foreground; Ctrl-C is a clean stop.

    One JSON line on stdout says when it listens; the log is on stderr.

    \b
    Example:
        medchain start --home cluster/hospital
    """
    from click.core import ParameterSource

    from node.packages import check_packages

    check_packages()
    context = click.get_current_context()
    # The environment is left to the configuration, which knows its types and says where a value came from.
    given = {
        name: value
        for name, value in flags.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    loaded = settings_of(home, {name.replace("_", ".", 1): value for name, value in given.items()})
    from node import node

    return node.run(loaded)


@click.command()
@option(
    "--exit",
    "leave",
    is_flag=True,
    envvar=f"{ENVIRONMENT_PREFIX}DEMO_EXIT",
    help="End after the summary: status 0 only if every promise was kept.",
)
@option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Send the published EPCIS and FHIR files of this folder instead of generated business.",
)
@option("--seed", default=1, help="Which business is generated.")
@option("--size", type=click.Choice(DEMO_SIZES), default="normal", help="How much is generated.")
@option("-n", "--nodes", default=4, type=click.IntRange(4), help="How many validators; of four one may be killed.")
@option(
    "--dir", "directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    envvar=f"{ENVIRONMENT_PREFIX}DEMO_DIR",
    help="The cluster's folder, which must not hold one yet; else a temporary one.",
)  # fmt: skip
def demo(leave: bool, data: Path | None, seed: int, size: str, nodes: int, directory: Path | None) -> int:
    """Show everything at once: four institutions, real business, a killed leader.

    A hospital, a drug maker, a pharmacy and an insurer do business; the leader is killed and started again, and what
    must hold is checked. Then the cluster goes on running until Ctrl-C.

    \b
    Example:
        medchain demo --exit --size small
    """
    from node.demo import run

    return Exit.DONE if run(data, seed, size, nodes, directory, leave=leave) else Exit.REFUSED
