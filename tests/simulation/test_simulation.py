"""A few fixed seeds on every run, all that ever failed, and that a seed is a run: the same whatever the interpreter's
hash seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from p2p.frames import Kind
from tests.simulation.__main__ import main as command
from tests.simulation.cluster import Cluster, Options
from tests.simulation.coverage import expected, refusals
from tests.simulation.disk import FileSystem
from tests.simulation.plan import Plan, draw_plan
from tests.simulation.runs import run_plan, run_seed, strategies
from tests.simulation.shrink import shrink, signature_of
from tests.simulation.trace import Trace, render_html

REGRESSIONS = json.loads(Path(__file__).with_name("regressions.json").read_text())


@pytest.mark.parametrize("seed", range(10))
def test_seed(seed: int) -> None:
    outcome = run_seed(seed)
    assert outcome.height > 0
    assert outcome.transactions > 0


@pytest.mark.parametrize("entry", REGRESSIONS, ids=[entry["name"] for entry in REGRESSIONS])
def test_what_once_failed(entry: dict[str, object]) -> None:
    """Each entry says why it is here."""
    run_plan(Plan.from_value(entry["plan"]))  # type: ignore[arg-type]


def test_a_seed_gives_the_same_run_twice_and_under_any_hash_seed() -> None:
    """Trap 45."""
    code = "from tests.simulation.runs import run_seed\nfor seed in (3, 3, 5, 7): print(run_seed(seed))"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for hash_seed in (0, 1, 4242)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][0] == runs[0][1]
    assert len(set(runs[0])) == 3


def test_tokens_and_real_signatures_decide_the_same() -> None:
    plan = draw_plan(2, [])
    heights = []
    for real in (False, True):
        plan.options.ed25519 = real
        heights.append(run_plan(plan).height)
    assert heights[0] == heights[1]


def test_a_plan_goes_into_a_file_and_comes_back() -> None:
    for seed in range(50):
        plan = draw_plan(seed, strategies())
        text = plan.to_json()
        assert Plan.from_json(text).to_json() == text
        assert Plan.from_json(text).options == plan.options


def test_a_failing_plan_is_shrunk_to_what_makes_it_fail() -> None:
    plan = draw_plan(4, strategies())
    plan.options.loss = 8
    plan.faults = [{"at_ms": at_ms, "kind": "heal"} for at_ms in range(40)]

    def fails(candidate: Plan) -> str | None:
        times = [fault["at_ms"] for fault in candidate.faults]
        return "boom" if 7 in times and 31 in times and candidate.options.loss else None

    small = shrink(plan, fails, 30.0)
    assert [fault["at_ms"] for fault in small.faults] == [7, 31]
    assert small.options.loss == 8
    assert not small.options.byzantine
    assert not small.lost


def test_failures_are_known_again_by_their_words() -> None:
    one, other = (
        AssertionError("two blocks at height 7 (at 300 ms)"),
        AssertionError("two blocks at height 12 (at 9 ms)"),
    )
    assert signature_of(one) == signature_of(other)
    assert signature_of(one) != signature_of(ValueError("two blocks at height 7 (at 300 ms)"))


def test_every_kind_of_refusal_in_the_engine_is_counted() -> None:
    assert {"other view", "equivocation", "old view change"} <= set(refusals())
    assert len(set(expected())) == len(expected())


def test_a_power_cut_takes_the_last_writes_and_leaves_any_part_of_the_first_of_them() -> None:
    """Trap 21."""
    found = set()
    for seed in range(200):
        files = FileSystem()
        files.do("create", "a")
        files.do("sync", "")
        files.do("write", "a", 0, b"one")
        files.do("sync", "a")
        files.settle()
        files.do("write", "a", 3, b"two")
        files.do("write", "a", 6, b"six")
        files.cut_power(Random(seed), torn=True)
        content = bytes(files.files["a"])
        torn = 6 if content.startswith(b"onetwo") else 3
        assert content[:torn] == b"onetwo"[:torn]
        assert all(byte in (0, whole) for byte, whole in zip(content, b"onetwosix", strict=False))
        assert len(content) <= torn + 3
        found.add(content)
    assert {b"one", b"onetwo", b"onetwosix", b"onet", b"one\0\0o", b"onetwo\0\0x"} <= found


def test_what_was_not_synced_is_not_on_the_platter_however_late() -> None:
    files = FileSystem()
    files.do("create", "a")
    files.do("sync", "")
    files.do("write", "a", 0, b"one")
    files.settle()
    assert files.mark == 1
    survivors = set()
    for seed in range(20):
        twin = FileSystem()
        twin.files, twin._platter, twin._pending = {}, {"a": bytearray()}, list(files._pending)
        twin.cut_power(Random(seed), torn=False)
        survivors.add(bytes(twin.files["a"]))
    assert survivors == {b"", b"one"}


def test_a_vote_that_is_sent_before_it_is_durable_is_seen() -> None:
    """Trap 20: the checker, not the engine, is under test."""
    cluster = Cluster(1, Options())
    hasty = cluster.nodes[0]
    hasty.append = lambda *record: 0  # type: ignore[method-assign]
    carry_out = hasty.replica._carry_out

    def at_once(effect: object) -> None:
        for follower in getattr(effect, "then", ()):
            carry_out(follower)
        if not hasattr(effect, "then"):
            carry_out(effect)  # type: ignore[arg-type]

    hasty.replica._carry_out = at_once  # type: ignore[method-assign]
    cluster.transfer()
    with pytest.raises(AssertionError, match="before it was durable"):
        cluster.run(3_000)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file or directory"),
        ("garbage", "not a plan: Expecting value: line 1 column 1 (char 0)"),
        ("[]", "not a plan: format must be medchain/simulation-plan/1"),
        ("{}", "not a plan: format must be medchain/simulation-plan/1"),
    ],
)
def test_a_file_that_is_no_plan_costs_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, reason: str
) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    assert command(["--plan", str(path)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"{path}: {reason}\n")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"faults": [{"at_ms": 5, "kind": "explode"}]}, "there is no fault of the kind 'explode'"),
        ({"faults": [{"at_ms": "5", "kind": "heal"}]}, "at_ms of a fault is a whole number, not '5'"),
        ({"faults": [{"at_ms": 5}]}, "KeyError: 'kind'"),
        ({"options": {"n": "four"}}, "TypeError: "),
        ({"options": {"n": 2}}, "ConfigError: "),
        ({"options": {"n": 4, "byzantine": {"1": "saint"}}}, "there is no Byzantine strategy 'saint'"),
    ],
)
def test_an_edited_plan_that_cannot_be_run_is_no_failed_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], reason: str
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(draw_plan(3, strategies()).to_json()) | change))
    assert command(["--plan", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"{path}: not a plan: {reason}")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--seeds", "0"], "argument --seeds: 0: at least 1"),
        (["--seeds", "many"], "argument --seeds: invalid whole number value: 'many'"),
        (["--jobs", "0"], "argument --jobs: 0: at least 1"),
        (["--start", "-1"], "argument --start: -1: at least 0"),
        (["--from", "2"], "--from, --to and --statuses go with --trace or --html"),
        (["--trace", "--from", "5", "--to", "1"], "--to 1 lies before --from 5"),
        (["--folder", "/nonexistent"], "/nonexistent is no folder"),
        (["--html", "/nonexistent/run.html"], "/nonexistent is no folder"),
        (["--write-plan", "/nonexistent/plan.json"], "/nonexistent is no folder"),
    ],
)
def test_wrong_arguments_are_told_before_anything_runs(
    capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1] == f"make sim: error: {reason}"


def test_who_reads_the_head_of_a_trace_has_not_made_the_run_fail() -> None:
    run = f"{sys.executable} -m tests.simulation --seeds 1 --start 3 --trace | head -1"
    ended = subprocess.run(run, shell=True, capture_output=True, text=True, check=True)
    assert ended.stdout.count("\n") == 1
    assert ended.stderr == ""


def test_a_traced_run_ends_in_the_ordinary_summary_and_says_that_it_is_of_one_seed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(["--start", "3", "--seeds", "3", "--trace", "--from", "1000"]) == 0
    said = capsys.readouterr()
    assert said.err == "--trace and --html take one seed: this is 3, of 3\n"
    assert said.out.startswith("1 passed, 0 failed in ")
    assert max(map(len, said.out.splitlines())) < 400


def test_lines_and_picture_of_a_run() -> None:
    lines: list[str] = []
    trace = Trace(lines.append, to_ms=3_000)
    cluster = Cluster(1, Options(loss=5), trace)
    cluster.transfer()
    cluster.run(4_000)
    assert any("PRE-PREPARE" in line for line in lines)
    assert any("lost" in line for line in lines)
    assert all(float(line[:9]) <= 3.0 for line in lines)
    assert not any(Kind.STATUS.name in line for line in lines)
    page = render_html("a <run>", trace.entries, 4)
    assert "a &lt;run&gt;" in page
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_some_kinds_of_messages_get_lost_for_a_while_and_others_do_not() -> None:
    cluster = Cluster(1)
    everywhere = [(a, b) for a in range(4) for b in range(4) if a != b]
    cluster.lose(everywhere, ["batch", "pre_prepare"], 1_000)
    cluster.lose(everywhere, ["batch"], 400)
    cluster.run(300)
    cluster.transfer()
    cluster.run(300)
    assert cluster.coverage["frame/status"] > 0
    assert cluster.coverage["frame/batch"] == cluster.coverage["message/pre_prepare"] == 0
    assert cluster.run(5_000, lambda: min(cluster.heights()) > 0)
    assert cluster.coverage["message/pre_prepare"] > 0
