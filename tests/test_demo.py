"""`medchain demo` as a user runs it, small."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import pytest

from node import cli
from node.cli.common import Exit
from node.cli.start import DEMO_SIZES
from node.cluster.plan import PLAN_FILE, development_modules
from node.gateway import fhir
from node.workload import SIZES, Cast, generate
from node.workload.steps import Keep
from tests.disk_search import found_in_clear

SEED = 5


@pytest.mark.processes
@pytest.mark.xdist_group("processes")
def test_the_demonstration_keeps_its_promises_and_leaves_nobody_in_clear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL of the leader under load: commits resume in time, nothing accepted is lost, all state roots are equal."""
    status = cli.run(["demo", "--exit", "--size", "small", "--seed", str(SEED), "--dir", str(tmp_path / "demo")])
    said = capsys.readouterr()
    assert status == 0, said.out + said.err
    assert said.out.count("\nok    ") == 6
    assert "FAIL" not in said.out
    assert "SIGKILL to" in said.err
    assert found_in_clear(tmp_path / "demo", _people()) == []
    assert found_in_clear(tmp_path / "demo", ["MedicationDispense"])  # the search itself works


def _people() -> set[str]:
    """Everything personal in the business of the same seed."""
    cast = Cast(development_modules())
    steps = generate(Random(SEED), cast, 0, SIZES["small"])
    resources = [step.act.resource for step in steps if isinstance(step.act, Keep) and step.expected == 0]
    found = set().union(*(fhir.personal_strings(fhir.parse(resource)) for resource in resources))
    assert len(found) > 30
    return found


def test_fewer_than_four_nodes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["demo", "-n", "3", "--exit"]) == Exit.USAGE
    assert "x>=4" in capsys.readouterr().err


def test_a_folder_that_holds_a_cluster_is_refused_untouched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / PLAN_FILE).write_text("{}")
    assert cli.run(["demo", "--exit", "--size", "small", "--dir", str(tmp_path)]) == Exit.USAGE
    assert "holds a cluster already" in capsys.readouterr().err
    assert (tmp_path / PLAN_FILE).read_text() == "{}"


def test_a_folder_without_files_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, folders = tmp_path / "files", tmp_path / "folders"
    files.mkdir()
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    assert cli.run(["demo", "--exit", "--data", str(files)]) == Exit.USAGE
    assert "holds no JSON file" in capsys.readouterr().err
    assert not list(folders.iterdir())


def test_every_size_can_be_asked_for() -> None:
    assert tuple(SIZES) == DEMO_SIZES
