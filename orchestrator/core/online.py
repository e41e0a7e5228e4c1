"""Requests on line: what is asked, what is answered, and which node gets a request.

A request names a model by digest and goes to a node where the model is warm. Nothing of it is ever stored.
"""

from typing import NamedTuple

from tandem.protocol.models import ModelInfo
from tandem.protocol.tensors import Tensor


class OnlineCall(NamedTuple):
    """A request that was parsed and whose tensors fit the model."""

    owner: str
    """The API key's id."""
    model: ModelInfo
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] = ()
    """The outputs that are wanted; empty: all."""
    priority: int = 0
    """Higher goes first among those that wait for the same model; 0 is ordinary."""
    timeout: float | None = None
    """Seconds until an answer is of no use; None: the model's, or that of the settings."""
    hedge: bool = False
    """Whether it may be run a second time elsewhere if it lags; so it is too if the model's settings say so."""


class OnlineAnswer(NamedTuple):
    outputs: tuple[Tensor, ...]
    """In the order that was asked for, or the model's; checked against the model's outputs."""
    provider: str
    """The ONNX Runtime provider that ran it."""
    node: str
    """The node's address."""
    run_us: int
    """Microseconds of the run itself, as the node says."""
    queue_us: int
    """Microseconds that it waited: here for a node, and there, as the node says, for a worker."""
    warm: bool
    """Whether the model was loaded somewhere when the request came."""
