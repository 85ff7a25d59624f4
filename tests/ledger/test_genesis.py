"""Genesis: one document, one chain id; what cannot work is refused before anything starts, all of it at once."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from ledger.errors import ConfigError
from ledger.genesis import (
    DEVELOPMENT_NAMES,
    GENESIS_SIZE_BYTES_MAX,
    Genesis,
    Parameters,
    development_key,
    development_public_keys,
)
from tests.ledger import ed25519
from tests.ledger.chain import key_pair

KEYS = tuple(key_pair(f"validator {number}").public for number in range(4))


def genesis(**changed: Any) -> Genesis:
    known: dict[str, Any] = {
        "name": "test",
        "time_ms": 1_000,
        "validators": KEYS,
        "modules": {"members": {"institutions": []}, "records": {}},
    }
    return Genesis(**{**known, **changed})


def document(**changed: Any) -> dict[str, Any]:
    return {**json.loads(genesis().to_json()), **changed}


def test_a_genesis_survives_its_document() -> None:
    known = genesis()
    again = Genesis.from_json(known.to_json())
    assert again.chain_id == known.chain_id
    assert again.to_json() == known.to_json()
    assert again.validator_set == known.validator_set
    assert Genesis.from_json(known.to_json().encode()).chain_id == known.chain_id


def test_layout_order_and_omitted_defaults_do_not_change_the_chain_id() -> None:
    """Trap 40. Two operators may write the same agreement differently."""
    known, text = genesis(), document()
    reordered = dict(reversed(text.items()))
    reordered["validators"] = [key.upper() for key in reversed(text["validators"])]
    reordered["modules"] = dict(reversed(text["modules"].items()))
    del reordered["parameters"], reordered["signature_rule"], reordered["development"]
    assert Genesis.from_json(json.dumps(reordered)).chain_id == known.chain_id
    assert Genesis.from_json(json.dumps(text, ensure_ascii=True)).chain_id == known.chain_id


def test_everything_in_a_genesis_enters_the_chain_id() -> None:
    """Trap 41, 46. Two nodes that differ in any of it are on two chains."""
    known = genesis()
    others = [
        genesis(name="other"),
        genesis(time_ms=1_001),
        genesis(development=True),
        genesis(validators=(*KEYS, key_pair("fifth").public)),
        genesis(modules={"members": {"institutions": []}}),
        genesis(modules={"members": {"institutions": []}, "records": {"a": None}}),
        genesis(modules={"members": {"institutions": []}, "records": {"a": 0}}),
        genesis(modules={"members": {"institutions": []}, "records": {"a": False}}),
        genesis(modules={"members": {"institutions": []}, "records": {"a": []}}),
        genesis(modules={"members": {"institutions": []}, "records": {"a": {}}}),
        genesis(modules={"members": {"institutions": []}, "records": {"a": ["map"]}}),
        *(
            genesis(parameters=replace(Parameters(), **{item.name: getattr(Parameters(), item.name) + change}))
            for item, change in ((item, -1 if item.name == "block_interval_ms" else 1) for item in fields(Parameters))
            if item.name != "window"
        ),
        genesis(parameters=Parameters(window=7)),
    ]
    assert len({one.chain_id for one in (known, *others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"name": ""}, ["name"]),
        ({"name": "a\nb"}, ["name"]),
        ({"name": 5, "time_ms": -1}, ["name", "time_ms"]),
        ({"time_ms": 2**63}, ["time_ms"]),
        ({"time_ms": True}, ["time_ms"]),
        ({"time_ms": 1.0}, ["time_ms"]),
        ({"development": 1}, ["development"]),
        ({"signature_rule": "other"}, ["signature_rule"]),
        ({"validators": []}, ["validators"]),
        ({"validators": [KEYS[0].hex()] * 4}, ["distinct"]),
        ({"validators": [key.hex() for key in KEYS[:1]]}, ["at least 4"]),
        ({"validators": [key.hex() for key in KEYS[:3]]}, ["at least 4", "tolerate no fault"]),
        ({"validators": ["zz"]}, ["genesis"]),
        ({"validators": "01"}, ["genesis"]),
        ({"validators": 5}, ["genesis"]),
        ({"validators": [*(key.hex() for key in KEYS), KEYS[0].hex()[:-2]]}, ["Ed25519"]),
        ({"modules": {}}, ["members"]),
        ({"modules": {"members": 5}}, ["genesis"]),
        ({"modules": ["members"]}, ["genesis"]),
        ({"modules": {"members": {"share": 0.5}}}, ["float"]),
        ({"modules": {"members": {"amount": 2**64}}}, ["modules"]),
        ({"modules": {"members": {"name": "\ud800"}}}, ["modules"]),
        ({"parameters": {"windw": 8}}, ["parameters.windw"]),
        ({"parameters": {"window": True}}, ["parameters.window"]),
        ({"parameters": {"window": 0, "log_window": 2**31}}, ["parameters.window", "parameters.log_window"]),
        ({"parameters": [1]}, ["genesis"]),
        ({"unknown": 1}, ["unknown"]),
        ({"format": "medchain/genesis/1"}, ["format"]),
    ],
    ids=lambda item: str(item)[:50],
)
def test_a_genesis_that_cannot_work_is_refused_by_name(changed: dict[str, Any], names: list[str]) -> None:
    """Trap 4, 45, 46. Every problem is named at once."""
    with pytest.raises(ConfigError) as caught:
        Genesis.from_json(json.dumps(document(**changed)))
    assert all(name in str(caught.value) for name in names), str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", b"\xff", "[" * 100_000, '{"format": NaN}'])
def test_what_is_no_document_is_refused(text: str | bytes) -> None:
    """Trap 35."""
    with pytest.raises(ConfigError):
        Genesis.from_json(text)


def test_an_oversized_document_is_refused_unread() -> None:
    with pytest.raises(ConfigError, match="too large"):
        Genesis.from_json(" " * (GENESIS_SIZE_BYTES_MAX + 1))


def test_deeply_nested_modules_are_refused() -> None:
    nested: Any = 0
    for _ in range(200):
        nested = [nested]
    with pytest.raises(ConfigError):
        genesis(modules={"members": {"deep": nested}})


def test_validators_of_small_order_are_refused() -> None:
    """Trap 42."""
    for encoding in ed25519.small_order_encodings():
        with pytest.raises(ConfigError, match="prime-order"):
            genesis(validators=(*KEYS, b"\x01" + encoding))


KNOWN = Parameters()


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"log_window": KNOWN.checkpoint_interval + 2 * KNOWN.window - 1}, "log_window"),
        ({"view_timeout_ms_max": KNOWN.view_timeout_ms - 1}, "view_timeout_ms_max"),
        ({"block_interval_ms": KNOWN.view_timeout_ms // 4 + 1}, "block_interval_ms"),
        ({"batch_txs_max": 2_001, "block_txs_max": 4_000}, "batch_txs_max"),
        ({"batch_txs_max": 500, "block_txs_max": 499}, "batch_txs_max"),
        ({"validity_heights_max": 2 * KNOWN.log_window - 1}, "validity_heights_max"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(changed: dict[str, int], name: str) -> None:
    """Trap 13."""
    assert KNOWN.problems() == []
    problems = replace(KNOWN, **changed).problems()
    assert [problem.partition(":")[0] for problem in problems] == [f"parameters.{name}"]


def test_one_validator_is_for_development_only() -> None:
    assert genesis(validators=KEYS[:1], development=True).validator_set.n == 1
    with pytest.raises(ConfigError):
        genesis(validators=KEYS[:2], development=True)


@pytest.mark.parametrize("name", DEVELOPMENT_NAMES)
def test_development_keys_are_known_and_refused_elsewhere(name: str) -> None:
    pair = development_key(name)
    assert pair.public in development_public_keys()
    assert pair == development_key(name)
    institutions = {"members": {"institutions": [{"id": "a", "keys": [pair.public.hex()]}]}}
    for changed in ({"validators": (*KEYS, pair.public)}, {"modules": institutions}):
        with pytest.raises(ConfigError, match="development"):
            genesis(**changed)
        assert genesis(**changed, development=True)


def test_development_keys_do_not_change_between_versions() -> None:
    """Trap 40. Development chains written down in documents and tests depend on them."""
    assert (
        development_key("hospital").public.hex() == "0141a55f3e765ca219b154e55fe20025d2c0e1280d268497e52e9dbad87c71cb44"
    )
