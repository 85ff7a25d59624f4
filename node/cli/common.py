"""What the commands share: exit statuses, errors, output, the client, signing and sending.

Must not import aiohttp, pydantic or rich at the top.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from ledger.errors import Code, CodecError, ConfigError, FileError, LedgerError, Reject, code_label
from ledger.fields import is_printable
from storage.files import written

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from ledger.crypto import KeyPair
    from ledger.fields import Operation
    from ledger.genesis import Genesis
    from ledger.transaction import Transaction
    from node.api.client import SyncClient
    from node.config import NodeConfig

NAME = "medchain"
ENVIRONMENT_PREFIX = "MEDCHAIN_CLI_"
API_DEFAULT = "http://127.0.0.1:26601"
CLUSTER_DIR_DEFAULT = "cluster"
VALID_FOR_DEFAULT = 500  # heights; some seconds under load, half of what genesis allows
HTTP_TIMEOUT_S = 10.0
WAIT_S_MAX = 120  # a node lets nobody wait longer; `tx watch` asks again
INPUT_SIZE_BYTES_MAX = 1024 * 1024  # fields of one transaction as JSON

Command = TypeVar("Command", bound=Callable[..., Any])


class Exit(IntEnum):
    """The process's status."""

    DONE = 0
    REFUSED = 1  # refused, or a check failed
    USAGE = 2  # usage or configuration
    UNREACHABLE = 3
    NOT_FINAL = 4  # not final in time
    UNHEALTHY = 5
    BUSY = 6
    BUG = 70
    INTERRUPTED = 130


_EXITS = {
    Code.UNREACHABLE: Exit.UNREACHABLE,
    Code.NOT_RUNNING: Exit.UNREACHABLE,
    Code.NOT_FINAL_IN_TIME: Exit.NOT_FINAL,
    Code.CLUSTER_UNHEALTHY: Exit.UNHEALTHY,
    Code.POOL_FULL: Exit.BUSY,
    Code.TOO_MANY_WAITERS: Exit.BUSY,
    Code.NOT_ACCEPTING: Exit.BUSY,
    Code.BAD_REQUEST: Exit.USAGE,
    Code.BAD_CONFIGURATION: Exit.USAGE,
    Code.PORT_TAKEN: Exit.USAGE,
    Code.ALREADY_RUNNING: Exit.USAGE,
    Code.PACKAGE_CLASH: Exit.USAGE,
    Code.NOT_INITIALISED: Exit.USAGE,
    Code.BAD_FILE: Exit.USAGE,
    Code.INTERNAL: Exit.BUG,
}


# Errors are told apart by module and name: importing their rooms takes aiohttp, LevelDB and libsodium along.
_STORAGE_CODES = {
    "NotInitialised": Code.NOT_INITIALISED,
    "AlreadyInitialised": Code.BAD_CONFIGURATION,
    "Locked": Code.DATA_LOCKED,
    "VersionMismatch": Code.FORMAT_MISMATCH,
    "Corruption": Code.DATA_CORRUPT,
    "StateDiverged": Code.STATE_DIVERGED,
    "BadArchive": Code.CHECK_FAILED,
    "DiskFull": Code.DISK_FULL,
}


class Failure(Exception):
    """A command could not do what was asked: a code, and one line of what failed."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what


class NotFinal(Failure):
    """The node has the transaction `tx_id`, which is not final in time. It may still be committed."""

    def __init__(self, tx_id: str, when: str, api_url: str) -> None:
        super().__init__(Code.NOT_FINAL_IN_TIME, f"{tx_id} is not final {when}; {how_to_ask(tx_id, api_url)}")
        self.tx_id = tx_id


def exit_of(code: int) -> Exit:
    """The exit status that belongs to a code."""
    try:
        return _EXITS.get(Code(code), Exit.REFUSED)
    except ValueError:
        return Exit.REFUSED


def report(error: BaseException) -> int:
    """Tell an error on stderr in three lines (what failed, why, what to do); the exit status."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show(sys.stderr)
        return Exit.USAGE
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        click.echo("interrupted", err=True)
        return Exit.INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else Exit.BUG
    code, what = _describe(error)
    if code == Code.INTERNAL:
        traceback.print_exception(error, file=sys.stderr)
    tell(code, what)
    return exit_of(code)


def tell(code: int, what: str) -> None:
    """One error on stderr: what failed, why, what to do."""
    from ledger.explanations import EXPLANATIONS

    click.echo(f"{code_label(code)} {what}", err=True)
    entry = EXPLANATIONS.get(code)  # type: ignore[call-overload]  # an IntEnum's members are their integers
    if entry is not None:
        click.echo(f"  why: {entry.summary}\n  do:  {entry.action}", err=True)


def _describe(error: BaseException) -> tuple[int, str]:
    if isinstance(error, Failure):
        return error.code, error.what
    if isinstance(error, ConfigError):
        problems = getattr(error, "problems", ())
        what = str(error) if len(problems) < 2 else "\n  - ".join(["configuration", *problems])
        return int(getattr(error, "code", _code_of_class(error))), what
    if isinstance(error, Reject):
        return int(error.code), refusal_text(int(error.code), error.detail)
    if isinstance(error, CodecError):
        return int(error.code), str(error)
    if isinstance(error, LedgerError):
        return Code.BAD_REQUEST, str(error)
    if type(error).__module__ == "storage.errors":
        return _STORAGE_CODES.get(type(error).__name__, Code.DATA_CORRUPT), str(error)
    if type(error).__module__ == "node.api.calls":
        return int(getattr(error, "code", Code.UNREACHABLE)), str(getattr(error, "detail", error))
    if type(error).__module__ == "node.vault":
        return Code.CHECK_FAILED, str(error)
    if isinstance(error, (ConnectionError, TimeoutError)):
        return Code.UNREACHABLE, str(error) or type(error).__name__
    if isinstance(error, OSError):
        if error.errno == errno.EADDRINUSE:
            return Code.PORT_TAKEN, error.strerror or str(error)
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if is_full or error.filename is None:
            return Code.DISK_FULL if is_full else Code.BAD_CONFIGURATION, str(error)
        return Code.BAD_FILE, f"{error.filename}: {error.strerror}"
    return Code.INTERNAL, f"{type(error).__name__}"


def _code_of_class(error: ConfigError) -> Code:
    if isinstance(error, FileError):
        return Code.BAD_FILE
    return Code.PACKAGE_CLASH if type(error).__name__ == "PackageClash" else Code.BAD_CONFIGURATION


def refusal_text(code: int, detail: Sequence[object] = ()) -> str:
    """`serial_exists: 09526...` from a code and its typed detail."""
    try:
        name = Code(code).name.lower()
    except ValueError:
        name = "refused by a rule module"
    words = [item.hex() if isinstance(item, bytes) else str(item) for item in detail]
    return f"{name}: {', '.join(words)}" if words else name


# Output


def print_json(document: object) -> None:
    """One document, indented."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_line(document: object) -> None:
    """One line of a stream, at once."""
    click.echo(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
    sys.stdout.flush()


def show(document: Mapping[str, Any], as_json: bool) -> None:
    """A document as JSON, or as aligned lines for people."""
    if as_json:
        print_json(document)
        return
    width = max((len(name) for name in document), default=0)
    for name, value in document.items():
        is_nested = isinstance(value, (dict, list))
        text = escaped(json.dumps(value, ensure_ascii=False)) if is_nested else _plain(value)
        click.echo(f"{name:<{width}}  {text}")


def _plain(value: object) -> str:
    if value is None:
        return "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else escaped(str(value))


def escaped(text: str) -> str:
    """A stranger's text on one line: what moves the cursor, or is not seen, is written as JSON escapes it."""
    if is_printable(text):
        return text
    return "".join(one if is_printable(one) else json.dumps(one)[1:-1] for one in text)


@contextmanager
def output(name: str) -> Iterator[BinaryIO]:
    """Where a command's result goes: stdout for `-`; else a file that takes the place of another only once it is
    whole. A pipe or a device is written to as it comes."""
    path = Path(name)
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
    else:
        with written(path) as file:
            yield file


def show_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns, in colour on a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*headings, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a pipe has no width; rows stay on one line
    console.print(table)


def bar(label: str, length: int) -> ProgressBar[int]:
    """Progress on stderr, with the time left; nothing at all where that is no terminal."""
    return click.progressbar(
        length=max(length, 1), label=label, file=sys.stderr, show_pos=True, hidden=not sys.stderr.isatty()
    )


STEP_HEADINGS = ("height", "time_ms", "member", "operation", "fields", "counts", "id")


def show_page(page: Mapping[str, Any], headings: Sequence[str], as_json: bool) -> None:
    """A page of a history: its items as a table, of the columns that any of them has."""
    if as_json:
        print_json(page)
        return
    items = page["items"]
    if not items:
        click.echo("nothing yet", err=True)
        return
    present = [name for name in headings if any(item.get(name) is not None for item in items)]
    show_table(present, [[_cell(item.get(name)) for name in present] for item in items])


def _cell(value: object) -> str:
    """Short enough for a column: keys and ids keep their ends."""
    match value:
        case dict():
            text = ", ".join(f"{name} {_cell(item)}" for name, item in value.items())
        case list():
            text = ", ".join(map(_cell, value))
        case str() if len(value) >= 64 and value.startswith("01"):
            return f"{value[:10]}…{value[-4:]}"
        case _:
            text = _plain(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


# Options


def option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """A click option that shows its default and its environment variable."""
    attributes.setdefault("show_envvar", True)
    if not attributes.get("is_flag"):
        attributes.setdefault("show_default", True)
    return click.option(*names, **attributes)


def json_option(command: Command) -> Command:
    return option(
        "--json", "as_json", is_flag=True, envvar=f"{ENVIRONMENT_PREFIX}JSON", help="Print one JSON document."
    )(command)


def api_option(command: Command) -> Command:
    return option(
        "--api",
        "api_url",
        default=API_DEFAULT,
        metavar="URL",
        envvar=f"{ENVIRONMENT_PREFIX}API",
        help="The node to ask.",
    )(command)


def key_option(command: Command) -> Command:
    return option(
        "--key", "key_reference", required=True, metavar="FILE|dev:NAME", envvar=f"{ENVIRONMENT_PREFIX}KEY",
        help="Who signs: a key file, or a development key by name.",
    )(command)  # fmt: skip


def home_option(command: Command) -> Command:
    return option(
        "--home", type=click.Path(file_okay=False, path_type=Path), default="medchain-data", metavar="DIR",
        envvar="MEDCHAIN_HOME", help="The node's data folder.",
    )(command)  # fmt: skip


def send_options(command: Command) -> Command:
    """What every command that sends a transaction takes."""
    for decorate in (
        json_option,
        option("--valid-for", default=VALID_FOR_DEFAULT, type=click.IntRange(1), help="Heights it stays valid."),
        option("--timeout", "timeout_s", default=10.0, type=click.FloatRange(0.1, WAIT_S_MAX), help="Seconds to wait."),
        option("--no-wait", is_flag=True, help="Return as soon as the node has accepted it."),
        key_option,
        api_option,
    ):
        command = decorate(command)
    return command


def known_variables(group: click.Group) -> frozenset[str]:
    """The environment variable of every option of every command."""
    found: set[str] = set()

    def visit(command: click.Command, context: click.Context) -> None:
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                names = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
                automatic = f"{context.auto_envvar_prefix}_{(parameter.name or '').upper()}"
                found.update(names or [automatic])
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                if inner is not None:
                    visit(inner, click.Context(inner, info_name=name, parent=context))

    visit(group, click.Context(group, auto_envvar_prefix=ENVIRONMENT_PREFIX.rstrip("_")))
    return frozenset(found)


def settings_of(home: Path, flags: Mapping[str, object] | None = None) -> NodeConfig:
    """The configuration of the node in `home`. NOT_INITIALISED where none is: whoever forgot --home must not read of
    single files that are missing."""
    from node import config

    loaded = config.load(home, flags)
    if not loaded.key_path.exists() and not loaded.genesis_path.exists():
        what = "it has neither key nor genesis" if home.is_dir() else "no such folder"
        raise Failure(Code.NOT_INITIALISED, f"{home}: {what}")
    return loaded


def genesis_of(path: Path) -> Genesis:
    """A chain's genesis, from a file that the command was given. FileError if it is none."""
    from ledger.genesis import Genesis

    try:
        return Genesis.from_json(path.read_bytes())
    except ConfigError as error:
        raise FileError(f"{path}: {error}") from None


# The node


def connect(api_url: str, timeout_s: float = HTTP_TIMEOUT_S) -> SyncClient:
    """A client of one node. A usage error for what is no address."""
    from node.api.client import SyncClient

    try:
        return SyncClient(api_url, timeout_ms=int(timeout_s * 1000))
    except ValueError:
        raise click.UsageError(f"--api {escaped(api_url)}: not an address such as {API_DEFAULT}") from None


def program() -> str:
    """This program as it was called: by its name where the shell finds it, else by its path. For commands to copy."""
    called = Path(sys.argv[0])
    if called.name != NAME:
        return NAME  # `python -m node.cli`, or a test
    found = shutil.which(NAME)
    return NAME if found is not None and os.path.realpath(found) == os.path.realpath(called) else str(called)


def operation_class(name: str) -> type[Operation]:
    """The newest version of an operation that an installed rule module declares; a Failure with the nearest name."""
    from difflib import get_close_matches

    from node.plugins import available_modules

    points = available_modules()
    prefix = name.partition(".")[0]
    loaded = [points[prefix].load()] if prefix in points else [point.load() for point in points.values()]
    operations = [rule.operation for module in loaded for rule in module.rules]
    matching = [operation for operation in operations if name == operation.NAME]
    if not matching:
        close = get_close_matches(name, [operation.NAME for operation in operations], n=1, cutoff=0.4)
        raise Failure(Code.UNKNOWN_OPERATION, f"no operation {name}" + (f"; did you mean {close[0]}?" if close else ""))
    found: type[Operation] = max(matching, key=lambda operation: operation.VERSION)
    return found


def sign(
    client: SyncClient, key: KeyPair, name: str, document: Mapping[str, object], valid_for: int = VALID_FOR_DEFAULT
) -> Transaction:
    """A transaction, signed here; the key never leaves this process."""
    from ledger.fields import schema_of
    from ledger.transaction import Transaction
    from node.jsonvalues import fields_from_json

    operation = operation_class(name)
    fields = fields_from_json(schema_of(operation), document)
    status = client.status()
    chain_id = bytes.fromhex(status["chain"])
    valid_until = int(status["height"]) + valid_for
    nonce = secrets.token_bytes(16)
    return Transaction.create(
        key, chain_id, name, fields, nonce=nonce, valid_until=valid_until, version=operation.VERSION
    )


def send(
    name: str,
    document: Mapping[str, object],
    *,
    makes: str = "",
    api_url: str,
    key_reference: str,
    no_wait: bool,
    timeout_s: float,
    valid_for: int,
    as_json: bool,
) -> int:
    """Sign, submit, wait for the commit, print the receipt; the exit status.

    `makes` names what the operation brings into being, whose id is printed too: the field of that name, or where there
    is none, the transaction's id.
    """
    sending: dict[str, Any] = {
        "api_url": api_url,
        "key_reference": key_reference,
        "timeout_s": timeout_s,
        "valid_for": valid_for,
    }

    def with_made(result: dict[str, Any]) -> dict[str, Any]:
        is_refused = not makes or result.get("code")
        return result if is_refused else {makes: document.get(makes, result["id"]), **result}

    if no_wait:
        client, tx = _signed(name, document, **sending)
        return print_result(with_made(client.submit([tx.wire])[0]), as_json)
    try:
        return print_result(with_made(submit_and_wait(name, document, **sending)), as_json)
    except NotFinal as late:
        show(with_made({"status": "accepted", "id": late.tx_id}), as_json)
        tell(late.code, late.what)
        return exit_of(late.code)


def submit_and_wait(name: str, document: Mapping[str, object], **sending: Any) -> dict[str, Any]:
    """Sign, submit, and wait for the commit; the receipt, of a refusal too. NotFinal if it takes too long."""
    from node.api.client import ApiError, Unreachable

    client, tx = _signed(name, document, **sending)
    tx_id, api_url, timeout_s = tx.id.hex(), sending["api_url"], sending["timeout_s"]
    try:
        return client.submit_wait(tx.wire, int(timeout_s * 1000))
    except ApiError as error:
        if error.code == Code.NOT_FINAL_IN_TIME:
            raise NotFinal(tx_id, f"after {timeout_s:g} s", api_url) from None
        if error.code == Code.TOO_MANY_WAITERS:
            raise NotFinal(tx_id, "yet, and too many wait already", api_url) from None
        raise
    except Unreachable as error:
        raise Failure(Code.UNREACHABLE, f"{error}; it may have taken {tx_id}; {how_to_ask(tx_id, api_url)}") from None


def how_to_ask(tx_id: str, api_url: str) -> str:
    """How to go on with a transaction that may become final yet."""
    where = "" if api_url == API_DEFAULT else f" --api {api_url}"
    return f"ask with: {program()} tx watch {tx_id}{where}"


def _signed(
    name: str, document: Mapping[str, object], *, api_url: str, key_reference: str, timeout_s: float, valid_for: int
) -> tuple[SyncClient, Transaction]:
    from node import keys

    key = keys.resolve(key_reference)
    client = connect(api_url)
    return client, sign(client, key, name, document, valid_for)


def print_result(result: Mapping[str, Any], as_json: bool) -> int:
    """A receipt or acceptance; a refusal is told on stderr as well, and is status 1."""
    show(result, as_json)
    return tell_refusal(result)


def tell_refusal(result: Mapping[str, Any]) -> int:
    """The exit status of an outcome; a refusal is told on stderr."""
    code = int(result.get("code") or 0)
    if code == Code.OK:
        return Exit.DONE
    tell(code, refusal_text(code, result.get("detail") or ()))
    return exit_of(code)


def read_json(text: str) -> dict[str, object]:
    """An object from an argument, or from stdin for `-`."""
    from node.gateway.jsonsafe import JsonRefused, loads

    data = sys.stdin.buffer.read(INPUT_SIZE_BYTES_MAX + 1) if text == "-" else text.encode("utf-8", "surrogateescape")
    try:
        document = loads(data, size_bytes_max=INPUT_SIZE_BYTES_MAX)
    except JsonRefused as error:
        raise Failure(Code.BAD_REQUEST, f"fields: {error} (at {error.pointer_or_offset})") from None
    if not isinstance(document, dict):
        raise Failure(Code.BAD_REQUEST, "fields: a JSON object, such as '{\"amount\": 1}'")
    return document
