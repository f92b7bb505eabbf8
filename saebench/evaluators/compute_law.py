"""Converting an increase in loss to a loss of pretraining compute (Gao et al. 2024, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from saebench.errors import SaebenchError
from saebench.parsing import parse_toml


@dataclass(frozen=True)
class ComputeLaw:
    """Losses of a family of models by pretraining compute, with power laws between neighbours.

    Attributes:
        models: names of the models that the law covers.
        parameters: of each member, smallest first.
        compute: pretraining compute of each, in any one unit.
        loss: of each, in nats per token.
        source: where the figures come from.
    """

    models: tuple[str, ...]
    parameters: tuple[float, ...]
    compute: tuple[float, ...]
    loss: tuple[float, ...]
    source: str

    def relative_compute(self, n_parameters: int, increase: float) -> tuple[float | None, str | None]:
        """``(share, None)`` or ``(None, reason)`` for a model of the family whose loss rises by ``increase`` nats.

        The family's loss at the model's own compute, plus the increase, is looked up in the law; only the increase is
        measured on the corpus, so that the corpus's own level of loss has no effect. Between members the loss is a power of
        compute; a loss above the smallest member's is extrapolated by the power law of the two smallest.
        """
        if increase <= 0:
            return 1.0, None
        own = min(range(len(self.parameters)), key=lambda i: abs(math.log(self.parameters[i] / n_parameters)))
        if abs(math.log(self.parameters[own] / n_parameters)) > 0.35:
            return None, "the scaling law has no member of this model's size"
        target = self.loss[own] + increase
        place = next((i for i in range(own) if self.loss[i] <= target), own)
        low = max(place - 1, 0)
        slope = math.log(self.loss[low + 1] / self.loss[low]) / math.log(self.compute[low + 1] / self.compute[low])
        log_compute = math.log(self.compute[low]) + math.log(target / self.loss[low]) / slope
        return math.exp(log_compute) / self.compute[own], None


def find_law(given: str | Path | None, model: str) -> ComputeLaw | None:
    """The law the user gave, else the built-in one that names the model, else None.

    Raises:
        SaebenchError: the file is missing or does not hold a law.
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise SaebenchError(f"There is no scaling law at {path}.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SaebenchError(f"The scaling law {path} cannot be read as text: {error}.") from error
        return read_law(text, str(path.name))
    for resource in files("saebench.evaluators").joinpath("compute_laws").iterdir():
        if resource.name.endswith(".toml"):
            law = read_law(resource.read_text(encoding="utf-8"), resource.name)
            if model in law.models:
                return law
    return None


def read_law(text: str, name: str) -> ComputeLaw:
    """Read a law from TOML: ``models``, ``source`` and arrays ``parameters``, ``compute``, ``loss``, smallest model first.

    Raises:
        SaebenchError: fields are missing, or losses do not fall as compute grows.
    """
    try:
        data = parse_toml(text)
        columns = {key: tuple(float(value) for value in data[key]) for key in ("parameters", "compute", "loss")}
        law = ComputeLaw(tuple(data["models"]), source=str(data["source"]), **columns)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SaebenchError(
            f"{name} is not a scaling law: it needs models, source, parameters, compute and loss ({error})."
        ) from error
    same_length = len(law.parameters) == len(law.compute) == len(law.loss) >= 2
    falling = all(a > b > 0 for a, b in zip(law.loss, law.loss[1:], strict=False))
    rising = all(0 < a < b for a, b in zip(law.compute, law.compute[1:], strict=False))
    finite = all(0 < each < math.inf for each in (*law.parameters, *law.compute, *law.loss))
    if not (same_length and falling and rising and finite):
        raise SaebenchError(
            f"{name} needs two or more models of positive parameters, with compute rising and "
            "loss falling from one to the next."
        )
    return law
