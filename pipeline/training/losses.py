"""Training losses: weighted sums of named terms, all on RGB in [0, 1] and in float32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ParamsError
from pipeline.core.params import Params
from pipeline.core.registry import Registry
from pipeline.core.runtime import computing_in

Term = Callable[[Tensor, Tensor], Tensor]  # (prediction, target), each (B, 3, H, W) float32, to a scalar

TERMS: Registry[Callable[..., Term]] = Registry("loss term", "pipeline.training.terms")


class WeightedTerm(nn.Module, ABC):
    """A term with weights of its own, such as a perceptual distance. `sha256` is that of their file.

    Its constructor receives the params, which say what these weights are; other terms are made without arguments.
    """

    sha256: str
    network: Mapping[str, Any] | None = None  # description, if params.yaml names the network

    @abstractmethod
    def __init__(self, params: Params | None) -> None:
        super().__init__()


class Loss(nn.Module):
    """A weighted sum of terms, for example {"l1": 0.8, "ssim": 0.2}. A weight of 0 leaves its term out.

    Raises:
        ParamsError: an unknown term, or no term with a weight above 0.
        WeightsError: `lpips` or `features` has a weight above 0, and its network's weights are missing.
    """

    def __init__(self, terms: Mapping[str, float], params: Params | None = None) -> None:
        """Build the terms. `params` name the network of the term `features`; other terms do not need them."""
        super().__init__()
        self.weights = {name: weight for name, weight in terms.items() if weight != 0}
        if not self.weights:
            raise ParamsError(
                f"params.yaml: the loss {dict(terms)} has no term above 0; give at least one of: "
                + ", ".join(TERMS.names())
            )
        self._terms: dict[str, Term] = {name: _make(TERMS.get(name), params) for name in self.weights}
        # registered so that `.to(device)` reaches terms with weights of their own
        self._modules_of_terms = nn.ModuleList(term for term in self._terms.values() if isinstance(term, nn.Module))

    @property
    def weights_sha256(self) -> dict[str, str]:
        """SHA-256 of the weights file of each term that has one."""
        return {name: term.sha256 for name, term in self._terms.items() if isinstance(term, WeightedTerm)}

    @property
    def networks(self) -> dict[str, Mapping[str, Any]]:
        """The network and layers of each term whose network params.yaml names."""
        weighted = {name: term for name, term in self._terms.items() if isinstance(term, WeightedTerm)}
        return {name: term.network for name, term in weighted.items() if term.network is not None}

    def forward(self, prediction: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> dict[str, Tensor]:
        """Scalars: every term unweighted under its name, and their weighted sum under "total".

        Both images are (B, 3, H, W) RGB in [0, 1], any float dtype.
        """
        with computing_in("fp32", prediction.device):
            prediction, target = prediction.float(), target.float()
            values = {name: term(prediction, target) for name, term in self._terms.items()}
        return {**values, "total": torch.stack([self.weights[n] * v for n, v in values.items()]).sum()}


def _make(entry: Callable[..., Term], params: Params | None) -> Term:
    weighted = isinstance(entry, type) and issubclass(entry, WeightedTerm)
    return entry(params) if weighted else entry()
