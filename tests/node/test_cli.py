"""The command line: what it prints where, its exit statuses, and that its help and its page are true."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest

from ledger.codec import decode
from ledger.crypto import verify, verify_joined
from ledger.errors import Code, ConfigError
from ledger.explanations import EXPLANATIONS
from ledger.genesis import development_key
from ledger.modules.parties import join_statement
from ledger.modules.records import PURPOSE_OF_USE
from ledger.transaction import Transaction
from node import cli, config, keys, vault
from node.api import calls, client
from node.cli import common, reference
from node.cli.chain import Height
from node.cli.common import Exit
from node.cli.records import PURPOSES
from node.cluster import plan as plans

ROOT = Path(__file__).resolve().parents[2]
CHAIN = b"\x01" + b"c" * 32
ID = "01" + "ab" * 32
PATIENT = development_key("patient")


class FakeClient:
    """Answers as a node does, and remembers what it was asked."""

    sent: ClassVar[list[Transaction]] = []
    answers: ClassVar[dict[str, Any]] = {}

    def __init__(self, url: str, *, timeout_ms: int = 0) -> None:
        self.url = client._base(url)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*arguments: Any, **named: Any) -> Any:
            found = self.answers.get(name)
            if isinstance(found, Exception):
                raise found
            return found(*arguments, **named) if callable(found) else found

        return answer

    def status(self) -> dict[str, Any]:
        found = self.answers.get("status")
        if callable(found):
            found = found(self.url)
        if isinstance(found, Exception):
            raise found
        return {"height": 7, "chain": CHAIN.hex(), "key": development_key("maker").public.hex(), **(found or {})}

    def why(self) -> dict[str, Any]:
        found = self.answers.get("why")
        found = found(self.url) if callable(found) else found
        if isinstance(found, Exception):
            raise found
        return found or {}

    def _take(self, wire: bytes) -> dict[str, Any]:
        tx = Transaction.decode(wire)
        assert verify_joined(wire)
        self.sent.append(tx)
        return {"id": tx.id.hex(), "code": 0, "label": "MC0000", "name": "ok", "detail": []}

    def submit(self, wires: list[bytes]) -> list[dict[str, Any]]:
        return [{**self._take(wire), "status": "pending"} for wire in wires]

    def submit_wait(self, wire: bytes, timeout_ms: int) -> dict[str, Any]:
        found = self.answers.get("submit_wait", {})
        taken = self._take(wire)
        if isinstance(found, Exception):
            raise found
        return taken | {"height": 8} | found


class Result:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Medchain = Callable[..., Result]


def make_home(folder: Path) -> None:
    """What a command reads in the folder of the node that answers it: the operator's token, and the node's key."""
    keys.save(folder / "node.key", development_key("maker"))
    (folder / "operator.token").write_text("a" * 64 + "\n")
    (folder / "operator.token").chmod(0o600)


@pytest.fixture
def medchain(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Medchain:
    for name in list(os.environ):
        if name.startswith("MEDCHAIN_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("node.api.client.SyncClient", FakeClient)
    FakeClient.sent, FakeClient.answers = [], {}

    def call(*arguments: str) -> Result:
        capfd.readouterr()
        status = cli.run(arguments)
        sys.stdout.flush()
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return call


def test_every_command_has_help_with_an_example() -> None:
    for path, command, _ in reference.commands():
        assert command.help, path
        if not isinstance(command, click.Group) or path == "medchain":
            assert re.search(r"Example:\n +medchain ", command.help), path


def examples() -> Iterator[tuple[str, list[str]]]:
    for path, command, _ in reference.commands():
        _, found, example = (command.help or "").partition("Example:\n")
        if found:
            line, *others = example.strip().replace("\\\n", " ").splitlines()
            assert not others, f"{path}: copied, it is several commands"
            yield path, shlex.split(line)[1:]


@pytest.mark.parametrize(("path", "arguments"), [pytest.param(*item, id=item[0]) for item in examples()])
def test_every_example_is_a_command_line_that_parses(
    path: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cluster").mkdir()
    for name in ("observation.json", "hospital.tar", "balance.proof", "cluster/genesis.json"):
        (tmp_path / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    if arguments == ["--version"]:
        return
    with ExitStack() as opened:
        context = opened.enter_context(cli.root.make_context("medchain", arguments, auto_envvar_prefix="MEDCHAIN_CLI"))
        while isinstance(context.command, click.Group):
            name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
            assert command is not None
            context = opened.enter_context(command.make_context(name, rest, parent=context))
        assert context.command_path == path


def test_the_reference_page_is_what_the_commands_say() -> None:
    page = (ROOT / "docs" / "cli.md").read_text("utf-8")
    assert page == reference.markdown(), "run: python -m node.cli.reference > docs/cli.md"


def test_the_reference_page_has_of_each_command_what_its_help_prints(medchain: Medchain) -> None:
    """Wherever lines are broken. What a group says of its commands is cut to the width."""
    page = "".join((ROOT / "docs" / "cli.md").read_text("utf-8").split())
    for path, command, _ in reference.commands():
        printed = medchain(*path.split()[1:], "--help")
        assert printed.status == 0
        told = printed.out.partition("\nCommands:")[0] if isinstance(command, click.Group) else printed.out
        assert "".join(told.split()) in page, path


def test_every_option_has_one_variable_of_its_own() -> None:
    for path, command, _ in reference.commands():
        names = [
            str(parameter.envvar or parameter.name)
            for parameter in command.params
            if isinstance(parameter, click.Option)
        ]
        assert len(set(names)) == len(names), path


def test_an_unknown_command_names_the_nearest(medchain: Medchain) -> None:
    result = medchain("staus")
    assert result.status == Exit.USAGE
    assert "status" in result.err
    assert result.out == ""


def test_an_unknown_variable_is_refused_with_the_nearest_name(
    medchain: Medchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDCHAIN_CLI_APY", "x")
    result = medchain("errors")
    assert result.status == Exit.USAGE
    assert "did you mean MEDCHAIN_CLI_API?" in result.err
    monkeypatch.delenv("MEDCHAIN_CLI_APY")
    monkeypatch.setenv("MEDCHAIN_CLI_JSON", "1")
    assert medchain("errors", "MC2204").json["name"] == "unknown_pack"


def test_codes_are_explained_by_label_number_or_name(medchain: Medchain) -> None:
    for name in ("MC2204", "mc2204", "2204", "unknown_pack"):
        result = medchain("errors", name)
        assert result.status == 0
        assert EXPLANATIONS[Code.UNKNOWN_PACK].action in result.out
    assert len(medchain("errors", "--json").json) >= len(EXPLANATIONS)
    assert medchain("errors", "MC9999").status == Exit.REFUSED


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(medchain: Medchain, shell: str) -> None:
    result = medchain("completion", shell)
    assert "_MEDCHAIN_COMPLETE" in result.out


def test_a_transaction_is_signed_here_with_the_chains_id_and_a_bounded_life(medchain: Medchain) -> None:
    fields = '{"currency": "CNY", "to": "hospital", "amount": 100, "reference": ""}'
    result = medchain("tx", "submit", "payments.transfer", fields, "--key", "dev:insurer", "--json")
    assert result.status == 0
    assert result.json["height"] == 8
    (tx,) = FakeClient.sent
    assert (tx.operation, tx.fields) == ("payments.transfer", ("CNY", "hospital", 100, ""))
    assert (tx.chain_id, tx.valid_until) == (CHAIN, 7 + common.VALID_FOR_DEFAULT)
    assert tx.sender == development_key("insurer").public


def test_two_sends_of_the_same_are_two_transactions(medchain: Medchain) -> None:
    arguments = ("tx", "submit", "records.revoke", json.dumps({"grant": ID}), "--key", "dev:patient", "--no-wait")
    assert [medchain(*arguments).status, medchain(*arguments).status] == [0, 0]
    assert FakeClient.sent[0].id != FakeClient.sent[1].id


@pytest.mark.parametrize(
    ("fields", "status", "part"),
    [
        ('{"currency": "CNY", "to": "x", "amount": 1.5, "reference": ""}', 1, "MC1011 bad_field: amount"),
        ('{"currency": "CNY", "to": "x", "reference": ""}', 1, "amount"),
        ('{"currency": "CNY", "to": "x", "amount": 1, "reference": "", "memo": 1}', 1, "memo"),
        ('{"amount": 1, "amount": 2}', 2, "duplicate"),
        ("[]", 2, "a JSON object"),
        ("{", 2, "not JSON"),
    ],
)
def test_wrong_fields_are_refused_by_name_before_anything_is_sent(
    medchain: Medchain, fields: str, status: int, part: str
) -> None:
    result = medchain("tx", "submit", "payments.transfer", fields, "--key", "dev:insurer")
    assert result.status == status
    assert part in result.err
    assert result.out == ""
    assert FakeClient.sent == []


def test_fields_are_read_from_stdin(medchain: Medchain, monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"grant": ID}).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert medchain("tx", "submit", "records.revoke", "-", "--key", "dev:patient").status == 0
    assert FakeClient.sent[0].fields == (bytes.fromhex(ID),)


def test_an_unknown_operation_names_the_nearest(medchain: Medchain) -> None:
    result = medchain("tx", "submit", "payments.tranfser", "{}", "--key", "dev:insurer")
    assert "did you mean payments.transfer?" in result.err
    assert result.status == Exit.REFUSED


def test_a_refusal_by_a_rule_is_data_on_stdout_an_explanation_on_stderr_and_status_1(medchain: Medchain) -> None:
    FakeClient.answers["submit_wait"] = {"code": 2106, "name": "grant_revoked", "detail": [ID]}
    result = medchain("consent", "revoke", ID, "--key", "dev:patient", "--json")
    assert result.status == Exit.REFUSED
    assert result.json["code"] == 2106
    assert result.err.startswith(f"MC2106 grant_revoked: {ID}\n  why: ")


@pytest.mark.parametrize(
    ("error", "status", "label"),
    [
        (calls.Unreachable("http://x", "refused"), Exit.UNREACHABLE, "MC3007"),
        (calls.ApiError(3001, 429, "full", True), Exit.BUSY, "MC3001"),
        (calls.ApiError(3003, 504, "late", True), Exit.NOT_FINAL, "MC3003"),
        (calls.ApiError(1007, 422, "expired", False), Exit.REFUSED, "MC1007"),
        (calls.ApiError(20_001, 422, "a plug-in's", False), Exit.REFUSED, "MC20001"),
        (vault.NotHeld("not here"), Exit.REFUSED, "MC4006"),
        (ConfigError("genesis: wrong"), Exit.USAGE, "MC4001"),
        (RuntimeError("bug"), Exit.BUG, "MC9001"),
        (OSError(errno.EADDRINUSE, "port 26600: in use"), Exit.USAGE, "MC4002 port 26600: in use"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, "interrupted"),
    ],
)
def test_errors_become_the_documented_status_and_code(
    medchain: Medchain, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: Exit, label: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(FakeClient, "status", fail)
    result = medchain("consent", "revoke", ID, "--key", "dev:patient")
    assert result.status == status
    assert label in result.err
    assert result.out == ""


def test_a_transaction_that_is_not_final_in_time_is_named(medchain: Medchain) -> None:
    FakeClient.answers["submit_wait"] = calls.ApiError(3003, 504, "late", True)
    grant = ("consent", "grant", "--reader", "insurer", "--purpose", "payment", "--key", "dev:patient")
    result = medchain(*grant, "--timeout", "3", "--json")
    tx_id = FakeClient.sent[0].id.hex()
    assert result.status == Exit.NOT_FINAL
    assert result.json == {"grant": tx_id, "status": "accepted", "id": tx_id}
    assert result.err.startswith(f"MC3003 {tx_id} is not final after 3 s; ask with: medchain tx watch {tx_id}\n")

    fields = '{"currency": "CNY", "to": "hospital", "amount": 100, "reference": ""}'
    transfer = ("tx", "submit", "payments.transfer", fields, "--key", "dev:insurer", "--api", "http://x:3")
    FakeClient.answers["submit_wait"] = calls.ApiError(3002, 503, "too many", True)
    crowded = medchain(*transfer)
    tx_id = FakeClient.sent[1].id.hex()
    assert crowded.status == Exit.NOT_FINAL
    assert crowded.out == f"status  accepted\nid      {tx_id}\n"
    assert f"medchain tx watch {tx_id} --api http://x:3\n" in crowded.err

    FakeClient.answers["submit_wait"] = calls.Unreachable("http://x:3", "no answer in time")
    lost = medchain(*transfer)
    assert (lost.status, lost.out) == (Exit.UNREACHABLE, "")
    assert FakeClient.sent[2].id.hex() in lost.err
    FakeClient.answers["submit_wait"] = calls.ApiError(3001, 429, "full", True)
    refused = medchain(*transfer)
    assert (refused.status, refused.out) == (Exit.BUSY, "")


def test_a_record_is_not_read_before_its_access_is_final(medchain: Medchain) -> None:
    FakeClient.answers["submit_wait"] = calls.ApiError(3003, 504, "late", True)
    result = medchain("record", "read", ID, "--purpose", "treatment", "--key", "dev:hospital")
    assert (result.status, result.out) == (Exit.NOT_FINAL, "")
    assert f"tx watch {FakeClient.sent[0].id.hex()}" in result.err


def test_what_an_operation_makes_is_named_on_stdout(medchain: Medchain) -> None:
    key = ("--key", "dev:hospital", "--json")
    claim = ("claim", "open", "--policy", ID, "--amount", "5", "--treatment", ID, *key)
    assert medchain(*claim).json["claim"] == FakeClient.sent[-1].fields[0].hex()  # type: ignore[union-attr]
    assert medchain(*claim, "--claim", ID).json["claim"] == ID
    assert medchain(*claim, "--claim", ID, "--no-wait").json["claim"] == ID
    grant = ("consent", "grant", "--reader", "insurer", "--purpose", "payment", *key)
    assert medchain(*grant).json["grant"] == FakeClient.sent[-1].id.hex()
    proposal = ("member", "propose", "parameters", "--set", "window=4", *key)
    assert medchain(*proposal).json["proposal"] == FakeClient.sent[-1].id.hex()
    FakeClient.answers["submit_wait"] = {"code": int(Code.CLAIM_EXISTS)}
    assert "claim" not in medchain(*claim).json


def test_watch_waits_while_a_transaction_is_not_found(medchain: Medchain, monkeypatch: pytest.MonkeyPatch) -> None:
    from node.cli import transactions

    monkeypatch.setattr(transactions, "POLL_S", 0)
    answers = iter([calls.ApiError(3004, 404, "?", False), {"id": ID, "code": 0}])

    def receipt(_: str) -> dict[str, Any]:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    FakeClient.answers["receipt"] = receipt
    assert medchain("tx", "watch", ID, "--json").json == {"id": ID, "code": 0}
    FakeClient.answers["receipt"] = calls.ApiError(3004, 404, "?", False)
    assert medchain("tx", "watch", ID, "--timeout", "0.1").status == Exit.NOT_FINAL


def test_status_shows_the_nodes_that_do_not_answer_and_check_fails(medchain: Medchain) -> None:
    FakeClient.answers["status"] = lambda url: calls.Unreachable(url, "refused") if url.endswith("3") else {}
    FakeClient.answers["why"] = {"sentence": "All is well."}
    arguments = ("status", "--api", "http://127.0.0.1:1", "--api", "http://127.0.0.1:3")
    result = medchain(*arguments)
    assert result.status == 0
    assert "no answer" in result.out
    assert "All is well." in result.out
    assert medchain(*arguments, "--check").status == Exit.UNHEALTHY
    assert [("error" in node) for node in medchain(*arguments, "--json").json["nodes"]] == [False, True]


def test_status_calls_a_node_that_lags_unhealthy(medchain: Medchain) -> None:
    FakeClient.answers["why"] = {"sentence": ""}
    FakeClient.answers["status"] = lambda url: {"height": 1 if url.endswith("3") else 1_000}
    result = medchain("status", "--check", "--json", "--api", "http://x:1", "--api", "http://x:3")
    assert result.status == Exit.UNHEALTHY
    assert [node["lag"] for node in result.json["nodes"]] == [0, 999]


def test_status_without_any_answer_is_status_3_with_a_sentence(medchain: Medchain, tmp_path: Path) -> None:
    FakeClient.answers["status"] = lambda url: calls.Unreachable(url, "refused")
    result = medchain("status")
    assert result.status == Exit.UNREACHABLE
    assert result.err.startswith("MC3007 http://127.0.0.1:26601: refused\n")
    several = medchain("status", "--api", "http://127.0.0.1:1", "--api", "http://127.0.0.1:3", "--json")
    assert several.status == Exit.UNREACHABLE
    assert len(several.json["nodes"]) == 2
    assert "none of 2 nodes answers" in several.err


def test_why_is_one_sentence(medchain: Medchain) -> None:
    FakeClient.answers["why"] = {"sentence": "maker and insurer are missing.", "halted": True}
    assert medchain("why").out == "maker and insurer are missing.\n"
    assert medchain("why", "--json").json["halted"] is True


def test_status_and_why_ask_the_nodes_of_the_local_cluster(
    medchain: Medchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("node.cluster.supervisor.spawn", lambda directory: {"nodes": [], "directory": str(directory)})
    assert medchain("cluster", "up", "--base-port", "7000", "--json").status == 0
    killed = "http://127.0.0.1:7001"

    def answer(url: str) -> Any:
        return calls.Unreachable(url, "refused") if url == killed else {"sentence": "hospital is missing."}

    FakeClient.answers["status"] = FakeClient.answers["why"] = answer
    result = medchain("why")
    assert (result.status, result.out) == (0, "hospital is missing.\n")
    assert result.err == "asked maker at http://127.0.0.1:7003\n"
    assert [("error" in node) for node in medchain("status", "--json").json["nodes"]] == [True, False, False, False]
    asked = medchain("why", "--api", killed)
    assert (asked.status, asked.out) == (Exit.UNREACHABLE, "")
    assert "MC3007" in asked.err


@pytest.mark.parametrize("command", ["status", "why"])
def test_a_folder_that_was_named_and_holds_no_cluster_is_an_error(
    medchain: Medchain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    FakeClient.answers["why"] = {"sentence": "All is well."}
    for arguments in ((command, "--dir", str(tmp_path / "nosuch")), (command,)):
        result = medchain(*arguments)
        assert (result.status, result.out) == (Exit.USAGE, "")
        assert result.err.startswith("MC4008 ")
        assert "nosuch: holds no cluster" in result.err
        monkeypatch.setenv("MEDCHAIN_CLI_CLUSTER_DIR", str(tmp_path / "nosuch"))


@pytest.mark.parametrize(
    "address", ["foo", "127.0.0.1:26601", "ftp://x", "http://x:port", "http://x:70000", "http://["]
)
@pytest.mark.parametrize(
    "command", [("status",), ("why",), ("block", "get", "1"), ("consent", "revoke", ID, "--key", "dev:patient")]
)
def test_what_is_no_address_of_a_node_is_a_usage_error(
    medchain: Medchain, command: tuple[str, ...], address: str
) -> None:
    result = medchain(*command, "--api", address)
    assert (result.status, result.out) == (Exit.USAGE, "")
    assert f"--api {address}: not an address such as http://127.0.0.1:26601" in result.err


def test_commands_to_copy_are_written_as_this_program_was_called(
    medchain: Medchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = {"name": "hospital", "api": "http://127.0.0.1:26601", "validator": True, "institution": "hospital"}
    monkeypatch.setattr("node.cluster.supervisor.spawn", lambda directory: {"nodes": [node]})
    script = tmp_path / "bin" / "medchain"
    script.parent.mkdir()
    script.touch(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", [str(script), "cluster", "up"])
    assert f"next     {script} status --dir" in medchain("cluster", "up", "--dir", str(tmp_path / "c")).out
    monkeypatch.setenv("PATH", str(script.parent))
    assert "next     medchain status --dir" in medchain("cluster", "up", "--dir", str(tmp_path / "c")).out


def test_events_are_one_document_a_line_and_go_on_from_a_cursor(medchain: Medchain) -> None:
    asked: list[tuple[Any, ...]] = []

    def events(*arguments: Any) -> list[dict[str, Any]]:
        asked.append(arguments)
        return [{"cursor": "1:0", "id": ID}, {"cursor": "1:1", "id": ID}]

    FakeClient.answers["events"] = events
    result = medchain("events", "--jsonl", "--after", "0:5", "--limit", "9")
    assert [json.loads(line)["cursor"] for line in result.out.splitlines()] == ["1:0", "1:1"]
    medchain("events", "--follow")
    assert asked == [("0:5", 9, False), ("0:0", None, True)]


@pytest.mark.parametrize(
    ("arguments", "call", "answer"),
    [
        (("block", "get", "3"), "block", {"height": 3}),
        (("tx", "get", ID), "transaction", {"id": ID}),
        (("tx", "get", ID, "--receipt"), "receipt", {"code": 0}),
        (("pack", "get", "01/x"), "pack", {"epc": "01/x"}),
        (("pack", "trace", "01/x"), "trace", {"epc": "01/x", "items": [{"height": 1, "operation": "drugs.ship"}]}),
        (("record", "get", ID), "record", {"record": ID}),
        (("record", "history", ID), "record_history", {"items": [{"member": "insurer"}], "next": None}),
        (("claim", "show", ID), "claim", {"claim": ID}),
    ],
)
def test_reading_commands_print_what_the_node_says(
    medchain: Medchain, arguments: tuple[str, ...], call: str, answer: dict[str, Any]
) -> None:
    FakeClient.answers[call] = answer
    assert medchain(*arguments, "--json").json == answer
    assert medchain(*arguments).status == 0


def test_members_and_proposals_are_listed(medchain: Medchain) -> None:
    FakeClient.answers["members"] = [{"id": "maker", "roles": ["manufacturer"]}]
    FakeClient.answers["proposals"] = [{"id": ID, "open": True, "change": {"kind": "validators", "add": [ID]}}]
    assert "manufacturer" in medchain("member", "list").out
    assert "01abababab…abab" in medchain("member", "list", "--proposals").out


def test_a_key_is_proven_for_the_chain_of_a_genesis_without_a_node(medchain: Medchain, tmp_path: Path) -> None:
    home = tmp_path / "n"
    assert medchain("init", "--home", str(home), "--json").status == 0
    FakeClient.answers["status"] = calls.Unreachable("here", "nobody")
    proven = medchain(
        "key", "prove", "dev:patient", "--validator", "--genesis", str(home / "genesis.json"), "--json"
    ).json
    public, _, proof = proven["joining"].partition(":")
    assert public == proven["key"] == PATIENT.public.hex()
    assert verify(PATIENT.public, join_statement(bytes.fromhex(proven["chain"]), ""), bytes.fromhex(proof))


def test_parameters_and_convictions_are_listed(medchain: Medchain) -> None:
    FakeClient.answers["parameters"] = {"epoch": 0, "values": {"window": 8}, "next": None}
    assert "8" in medchain("member", "parameters").out
    pending = {"epoch": 1, "first_height": 77, "values": {"window": 4}}
    FakeClient.answers["parameters"] = {"epoch": 0, "values": {"window": 8}, "next": pending}
    assert "from height 77" in medchain("member", "parameters").out
    assert medchain("member", "parameters", "--json").json["next"] == pending
    convicted = {"height": 5, "member": "maker", "offence": "vote", "loses_vote": True, "id": ID}
    FakeClient.answers["evidence"] = {"items": [convicted], "next": None}
    assert "maker" in medchain("evidence", "list").out
    assert medchain("evidence", "list", "--json").json["items"] == [convicted]


def test_verbs_build_the_operations_they_name(medchain: Medchain) -> None:
    def joining(*arguments: str) -> str:
        return medchain("key", "prove", "dev:patient", *arguments).out.strip()

    key = ("--key", "dev:hospital")
    grant = ("consent", "grant", "--reader", "insurer", "--purpose", "treatment", "--record", ID)
    institution = ("member", "propose", "institution", "clinic", "--name", "C", "--role", "hospital")
    claim = ("--policy", ID, "--amount", "5", "--treatment", ID)
    for arguments in (
        ("consent", "revoke", ID, *key),
        (*grant, *key),
        ("claim", "open", *claim, *key),
        ("claim", "confirm", ID, "--provider", "hospital", *claim, *key),
        ("member", "vote", ID, "--refuse", *key),
        ("member", "propose", "validators", "--add", joining("--validator"), *key),
        (*institution, "--public-key", joining("--institution", "clinic"), *key),
        ("member", "propose", "parameters", "--set", "window=4", "--set", "view_timeout_ms=2000", *key),
        ("member", "add-keys", joining("--institution", "hospital"), *key),
        ("member", "remove-keys", PATIENT.public.hex(), *key),
    ):
        assert medchain(*arguments).status == 0, arguments
    assert [tx.operation for tx in FakeClient.sent] == [
        "records.revoke",
        "records.grant",
        "payments.claim",
        "payments.confirm",
        "members.vote",
        "members.propose_validators",
        "members.propose_institution",
        "members.propose_parameters",
        "members.add_keys",
        "members.remove_keys",
    ]
    validators, institution_fields, parameters, keys = (FakeClient.sent[index].fields for index in (5, 6, 7, 8))
    for name, (public, proof) in {
        "": (validators[0][0], validators[2][0]),  # type: ignore[index]
        "clinic": (institution_fields[3], institution_fields[7]),
        "hospital": (keys[0][0], keys[1][0]),  # type: ignore[index]
    }.items():
        assert public == PATIENT.public
        assert verify(public, join_statement(CHAIN, name), proof)  # type: ignore[arg-type]
    assert parameters == ((("window", 4), ("view_timeout_ms", 2000)),)
    assert medchain("member", "propose", "validators", *key).status == Exit.USAGE
    assert medchain("member", "propose", "parameters", "--set", "window", *key).status == Exit.USAGE
    assert medchain("key", "prove", "dev:patient").status == Exit.USAGE


def test_a_patient_that_is_no_public_key_is_named(medchain: Medchain, tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(b"{}")
    make_home(tmp_path)
    result = medchain(
        "record", "add", str(tmp_path / "record"), "--patient", "dev:patient", "--kind", "X",
        "--key", "dev:hospital", "--home", str(tmp_path),
    )  # fmt: skip
    assert result.status == Exit.USAGE
    assert "--patient dev:patient: a public key is hexadecimal, as `medchain key show` prints it" in result.err


def test_a_record_goes_encrypted_to_the_custodians_node_and_comes_back_to_a_reader(
    medchain: Medchain, tmp_path: Path
) -> None:
    content = b'{"resourceType": "Observation"}'
    (tmp_path / "observation.json").write_bytes(content)
    make_home(tmp_path)
    stored: list[bytes] = []
    FakeClient.answers["vault_put"] = lambda data, token: stored.append(data)
    patient = PATIENT.public.hex()
    result = medchain(
        "record", "add", str(tmp_path / "observation.json"), "--patient", patient, "--kind", "Observation",
        "--key", "dev:hospital", "--home", str(tmp_path), "--json",
    )  # fmt: skip
    assert result.status == 0, result.err
    (tx,) = FakeClient.sent
    commitment = vault.SealedRecord.from_bytes(stored[0]).commitment
    assert result.json["record"] == commitment.hex()
    assert tx.fields == (commitment, PATIENT.public, "Observation", len(content))
    assert b"Observation" not in stored[0]
    readers = {PATIENT.public, development_key("hospital").public, development_key("maker").public}
    assert set(vault.SealedRecord.from_bytes(stored[0]).recipients) == readers

    FakeClient.answers["vault_get"] = lambda record, access: stored[0]
    read = ("record", "read", commitment.hex(), "--purpose", "patient_request", "--key", "dev:patient")
    assert medchain(*read).out == content.decode()
    output = tmp_path / "out.json"
    assert medchain(*read, "--output", str(output)).out == ""
    assert output.read_bytes() == content
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    FakeClient.answers["submit_wait"] = {"code": int(Code.NOT_GRANTED)}
    refused = medchain(*read)
    assert (refused.status, refused.out) == (Exit.REFUSED, "")


def test_key_files_are_made_once_and_shown_without_their_secret(medchain: Medchain, tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    made = medchain("key", "gen", str(path), "--json")
    assert medchain("key", "show", str(path), "--json").json["public"] == made.json["public"]
    secret = path.read_text().split()[-1]
    assert secret not in made.out + medchain("key", "show", str(path)).out
    again = medchain("key", "gen", str(path))
    assert (again.status, again.out) == (Exit.USAGE, "")


def test_init_makes_a_home_whose_configuration_holds(medchain: Medchain, tmp_path: Path) -> None:
    home = tmp_path / "n"
    made = medchain("init", "--home", str(home), "--p2p-port", "4001", "--api-port", "4002", "--json")
    assert made.status == 0, made.err
    assert medchain("config", "check", "--home", str(home)).status == 0
    shown = medchain("config", "show", "--home", str(home), "--origin", "--json").json
    assert shown["p2p.port"] == {"value": 4001, "origin": str(home / config.FILE_NAME)}
    assert medchain("init", "--home", str(home)).status == Exit.USAGE
    verified = medchain("verify", "--home", str(home), "--json")
    assert verified.json["verified"] is True
    assert verified.json["chain"] == made.json["chain"]
    assert verified.err == medchain("repair", "--home", str(home)).err == ""  # no progress where nobody looks on


def test_config_check_names_every_problem_on_stderr(medchain: Medchain, tmp_path: Path) -> None:
    (tmp_path / config.FILE_NAME).write_text("[api]\nprot = 1\nport = 70000\n")
    result = medchain("config", "check", "--home", str(tmp_path))
    assert result.status == Exit.USAGE
    assert "api.prot" in result.err
    assert "api.port" in result.err


def test_start_gives_its_flags_to_the_configuration(
    medchain: Medchain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[config.NodeConfig] = []
    monkeypatch.setattr("node.node.run", lambda loaded: seen.append(loaded) or 0)
    monkeypatch.setattr("node.packages.check_packages", lambda: None)
    monkeypatch.setenv("MEDCHAIN_P2P__PORT", "11")
    make_home(tmp_path)
    result = medchain("start", "--home", str(tmp_path), "--api-port", "12", "--log-level", "error")
    assert result.status == 0, result.err
    assert (seen[0].p2p.port, seen[0].api.port, seen[0].log.level) == (11, 12, "error")


@pytest.mark.parametrize(
    "command", ["start", "verify", "join", "backup --out x", "restore -", "prune", "repair", "export blocks --out x"]
)
def test_what_needs_a_node_says_that_the_folder_holds_none(
    medchain: Medchain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setattr("node.packages.check_packages", lambda: None)
    monkeypatch.chdir(tmp_path)
    forgotten = medchain(*command.split())
    assert (forgotten.status, forgotten.out) == (Exit.USAGE, "")
    assert forgotten.err.startswith("MC5004 medchain-data: no such folder\n"), forgotten.err
    assert "--home" in forgotten.err
    empty = medchain(*command.split(), "--home", str(tmp_path))
    assert empty.err.startswith(f"MC5004 {tmp_path}: it has neither key nor genesis\n"), empty.err
    assert not list(tmp_path.iterdir())


def test_cluster_commands_without_a_cluster_say_how_to_start_one(medchain: Medchain, tmp_path: Path) -> None:
    for arguments in (("status",), ("down",), ("kill", "0"), ("heal",), ("partition", "0|1")):
        result = medchain("cluster", *arguments, "--dir", str(tmp_path))
        assert result.status == Exit.UNREACHABLE
        assert "medchain cluster up" in result.err


def test_up_refuses_flags_that_an_existing_cluster_cannot_follow(
    medchain: Medchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.cluster.supervisor.spawn", lambda directory: {"nodes": [], "directory": str(directory)})
    folder = str(tmp_path / "c")
    assert medchain("cluster", "up", "--dir", folder, "-n", "1", "--json").status == 0
    assert plans.read(Path(folder)).nodes[0].name == "hospital"
    assert medchain("cluster", "up", "--dir", folder, "--json").status == 0
    refused = medchain("cluster", "up", "--dir", folder, "-n", "4")
    assert refused.status == Exit.USAGE
    assert "choose another --dir" in refused.err


def test_describe_prints_the_schema_of_an_operation(medchain: Medchain) -> None:
    schema = medchain("tx", "describe", "payments.transfer").json
    assert schema["properties"]["amount"]["type"] == "integer"
    assert schema["required"] == ["currency", "to", "amount", "reference"]


def test_signed_bytes_are_canonical(medchain: Medchain) -> None:
    medchain("consent", "revoke", ID, "--key", "dev:patient")
    (tx,) = FakeClient.sent
    assert decode(tx.wire[98:], size_bytes_max=1_000) is not None


def test_a_file_that_cannot_be_used_is_named_with_a_code_of_its_own(medchain: Medchain, tmp_path: Path) -> None:
    garbage, missing = tmp_path / "garbage", tmp_path / "missing"
    garbage.write_text("garbage")
    garbage.chmod(0o600)
    for arguments, part in (
        (("key", "show", str(missing)), "No such file or directory"),
        (("key", "show", str(garbage)), "not a key file"),
        (("consent", "revoke", ID, "--key", str(missing)), "No such file or directory"),
        (
            ("key", "prove", "dev:patient", "--validator", "--genesis", str(garbage)),
            "genesis: not JSON (line 1, column",
        ),
        (("init", "--home", str(tmp_path / "n"), "--genesis", str(garbage)), "genesis: not JSON (line 1, column"),
    ):
        result = medchain(*arguments)
        assert (result.status, result.out) == (Exit.USAGE, ""), arguments
        path = garbage if str(garbage) in arguments else missing
        assert result.err.startswith(f"MC4008 {path}: "), result.err
        assert part in result.err
    absent = medchain("key", "prove", "dev:patient", "--validator", "--genesis", str(missing))
    assert (absent.status, "does not exist" in absent.err) == (Exit.USAGE, True)


def test_a_record_and_the_operators_token_go_only_to_the_node_whose_folder_was_named(
    medchain: Medchain, tmp_path: Path
) -> None:
    record = tmp_path / "record.json"
    record.write_text("{}")
    asked: list[object] = []
    FakeClient.answers["vault_put"] = lambda *arguments: asked.append(arguments)
    FakeClient.answers["vault_erase"] = lambda *arguments: asked.append(arguments)
    key = ("--key", "dev:hospital", "--home", str(tmp_path))
    add = ("record", "add", str(record), "--patient", PATIENT.public.hex(), "--kind", "X", *key)
    for command in (add, ("record", "erase", ID, *key)):
        without = medchain(*command)
        assert without.status == Exit.USAGE
        assert "operator.token: No such file or directory; --home takes the folder of the node" in without.err
    make_home(tmp_path)
    FakeClient.answers["status"] = {"key": PATIENT.public.hex()}
    for command in (add, ("record", "erase", ID, *key)):
        other = medchain(*command)
        assert other.status == Exit.USAGE
        assert "--home and --api name different nodes" in other.err
    assert (asked, FakeClient.sent) == ([], [])


@pytest.fixture
def erasing(medchain: Medchain, tmp_path: Path) -> tuple[Callable[[], Result], list[tuple[str, str]]]:
    """The command, at a hospital that keeps a record; and what its node was told to erase, with which token."""
    make_home(tmp_path)
    erased: list[tuple[str, str]] = []
    FakeClient.answers["vault_erase"] = lambda record, token: erased.append((record, token))
    FakeClient.answers["record"] = {"custodian": "hospital", "state": "withdrawn"}
    FakeClient.answers["member"] = lambda key: {"id": {development_key("hospital").public.hex(): "hospital"}[key]}
    return lambda: medchain("record", "erase", ID, "--key", "dev:hospital", "--home", str(tmp_path)), erased


def test_a_record_is_erased_from_the_vault_before_the_chain_is_told(
    erasing: tuple[Callable[[], Result], list[tuple[str, str]]],
) -> None:
    erase, erased = erasing
    FakeClient.answers["vault_erase"] = calls.Unreachable("here", "nobody")
    assert (erase().status, FakeClient.sent) == (Exit.UNREACHABLE, [])
    FakeClient.answers["vault_erase"] = lambda record, token: erased.append((record, token))
    result = erase()
    assert (result.status, erased) == (Exit.DONE, [(ID, "a" * 64)])
    assert [(tx.operation, tx.fields) for tx in FakeClient.sent] == [("records.erased", (bytes.fromhex(ID),))]


def test_who_erased_a_record_and_could_not_tell_the_chain_does_it_again(
    erasing: tuple[Callable[[], Result], list[tuple[str, str]]],
) -> None:
    FakeClient.answers["vault_erase"] = calls.ApiError(int(Code.RECORD_ERASED), 410, "gone", False)
    assert erasing[0]().status == Exit.DONE
    assert [tx.operation for tx in FakeClient.sent] == ["records.erased"]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"record": {"custodian": "insurer", "state": "held"}}, "MC2109 the custodian is insurer"),
        ({"record": calls.ApiError(int(Code.NOT_FOUND), 404, "no such record", False)}, "MC3004 no such record"),
        ({"vault_erase": calls.ApiError(int(Code.NOT_FOUND), 404, "no such record in this vault", False)}, "MC3004"),
    ],
)  # fmt: skip
def test_nothing_is_said_erased_and_nothing_erased_that_cannot_be_said(
    erasing: tuple[Callable[[], Result], list[tuple[str, str]]], answer: dict[str, Any], why: str
) -> None:
    erase, erased = erasing
    FakeClient.answers |= answer
    result = erase()
    assert (result.status, erased, FakeClient.sent) == (Exit.REFUSED, [], [])
    assert why in result.err


def test_who_adds_a_record_is_told_when_another_took_its_commitment_and_when_it_was_refused_for_something_else(
    medchain: Medchain, tmp_path: Path
) -> None:
    record = tmp_path / "record.json"
    record.write_text("{}")
    make_home(tmp_path)
    add = ("record", "add", str(record), "--patient", PATIENT.public.hex(), "--kind", "X", "--key", "dev:hospital")
    FakeClient.answers["submit_wait"] = {"code": int(Code.RECORD_EXISTS)}
    FakeClient.answers["record"] = {"custodian": "insurer"}
    taken = medchain(*add, "--home", str(tmp_path))
    assert taken.status == Exit.REFUSED
    assert "MC2101" in taken.err
    assert "insurer registered this commitment while it was on its way into a block" in taken.err
    assert "Now add the record again" in taken.err
    FakeClient.answers["submit_wait"] = {"code": int(Code.ROLE_REQUIRED)}
    FakeClient.answers["record"] = calls.ApiError(3004, 404, "no such record", False)
    refused = medchain(*add, "--home", str(tmp_path))
    assert (refused.status, "on its way" in refused.err) == (Exit.REFUSED, False)


def test_the_purposes_that_the_rules_know_can_be_given_and_are_listed(medchain: Medchain) -> None:
    assert tuple(PURPOSE_OF_USE) == PURPOSES
    for command in (("consent", "grant"), ("record", "read")):
        assert "|".join(PURPOSES) in medchain(*command, "--help").out
    wrong = medchain("consent", "grant", "--reader", "insurer", "--purpose", "fun", "--key", "dev:patient")
    assert (wrong.status, "public_health" in wrong.err) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("arguments", "answer", "document"),
    [
        (("member", "list", "--proposals"), {"proposals": []}, {"items": []}),
        (("evidence", "list"), {"evidence": {"items": [], "next": None}}, {"items": [], "next": None}),
        (("record", "history", ID), {"record_history": {"items": []}}, {"items": []}),
    ],
)
def test_that_there_is_nothing_yet_is_no_data(
    medchain: Medchain, arguments: tuple[str, ...], answer: dict[str, Any], document: dict[str, Any]
) -> None:
    FakeClient.answers.update(answer)
    result = medchain(*arguments)
    assert (result.status, result.out, result.err) == (0, "", "nothing yet\n")
    assert medchain(*arguments, "--json").json == document


def test_who_watches_an_unknown_transaction_is_not_told_that_it_was_accepted(medchain: Medchain) -> None:
    FakeClient.answers["receipt"] = calls.ApiError(3004, 404, "?", False)
    result = medchain("tx", "watch", ID, "--timeout", "0.1")
    assert result.status == Exit.NOT_FINAL
    assert "not on the chain after 0.1 s" in result.err
    assert "accepted" not in result.err


def test_what_is_no_height_is_told_that_latest_is_one(medchain: Medchain) -> None:
    assert "neither a height from 1 on nor `latest`" in medchain("block", "get", "foo").err


def test_a_field_of_bytes_says_how_many_digits_it_takes(medchain: Medchain) -> None:
    for given in ("01ab", "zz"):
        refused = medchain("consent", "revoke", given, "--key", "dev:patient")
        assert "bad_field: grant, 66 lower-case hexadecimal digits" in refused.err


@pytest.mark.parametrize(("given", "taken"), [("latest", "latest"), ("7", 7)])
def test_a_block_is_named_by_its_height_or_as_the_latest(given: str, taken: int | str) -> None:
    assert Height().convert(given, None, None) == taken


@pytest.mark.parametrize("given", ["0", "-1", "last", "1.5", ""])
def test_what_is_no_height_is_refused(given: str) -> None:
    with pytest.raises(click.BadParameter):
        Height().convert(given, None, None)
