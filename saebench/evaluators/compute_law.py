"""Converting an increase in loss to a loss of pretraining compute (Gao et al. 2024, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
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
        apart = [abs(math.log(each) - math.log(n_parameters)) for each in self.parameters]
        own = apart.index(min(apart))
        if apart[own] > 0.35:
            return None, "the scaling law has no member of this model's size"
        target = self.loss[own] + increase
        place = next((i for i in range(own) if self.loss[i] <= target), own)
        low = max(place - 1, 0)
        loss, compute = ([math.log(each) for each in values] for values in (self.loss, self.compute))
        slope = (loss[low + 1] - loss[low]) / (compute[low + 1] - compute[low])
        return math.exp(min(compute[low] + (math.log(target) - loss[low]) / slope - compute[own], 0.0)), None


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
    finite = all(0 < each < math.inf for each in (*law.compute, *law.loss)) and all(
        1 <= n < math.inf for n in law.parameters
    )
    falling = finite and all(math.log(a) > math.log(b) for a, b in pairwise(law.loss))
    rising = finite and all(math.log(a) < math.log(b) for a, b in pairwise(law.compute))
    if not (same_length and falling and rising):
        raise SaebenchError(
            f"{name} needs two or more models of one parameter or more, with compute rising and "
            "loss falling from one to the next."
        )
    return law
