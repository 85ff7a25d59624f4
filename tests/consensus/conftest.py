"""An option for golden scripts: `pytest tests/consensus/test_golden.py --rewrite`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write golden traces anew instead of comparing them")
