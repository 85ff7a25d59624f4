"""The side-by-side with CometBFT, without Go and a network: settings, transactions, answers, blocks, verdicts."""

from __future__ import annotations

import json
import math
import tomllib
from base64 import b64decode, b64encode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import comet, comet_run, scenarios
from bench.checks import Check
from bench.comet_chain import block_txs, header_height, result_of
from bench.comet_client import (
    SENDERS,
    TX_SIZE_BYTES,
    Door,
    Order,
    call,
    door_codes,
    make_share,
    sender,
    transaction,
)
from bench.comet_nodes import DOOR, NODES, SETUPS, SOURCE, TUNED, Settings, lay_out, rpc_url, with_settings
from bench.comet_report import Config, Results, document, passes, text
from bench.comet_run import signatures_check
from bench.figures import Latencies, Sent, Tally
from bench.observer import BenchError, Unavailable
from bench.options import Options
from bench.scenarios import SCENARIOS
from bench.schedule import due_times
from bench.series import series
from ledger.crypto import PUBLIC_KEY_SIZE_BYTES, SIGNATURE_SIZE_BYTES, hash_bytes, verify_joined

CONFIG_TOML = """# A comment with timeout_commit = in it
proxy_app = "tcp://127.0.0.1:26658"
log_level = "info"

[rpc]
laddr = "tcp://127.0.0.1:26657"
# The most requests in one batch
max_request_batch_size = 10

[p2p]
laddr = "tcp://127.0.0.1:26656"
flush_throttle_timeout = "100ms"
send_rate = 5120000
recv_rate = 5120000

[mempool]
recheck = true
size = 5000
cache_size = 10000

[consensus]
timeout_commit = "1s"
skip_timeout_commit = false
create_empty_blocks = true
peer_gossip_sleep_duration = "100ms"

[tx_index]
indexer = "kv"
"""

CONFIG = Config(
    machine="a machine", cores=2, go="go1.99", cometbft="0.38.0", commit="abc", setup="tuned", nodes=4, rate=1_000.0,
    tx_size_bytes=TX_SIZE_BYTES, warmup_s=5.0, duration_s=20.0, clients=2,
)  # fmt: skip
GOOD = Results(
    tally=Tally(20_000, 20_000, {}, {}, {"pair": 20_000}),
    committed_per_s=999.0,
    latencies=Latencies(20_000, 0, 90.0, 180.0, 240.0, 400.0),
    processor_us=120.0,
    machine_share=0.5,
    blocks_per_s=20.0,
    txs_per_block=50.0,
    limit_before=7_500.0,
    limit_after=7_400.0,
    generator_lag_p99_ms=2.0,
    generator_share=0.04,
    observer_share=0.01,
    failed_posts=0,
    emptied=True,
    again=0,
    checks=(Check("the last block's hash is the same on all nodes", True, "height 9"),),
    series=series([Sent(6.0, "pair", 0, 6.1, 0)], [6.1], 5.0, 25.0, 5.0),
)


def an_order(setup: str = "stock", index: int = 0) -> Order:
    return Order(
        parent_pid=1, seed=3, rate=100.0, duration_s=1.0, index=index, clients=2,
        one_namespace=SETUPS[setup].one_namespace, signed=SETUPS[setup].signed, urls=[], out="",
    )  # fmt: skip


def changed(settings: Settings) -> dict[str, Any]:
    return tomllib.loads(with_settings(CONFIG_TOML, settings))


def test_where_go_is_missing_the_harness_says_so_in_one_line_and_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert comet.main(["--config", "stock"]) == 3
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "comet: not compared: no Go on the PATH to build CometBFT with\n"


def test_where_the_module_cannot_be_had_the_reason_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho 'go: downloading' >&2\necho 'go: no such host' >&2\nexit 1\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert comet.main([]) == 3
    assert capsys.readouterr().err == "comet: not compared: CometBFT cannot be fetched or built: go: no such host\n"


def test_the_versions_of_all_modules_are_fixed_by_their_hashes() -> None:
    sums = (SOURCE / "go.sum").read_text("utf-8")
    required = [line.split() for line in (SOURCE / "go.mod").read_text("utf-8").splitlines() if line.startswith("\t")]
    assert ["github.com/cometbft/cometbft"] in [words[:1] for words in required]
    assert all(f"{module} {version} h1:" in sums for module, version, *_ in required)


def test_tuned_settings_are_written_where_they_belong_and_the_rest_stays() -> None:
    before, after = tomllib.loads(CONFIG_TOML), changed(TUNED)
    assert after["consensus"]["timeout_commit"] == "0s"
    assert after["consensus"]["peer_gossip_sleep_duration"] == "2ms"
    assert after["mempool"]["size"] == 100_000
    assert after["log_level"] == "error"
    assert after["rpc"] == before["rpc"]
    assert after["p2p"]["laddr"] == before["p2p"]["laddr"]
    assert after["proxy_app"] == before["proxy_app"]


def test_stock_differs_from_what_ships_in_the_size_of_a_batch_of_calls_alone() -> None:
    assert SETUPS["stock"].settings == (DOOR,)
    assert SETUPS["stock"].flags == ()
    before, after = tomllib.loads(CONFIG_TOML), changed(DOOR)
    assert after["rpc"].pop("max_request_batch_size") == 0
    before["rpc"].pop("max_request_batch_size")
    assert after == before


def test_signed_differs_from_tuned_in_the_signature_alone() -> None:
    tuned, signed = SETUPS["tuned"], SETUPS["signed"]
    assert replace(signed, name="tuned", flags=tuned.flags, signed=False) == tuned
    assert signed.flags == (*tuned.flags, "--signed")


def test_a_setting_that_cometbft_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no such settings: mempool\.timeout_commit"):
        with_settings(CONFIG_TOML, {"mempool": {"timeout_commit": '"0s"'}, "consensus": {"timeout_commit": '"0s"'}})


def test_every_home_gets_the_settings_of_its_setup(tmp_path: Path) -> None:
    """Laid out by a program that stands in for ours: it notes what it is told, and writes stock settings."""
    program, folder = tmp_path / "program", tmp_path / "homes"
    (tmp_path / "config.toml").write_text(CONFIG_TOML)
    program.write_text(f"""#!/bin/sh
echo "$@" > {tmp_path}/told
for i in 0 1 2 3; do mkdir -p {folder}/node$i/config; cp {tmp_path}/config.toml {folder}/node$i/config/; done
""")
    program.chmod(0o755)
    homes = lay_out(program, SETUPS["signed"], folder, 20_000)
    assert homes == [folder / f"node{index}" for index in range(NODES)]
    assert (tmp_path / "told").read_text().split() == [
        "layout", "--out", str(folder), "--nodes", str(NODES), "--base-port", "20000",
    ]  # fmt: skip
    for home in homes:
        found = tomllib.loads((home / "config" / "config.toml").read_text("utf-8"))
        assert found["rpc"]["max_request_batch_size"] == 0
        assert found["consensus"]["timeout_commit"] == "0s"


def test_each_node_has_two_ports_of_its_own() -> None:
    urls = [rpc_url(20_000, index) for index in range(NODES)]
    assert urls == [f"http://127.0.0.1:{port}" for port in (20_001, 20_003, 20_005, 20_007)]


def test_a_transaction_is_one_pair_of_the_same_size_in_every_setup() -> None:
    senders = [sender(3, number) for number in range(2)]
    for setup in SETUPS:
        txs = [transaction(an_order(setup), number, senders) for number in range(20)]
        assert {len(tx) for tx in txs} == {TX_SIZE_BYTES}
        assert len(set(txs)) == len(txs)
        head = SIGNATURE_SIZE_BYTES + PUBLIC_KEY_SIZE_BYTES if SETUPS[setup].signed else 0
        for tx in txs:  # the store's own rule
            assert (tx[head:].count(b"="), tx[head:].count(b":")) == (1, 0)
            assert 0 < tx.index(b"=", head) - head < TX_SIZE_BYTES - head - 1


def test_keys_ascend_under_one_prefix_where_there_is_one_namespace() -> None:
    tuned = [transaction(an_order("tuned"), number, []).partition(b"=")[0] for number in range(20)]
    stock = [transaction(an_order("stock"), number, []).partition(b"=")[0] for number in range(20)]
    assert tuned == sorted(tuned)
    assert all(key.startswith(b"medchain/3/") for key in tuned)
    assert stock != sorted(stock)


def test_a_signed_transaction_has_the_layout_and_the_signature_of_ours() -> None:
    tx = transaction(an_order("signed"), 7, [sender(3, number) for number in range(10)])
    assert verify_joined(tx)
    assert tx[SIGNATURE_SIZE_BYTES:][:PUBLIC_KEY_SIZE_BYTES] == sender(3, 7).public
    assert not verify_joined(tx[:-1] + b"?")


def test_the_clients_shares_are_the_whole_run_and_do_not_overlap() -> None:
    shares = [make_share(an_order("stock", index)) for index in range(2)]
    assert sorted(due_s for share in shares for due_s in share.due_s) == due_times(100.0, 1.0, poisson=False, seed=3)
    ids = [tx_id for share in shares for tx_id in share.ids]
    assert len(set(ids)) == len(ids) == 100
    sent = [b64decode(json.loads(wire)["params"][0]) for share in shares for wire in share.wires]
    assert list(map(hash_bytes, sent)) == ids


def test_signed_runs_have_a_thousand_senders() -> None:
    order = replace(an_order("signed"), rate=float(SENDERS), clients=1)
    calls = [json.loads(wire) for wire in make_share(order).wires]
    keys = {b64decode(item["params"][0])[SIGNATURE_SIZE_BYTES:][:PUBLIC_KEY_SIZE_BYTES] for item in calls}
    assert len(keys) == SENDERS


def test_a_call_has_an_id_or_it_would_be_skipped() -> None:
    assert json.loads(call(b"a=b")) == {
        "jsonrpc": "2.0", "id": 1, "method": "broadcast_tx_sync", "params": [b64encode(b"a=b").decode()],
    }  # fmt: skip


TAKEN = {"jsonrpc": "2.0", "id": 1, "result": {"code": 0, "data": "", "log": "", "codespace": "", "hash": "AB"}}


def refusal(why: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "error": {"code": -32603, "message": "Internal error", "data": why}}


def answer(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def test_each_transactions_answer_is_found_in_the_answer_to_a_post() -> None:
    assert door_codes(2, 200, answer([TAKEN, TAKEN])) == [0, 0]
    assert door_codes(1, 200, answer(TAKEN)) == [0]
    full = refusal("mempool is full: number of txs 5000 (max: 5000)")
    there, other = refusal("tx already exists in cache"), refusal("context deadline exceeded")
    invalid = {**TAKEN, "result": {**TAKEN["result"], "code": 100}}  # type: ignore[dict-item]
    expected = [Door.MEMPOOL_FULL, 0, Door.ALREADY_THERE, Door.OTHER, Door.NOT_VALID]
    assert door_codes(5, 200, answer([full, TAKEN, there, other, invalid])) == expected


def test_an_error_of_the_whole_post_counts_for_each_of_its_transactions() -> None:
    assert door_codes(2, 200, answer(refusal("batch request exceeds maximum"))) == [Door.OTHER, Door.OTHER]
    assert door_codes(2, 500, b"") == [Door.OTHER, Door.OTHER]


def test_an_event_of_a_header_gives_its_height_and_other_messages_none() -> None:
    event = {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {
            "query": "tm.event='NewBlockHeader'",
            "data": {"type": "tendermint/event/NewBlockHeader", "value": {"header": {"height": "31"}}},
            "events": {"tm.event": ["NewBlockHeader"]},
        },
    }
    assert header_height(json.dumps(event)) == 31
    assert header_height('{"jsonrpc":"2.0","id":1,"result":{}}') is None
    assert header_height('{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"data":"subscription was cancelled"}}') is None


def test_a_blocks_transactions_are_read_as_they_were_sent() -> None:
    txs = [b64encode(tx).decode() for tx in (b"a=b", b"\x01\xff=")]
    assert block_txs({"block": {"data": {"txs": txs}}}) == [b"a=b", b"\x01\xff="]
    assert block_txs({"block": {"data": {"txs": None}}}) == []


def test_an_error_in_place_of_a_result_is_no_result() -> None:
    assert result_of(b'{"jsonrpc":"2.0","id":-1,"result":{"total":"0"}}') == {"total": "0"}
    with pytest.raises(BenchError, match="height 9"):
        result_of(answer(refusal("height 9 must be less than or equal to the current blockchain height 8")))


def test_a_node_that_checked_fewer_signatures_than_it_executed_is_found() -> None:
    honest = {"signatures_checked": 110, "executed": 100, "refused": 0}
    lazy = {**honest, "signatures_checked": 99}
    assert signatures_check([honest, honest]).held
    assert not signatures_check([honest, lazy]).held
    assert not signatures_check([{**honest, "refused": 1}]).held


def test_a_good_run_passes_and_leaves_no_doubt() -> None:
    assert passes(CONFIG, GOOD)
    assert list(GOOD.doubts()) == []
    written = text(CONFIG, GOOD)
    for part in ("0.38.0, go1.99, abc", "tuned, 4", "999 tx/s", "p95 180 ms", "seen at 2 nodes", "13% of it", "ok   "):
        assert part in written
    assert "DOUBT" not in written


def test_a_rate_passes_by_latency_throughput_and_refusals() -> None:
    slow = replace(GOOD, latencies=replace(GOOD.latencies, p95_ms=900.0))
    assert not passes(CONFIG, slow)
    assert passes(replace(CONFIG, setup="stock"), slow)  # it waits a second after each block
    assert not passes(CONFIG, replace(GOOD, committed_per_s=950.0))
    assert passes(CONFIG, replace(GOOD, committed_per_s=950.0, txs_per_block=1_000.0))  # a block more or less
    assert not passes(CONFIG, replace(GOOD, tally=replace(GOOD.tally, refused_at_door={Door.MEMPOOL_FULL: 201})))
    assert not passes(CONFIG, replace(GOOD, checks=(Check("one chain", False, "two"),)))


def test_each_reason_to_doubt_is_said() -> None:
    cases = {
        "lagged": replace(GOOD, generator_lag_p99_ms=5.1),
        "took much": replace(GOOD, generator_share=0.06),
        "speed changed": replace(GOOD, limit_after=6_000.0),
        "were refused": replace(GOOD, tally=Tally(100, 90, {Door.MEMPOOL_FULL: 10}, {}, {"pair": 100})),
        "never seen final": replace(GOOD, latencies=Latencies(10, 1, 1.0, 2.0, 3.0, math.inf)),
        "posts failed": replace(GOOD, failed_posts=1),
        "still waiting": replace(GOOD, emptied=False),
        "executed twice: 3": replace(GOOD, again=3),
    }
    for words, results in cases.items():
        assert results.sound
        assert [doubt for doubt in results.doubts() if words in str(doubt)], words
        assert "DOUBT" in text(CONFIG, results)
    assert "mempool full 10" in text(CONFIG, cases["were refused"])


def test_the_document_says_what_it_was_built_from_and_null_for_infinite() -> None:
    found = document(CONFIG, replace(GOOD, latencies=Latencies(10, 1, 1.0, 2.0, 3.0, math.inf)))
    assert json.loads(json.dumps(found, allow_nan=False))["results"]["latencies"]["max_ms"] is None
    assert (found["config"]["cometbft"], found["config"]["go"], found["config"]["machine"]) == (
        "0.38.0", "go1.99", "a machine",
    )  # fmt: skip


@pytest.mark.asyncio
async def test_a_scenario_offers_its_share_for_its_time_and_gives_what_our_rows_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[comet_run.Options] = []
    results = GOOD

    async def run(options: comet_run.Options, program: Path, say: object) -> tuple[Config, Results]:
        asked.append(options)
        return CONFIG, results

    monkeypatch.setattr(scenarios, "build", lambda: Path("comet-node"))
    monkeypatch.setattr(comet_run, "run", run)
    for setup in SETUPS:
        offered = Options(share=0.3, duration_s=8.0, warmup_s=3.0)
        found = await SCENARIOS[f"comet {setup}"].runner(offered, print)
        assert asked[-1] == comet_run.Options(setup, share=0.3, duration_s=8.0, warmup_s=3.0)
        assert (found["sound"], found["passes"], found["config"]["faults"]) == (True, True, "none")
        assert found["results"]["limit"] == 7_450.0
        assert found["results"]["committed_per_s"] == 999.0
    results = replace(GOOD, committed_per_s=0.0)
    with pytest.raises(BenchError, match="nothing to compare"):
        await SCENARIOS["comet stock"].runner(Options(), print)


@pytest.mark.asyncio
async def test_a_scenario_whose_program_cannot_be_built_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="no Go"):
        await SCENARIOS["comet tuned"].runner(Options(), print)
