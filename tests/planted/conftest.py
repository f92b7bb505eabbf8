from __future__ import annotations

import pytest

from saebench.planted import PlantedConfig, PlantedWorld, plant


@pytest.fixture(scope="session")
def world() -> PlantedWorld:
    return plant(PlantedConfig())
