"""Property tests have no deadline: how long an example takes says what else the machine does."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("medchain", deadline=None)
settings.load_profile("medchain")
