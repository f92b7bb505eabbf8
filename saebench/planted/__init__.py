"""A small language model with known features behind the interface of a real one, and autoencoders damaged in known doses."""

from saebench.planted.damages import DAMAGES
from saebench.planted.features import PlantedConfig, PlantedFeatures
from saebench.planted.recovery import Recovery
from saebench.planted.world import PlantedWorld, plant

__all__ = ["DAMAGES", "PlantedConfig", "PlantedFeatures", "PlantedWorld", "Recovery", "plant"]
