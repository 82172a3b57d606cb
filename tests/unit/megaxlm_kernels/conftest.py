"""Builds go to one folder of this checkout: made once, found again by every worker and run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

BUILDS = Path(__file__).resolve().parents[3] / "build" / "kernels"


@pytest.fixture(scope="session", autouse=True)
def builds() -> Path:
    """The folder; in the environment for the whole session, as every test may load the library."""
    os.environ["MEGAXLM_KERNELS_DIR"] = str(BUILDS)
    return BUILDS
