"""The layout of a local cluster is pure, complete, and free of collisions."""

from __future__ import annotations

import stat
from itertools import count
from pathlib import Path

import pytest

from ledger.crypto import KeyPair
from ledger.errors import ConfigError
from ledger.execution import Executor
from ledger.genesis import Genesis, development_key
from ledger.gs1 import check_digit_valid
from ledger.modules import drugs, members, payments, records
from ledger.rules import Registry
from ledger.state import state_key
from node import config as settings
from node import keys
from node.cluster import plan as plans
from node.cluster.plan import ClusterPlan, NewCluster


def make(n: int = 4, **options: object) -> NewCluster:
    seeds = count(1)
    return plans.new_cluster(
        n,
        generate=lambda: KeyPair.from_seed(next(seeds).to_bytes(32, "big")),
        time_ms=1_700_000_000_000,
        **options,  # type: ignore[arg-type]
    )


def no_data(home: Path) -> None:
    """Layout only: the chain's data is another room's."""


def test_names_follow_institutions_and_repeat_with_a_number() -> None:
    names = [node.name for node in make(7).plan.nodes]
    assert names == ["hospital", "maker", "pharmacy", "insurer", "hospital-2", "maker-2", "pharmacy-2"]


def test_no_two_listeners_share_a_port_even_in_the_largest_cluster() -> None:
    plan = make(plans.NODES_MAX - plans.SPARE_KEYS).plan
    for _ in range(plans.SPARE_KEYS):
        plan = plan.with_follower()
    listeners = 2 * len(plan.nodes) + len(plan.links())
    assert len(plan.ports()) == listeners
    assert max(plan.ports()) < plan.base_port + plans.PORTS_SPAN


def test_with_proxies_no_node_is_told_another_nodes_real_port() -> None:
    plan = make().plan
    real = {node.p2p_port for node in plan.nodes}
    for node in plan.nodes:
        peers = plan.settings(node)["p2p.peers"]
        assert isinstance(peers, list)
        assert real.isdisjoint(peer["port"] for peer in peers)
        assert len(peers) == 3


def test_without_proxies_nodes_dial_each_other_directly() -> None:
    plan = make(proxies=False).plan
    peers = plan.settings(plan.nodes[0])["p2p.peers"]
    assert isinstance(peers, list)
    assert [peer["port"] for peer in peers] == [node.p2p_port for node in plan.nodes[1:]]
    assert len(plan.ports()) == 8


@pytest.mark.parametrize("n", [0, 2, 3, plans.NODES_MAX])
def test_sizes_that_tolerate_no_fault_or_exceed_the_ports_are_refused(n: int) -> None:
    with pytest.raises(ConfigError, match="1 node or 4"):
        make(n)


def test_every_problem_of_a_plan_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make(2, base_port=80, roles=("hopsital",))
    for part in ("1 node or 4", "base port", "hopsital"):
        assert part in str(caught.value)


def test_the_development_genesis_is_accepted_by_the_rule_modules() -> None:
    registry = Registry([members.MODULE, records.MODULE, drugs.MODULE, payments.MODULE])
    changes, _ = Executor(make().genesis, registry).begin()
    written = {key: value for key, (value, _) in changes.items()}
    hospital = development_key("hospital").public
    assert written[state_key("members", "key", hospital)] == "hospital"
    patient = development_key("patient").public.hex()
    assert written[state_key("payments", "balance", "CNY", patient)] == plans.BALANCE_START


def test_global_location_numbers_have_their_check_digit() -> None:
    for name in plans.COMPANY_PREFIXES:
        gln = plans.development_gln(name)
        assert len(gln) == 13
        assert check_digit_valid(gln)


def test_a_plan_survives_its_file() -> None:
    plan = make().plan.with_follower()
    assert ClusterPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "medchain/cluster/1"}'])
def test_a_damaged_plan_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cluster\.json"):
        ClusterPlan.from_json(text)


def test_written_folders_hold_private_keys_and_a_configuration_that_loads(tmp_path: Path) -> None:
    cluster = make()
    plans.write(tmp_path / "c", cluster, no_data)
    assert plans.read(tmp_path / "c") == cluster.plan
    for node in cluster.plan.nodes:
        home = tmp_path / "c" / node.name
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        config = settings.load(home)
        assert keys.load(config.key_path).public.hex() == node.key
        assert Genesis.from_json(config.genesis_path.read_bytes()).chain_id.hex() == cluster.plan.chain_id
        assert config.api.port == node.api_port
    with pytest.raises(ConfigError, match="holds a cluster already"):
        plans.write(tmp_path / "c", cluster, no_data)


def test_a_follower_takes_a_spare_key_that_every_node_knows_already(tmp_path: Path) -> None:
    cluster = make()
    plans.write(tmp_path, cluster, no_data)
    known_before = settings.load(tmp_path / "hospital").p2p.known_keys
    plan = plans.add_follower(tmp_path, cluster.plan, no_data)
    follower = plan.nodes[-1]
    assert follower.name == "follower-1"
    assert not follower.validator
    assert follower.key in known_before
    config = settings.load(tmp_path / "follower-1")
    assert keys.load(config.key_path).public.hex() == follower.key
    assert len(config.p2p.peers) == 4
    assert plans.read(tmp_path) == plan


def test_when_spare_keys_are_used_up_the_refusal_says_so() -> None:
    plan = make().plan
    for _ in range(plans.SPARE_KEYS):
        plan = plan.with_follower()
    with pytest.raises(ConfigError, match="spare keys"):
        plan.with_follower()


def test_partition_groups_by_name_or_number_with_the_rest_as_one_group() -> None:
    plan = make().plan
    assert plans.partition_groups(plan, "hospital,1|2,3") == [[0, 1], [2, 3]]
    assert plans.partition_groups(plan, "insurer") == [[3], [0, 1, 2]]


@pytest.mark.parametrize("text", ["", "0,1,2,3", "0|0", "nobody|1"])
def test_an_unclear_partition_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        plans.partition_groups(make().plan, text)


def test_a_folder_without_a_cluster_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="medchain cluster up"):
        plans.read(tmp_path)
