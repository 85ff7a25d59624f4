"""The generated business is valid, ends as foretold, is the same for a seed, and leaves nothing personal in clear."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ledger.crypto import hash_bytes
from ledger.errors import Code
from ledger.modules.payments import CreateCurrency, Policy
from node.cluster.plan import development_modules
from node.gateway import fhir
from node.workload import SIZES, Cast, Performer, Size, Step, generate, published, published_modules
from node.workload.care import resource
from node.workload.goods import FRAUDS, fraud_story
from node.workload.steps import AT_THE_DOOR, Agree, Allow, Bill, Capture, Keep, Read, Revoke, Send
from tests.node.workload_chain import NOW_MS, MemoryTransport

# Published examples lie beside the project, or where MEDCHAIN_TEST_DATA says. Skipped without, but a failure in CI.
DATA = Path(os.environ.get("MEDCHAIN_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir() and not os.environ.get("CI"), reason="published examples not present")
FEW = Size(lots=3, patients=3, frauds=1, payments=1)


def carry_out(cast: Cast, steps: list[Step], transport: MemoryTransport | None = None) -> list[tuple[Step, int]]:
    """Each step with the code it ended in."""
    performer = Performer(cast, transport or MemoryTransport(cast), lambda: NOW_MS)

    async def run() -> list[tuple[Step, int]]:
        return [(step, (await performer.perform(step)).code) for step in steps]

    return asyncio.run(run())


def differing(done: list[tuple[Step, int]]) -> list[tuple[str, int | None, int]]:
    return [(step.label, step.expected, code) for step, code in done if step.expected not in (None, code)]


def few(seed: int = 1) -> tuple[Cast, list[Step]]:
    cast = Cast(development_modules())
    return cast, generate(Random(seed), cast, NOW_MS, FEW)


def personal(steps: list[Step]) -> set[bytes]:
    found: set[str] = set()
    for step in steps:
        if isinstance(step.act, Keep) and step.expected == 0:
            found |= fhir.personal_strings(fhir.parse(step.act.resource))
    return {text.encode() for text in found}


@pytest.mark.parametrize("seed", range(3))
def test_every_generated_step_ends_as_foretold(seed: int) -> None:
    cast, steps = few(seed)
    assert differing(carry_out(cast, steps)) == []


@pytest.mark.parametrize("kind", sorted(FRAUDS))
def test_each_fraud_is_refused_with_its_code_after_honest_steps(kind: str) -> None:
    cast = Cast(development_modules())
    done = carry_out(cast, list(fraud_story(Random(7), cast, 1, NOW_MS, kind)))
    assert differing(done) == []
    assert sum(code != 0 for _, code in done) == 1


def test_the_same_seed_gives_the_same_business_and_another_one_does_not() -> None:
    (cast, steps), (again, same), (_, other) = few(), few(), few(2)
    assert steps == same
    assert cast.key("patient-0") == again.key("patient-0")
    assert steps != other


def test_steps_of_one_story_keep_their_order_and_stories_are_mixed() -> None:
    _, steps = few()
    stories = [step.story for step in steps]
    assert len(set(stories)) == FEW.stories
    assert max(Counter(stories[:20]).values()) < 20
    for patient in range(3):
        own = [step.act for step in steps if step.story == FEW.lots + 1 + patient]
        assert isinstance(own[0], Keep)
        revoked = next(index for index, act in enumerate(own) if isinstance(act, Revoke))
        assert any(isinstance(act, Read) for act in own[:revoked])


def test_all_kinds_of_operations_and_both_spellings_of_identifiers_occur() -> None:
    _, steps = few()
    kinds = {type(step.act).__name__ for step in steps}
    assert kinds >= {"Capture", "Keep", "Agree", "Revoke", "Read", "Bill", "Confirm", "Send"}
    documents = b"".join(step.act.document for step in steps if isinstance(step.act, Capture))
    assert b"urn:epc:id:sgtin:" in documents
    assert b"https://id.gs1.org/01/" in documents


def test_nothing_personal_is_on_the_chain_in_the_vaults_or_in_a_label() -> None:
    cast, steps = few()
    transport = MemoryTransport(cast)
    carry_out(cast, steps, transport)
    sealed = [record for kept in transport.vaults.values() for record in kept.values()]
    entries = [key + value for key, value in transport.chain.entries.items()]
    labels = [step.label.encode() for step in steps]
    secrets = personal(steps)
    assert len(secrets) > 20
    found = [text for text in secrets for place in (*transport.wires, *entries, *sealed, *labels) if text in place]
    assert found == []


def test_a_record_released_without_an_allowed_access_is_noticed() -> None:
    cast, steps = few()

    class Careless(MemoryTransport):
        def allowed(self) -> set[bytes]:
            return set(self.senders)

    wrong = differing(carry_out(cast, steps, Careless(cast)))
    assert wrong
    assert {code for _, _, code in wrong} == {Code.CHECK_FAILED}


def test_another_record_than_the_one_kept_is_noticed() -> None:
    cast, steps = few()

    class Confused(MemoryTransport):
        async def release(self, custodian: str, commitment: bytes, access: bytes) -> bytes:
            return await super().release(custodian, min(self.vaults[custodian]), access)

    assert int(Code.CHECK_FAILED) in {code for _, _, code in differing(carry_out(cast, steps, Confused(cast)))}


def test_what_follows_a_refused_step_is_refused_too() -> None:
    cast = Cast(development_modules())
    cast.admit("someone", Random(1))
    steps = [
        Step(1, "not JSON", "hospital", Keep("r", "someone", b"{"), int(AT_THE_DOOR)),
        Step(1, "read", "pharmacy", Read("r", "treatment"), int(Code.UNKNOWN_RECORD)),
        Step(1, "grant", "someone", Allow("g", "pharmacy", ("treatment",), NOW_MS, ("r",)), int(Code.UNKNOWN_RECORD)),
        Step(1, "revoke", "someone", Revoke("g"), int(Code.UNKNOWN_GRANT)),
        Step(1, "claim", "hospital", Bill(b"", b"", "r", b"{}"), int(Code.UNKNOWN_POLICY)),
        Step(1, "not EPCIS", "maker", Capture(b"[1]"), int(AT_THE_DOOR)),
    ]
    assert differing(carry_out(cast, steps)) == []


def changed(document: bytes, **members: Any) -> bytes:
    return resource(json.loads(document) | members)


def test_a_consent_that_denies_its_own_reader_gives_no_grant() -> None:
    cast, steps = few()
    consented = next(step for step in steps if isinstance(step.act, Agree))
    assert isinstance(consented.act, Agree)
    provision = json.loads(consented.act.consent)["provision"]
    denied = provision | {"provision": [{"type": "deny", "actor": provision["actor"]}]}
    act = replace(consented.act, consent=changed(consented.act.consent, provision=denied))
    story = [step for step in steps if step.story == consented.story]
    before = story[: story.index(consented)]
    assert differing(carry_out(cast, [*before, replace(consented, act=act, expected=int(AT_THE_DOOR))])) == []


@pytest.mark.parametrize(
    "members",
    [{"total": {"value": 300, "currency": "EUR"}}, {"status": "entered-in-error"}],
    ids=["other money", "not in force"],
)
def test_a_claim_that_is_not_what_the_policy_pays_is_not_sent(members: dict[str, Any]) -> None:
    cast, steps = few()
    billed = next(step for step in steps if isinstance(step.act, Bill))
    assert isinstance(billed.act, Bill)
    act = replace(billed.act, claim=hash_bytes(b"another"), document=changed(billed.act.document, **members))
    story = [step for step in steps if step.story == billed.story]
    before = story[: story.index(billed)]
    assert differing(carry_out(cast, [*before, replace(billed, act=act, expected=int(AT_THE_DOOR))])) == []


def test_a_currency_made_here_is_compared_by_its_decimal_places() -> None:
    cast, steps = few()
    billed = next(step for step in steps if isinstance(step.act, Bill))
    assert isinstance(billed.act, Bill)
    visit = next(step for step in steps if isinstance(step.act, Keep) and step.act.record == billed.act.treatment)
    policy, me = hash_bytes(b"policy"), cast.key(visit.act.patient).public  # type: ignore[union-attr]
    terms = Policy(policy, me, "JPY", 8_000, None, 10**6, 10**6, NOW_MS - 1, NOW_MS + 10**9)
    document = changed(billed.act.document, total={"value": 300, "currency": "JPY"})
    bill = replace(billed, act=replace(billed.act, policy=policy, document=document))
    for exponent, expected in ((2, int(AT_THE_DOOR)), (0, 0)):
        create = Step(0, "create", "regulator", Send(CreateCurrency("JPY", "insurer", exponent)))
        sold = Step(0, "policy", "insurer", Send(terms))
        assert differing(carry_out(cast, [create, visit, sold, replace(bill, expected=expected)])) == []


def test_a_patient_takes_part_once() -> None:
    cast = Cast(development_modules())
    cast.admit("someone", Random(1))
    with pytest.raises(ValueError, match="takes part already"):
        cast.admit("someone", Random(2))


def test_sizes_are_ordered() -> None:
    assert SIZES["small"].stories < SIZES["normal"].stories


def published_steps() -> tuple[Cast, MemoryTransport, list[Step]]:
    modules = published_modules(DATA, development_modules())
    cast = Cast(modules)
    return cast, MemoryTransport(cast, modules), published(DATA, Random(1), cast, NOW_MS)


@needs_data
def test_published_files_end_as_far_as_foretold_and_the_drugs_way_is_accepted_whole() -> None:
    cast, transport, steps = published_steps()
    done = carry_out(cast, steps, transport)
    assert differing(done) == []
    way = [code for step, code in done if step.label == "EPCIS: drug_happy_path.epcis"]
    assert way == [0] * 18
    invalid = [code for step, code in done if step.expected == AT_THE_DOOR]
    assert len(invalid) >= 8
    assert set(invalid) == {AT_THE_DOOR}
    assert sum(step.label.endswith(": it pays") and code == 0 for step, code in done) >= 7


@needs_data
def test_no_location_of_published_files_is_left_to_a_stranger_and_genesis_is_not_changed() -> None:
    before = development_modules()
    modules = published_modules(DATA, before)
    assert before == development_modules()
    cast = Cast(modules)
    assert cast.institution_by_gln("9521234000013") == "maker"
    assert cast.institution_by_gln("9521234000044") == "pharmacy"
    assert cast.institution_by_gln("9521234000020") == "distributor"
