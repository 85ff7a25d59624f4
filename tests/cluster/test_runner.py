"""A runner owns its processes: it starts, faults and ends them, and they never outlive it. Stub nodes stand in."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.errors import Code
from node.cluster import control, ports, supervisor
from node.cluster.control import ControlServer
from node.cluster.runner import ClusterError, ClusterNode, LocalCluster, State, free_base_port

STUB = (sys.executable, str(Path(__file__).with_name("stub_node.py")))
pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("cluster")]


def running(pid: int | None) -> bool:
    if pid is None:
        return False
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def ask(cluster: LocalCluster, source: int, target: int, timeout_s: float = 2.0) -> bytes:
    """What node `target` answers on the link by which `source` would dial it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", cluster.plan.link_port(source, target))
    try:
        writer.write(b"hi\n")
        async with asyncio.timeout(timeout_s):
            return await reader.readline()
    finally:
        writer.transport.abort()


@pytest.mark.asyncio
async def test_nodes_start_fail_return_and_end_with_their_runner(tmp_path: Path) -> None:
    async with LocalCluster.create(tmp_path / "c", 4, command=STUB) as cluster:
        await cluster.wait_ready(20)
        pids = [node.pid for node in cluster.nodes]
        assert all(map(running, pids))
        assert await ask(cluster, 0, 1) == b"maker hi\n"

        await cluster.kill(1)
        assert not running(pids[1])
        assert cluster.nodes[1].state is State.STOPPED
        with pytest.raises(ClusterError) as caught:
            await cluster.kill("maker")
        assert caught.value.code is Code.NOT_RUNNING
        await cluster.start(1)
        with pytest.raises(ClusterError) as caught:
            await cluster.start(1)
        assert caught.value.code is Code.ALREADY_RUNNING
        await cluster.wait_ready(20, nodes=[1])
        assert await ask(cluster, 0, 1) == b"maker hi\n"

        await cluster.pause(2)
        assert cluster.nodes[2].state is State.PAUSED
        with pytest.raises(TimeoutError):
            await ask(cluster, 0, 2, timeout_s=0.1)
        await cluster.resume(2)
        assert await ask(cluster, 0, 2) == b"pharmacy hi\n"

        cluster.partition([[0, 1], [2, 3]])
        with pytest.raises(TimeoutError):
            await ask(cluster, 1, 2, timeout_s=0.1)
        assert await ask(cluster, 3, 2) == b"pharmacy hi\n"
        cluster.heal()
        assert await ask(cluster, 1, 2) == b"pharmacy hi\n"

        follower = await cluster.add_follower()
        await cluster.wait_ready(20, nodes=[4])
        assert await ask(cluster, 0, 4) == b"follower-1 hi\n"

        await cluster.pause(3)  # a frozen node must not survive either
        pids = [node.pid for node in cluster.nodes]
        assert follower.pid in pids
    assert not any(map(running, pids))


@pytest.mark.asyncio
async def test_one_runner_a_folder_and_the_second_is_told_which(tmp_path: Path) -> None:
    async with LocalCluster.create(tmp_path / "c", 1, command=STUB):
        with pytest.raises(ClusterError, match=str(os.getpid())) as caught:
            async with LocalCluster.open(tmp_path / "c", command=STUB):
                pass
        assert caught.value.code is Code.ALREADY_RUNNING


@pytest.mark.asyncio
async def test_a_taken_port_names_its_holder_and_the_flag(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "c", 1, command=STUB)
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", cluster.plan.nodes[0].api_port)
    try:
        with pytest.raises(ClusterError, match=rf"process {os.getpid()}.*--base-port") as caught:
            async with cluster:
                pass
        assert caught.value.code is Code.PORT_TAKEN
    finally:
        server.close()
    assert ports.is_free(cluster.plan.nodes[0].p2p_port)


@pytest.mark.asyncio
async def test_a_new_cluster_whose_ports_are_taken_is_not_made(tmp_path: Path) -> None:
    """So that whoever chooses other ports, as the error says, need not choose another folder."""
    base_port = free_base_port(1, proxies=True)
    server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", base_port)
    try:
        with pytest.raises(ClusterError, match=rf"process {os.getpid()}.*--base-port"):
            LocalCluster.create(tmp_path / "c", 1, base_port=base_port)
    finally:
        server.close()
    assert not (tmp_path / "c").exists()


@pytest.mark.asyncio
async def test_a_follower_whose_port_is_taken_is_not_made(tmp_path: Path) -> None:
    async with LocalCluster.create(tmp_path / "c", 1, command=STUB) as cluster:
        planned = cluster.plan.with_follower().nodes[-1]
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", planned.api_port)
        try:
            with pytest.raises(ClusterError, match=rf"process {os.getpid()}"):
                await cluster.add_follower()
        finally:
            server.close()
        assert not (tmp_path / "c" / planned.name).exists()
        assert (await cluster.add_follower()).name == planned.name


@pytest.mark.asyncio
async def test_a_node_that_cannot_start_is_named_with_its_log(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "c", 1, command=STUB)
    (tmp_path / "c" / "hospital" / "fail").touch()
    async with cluster:
        with pytest.raises(ClusterError, match=r"hospital ended with status 2 .*hospital\.log"):
            await cluster.wait_ready(20)


@pytest.mark.asyncio
async def test_settings_of_the_runners_environment_do_not_reach_its_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDCHAIN_P2P__PORT", "1")
    async with LocalCluster.create(tmp_path / "c", 1, command=STUB) as cluster:
        await cluster.wait_ready(20)


@pytest.mark.asyncio
async def test_the_control_socket_is_private_and_answers_errors_with_their_code(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)  # longer than a socket's address may be
    folder.parent.mkdir(exist_ok=True)
    async with LocalCluster.create(folder, 1, command=STUB) as cluster, ControlServer(cluster) as server:
        await cluster.wait_ready(20)
        assert stat.S_IMODE((folder / control.SOCKET_FILE).stat().st_mode) == 0o600

        async def request(command: str, **arguments: object) -> dict[str, object]:
            answer: dict[str, object] = await asyncio.to_thread(control.request, folder, command, **arguments)
            return answer

        assert (await request("restart", node="hospital"))["state"] == "running"
        with pytest.raises(ClusterError) as caught:
            await request("kill", node="nobody")
        assert caught.value.code is Code.BAD_REQUEST
        with pytest.raises(ClusterError):
            await request("__init__")
        await request("down")
        assert server.down.is_set()
    with pytest.raises(ClusterError) as caught:
        control.request(folder, "status")
    assert caught.value.code is Code.NOT_RUNNING


def test_a_runner_killed_in_the_background_takes_its_nodes_along(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "c", 1, command=STUB)
    status = supervisor.spawn(tmp_path / "c", STUB)
    node_pid = status["nodes"][0]["pid"]
    assert running(node_pid)
    os.kill(status["pid"], signal.SIGKILL)
    deadline = subprocess.run(["tail", "--pid", str(node_pid), "-f", "/dev/null"], timeout=10, check=False)
    assert deadline.returncode == 0
    assert not running(node_pid)
    assert ports.is_free(cluster.plan.nodes[0].p2p_port)


def test_a_background_runner_that_cannot_start_says_why(tmp_path: Path) -> None:
    LocalCluster.create(tmp_path / "c", 1, command=STUB)
    (tmp_path / "c" / "hospital" / "fail").touch()
    with pytest.raises(ClusterError, match="before it was ready"):
        supervisor.spawn(tmp_path / "c", STUB)


def test_a_nodes_description_shows_no_secret(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "c", 1, command=STUB)
    node: ClusterNode = cluster.nodes[0]
    secret = (node.home / "node.key").read_text().splitlines()[2].split()[1]
    assert secret not in repr(node) + str(node.to_json()) + str(cluster.status())
