"""Registering models: an artifact becomes a model once a trial load and run has shown what it takes and gives."""

from pydantic import ValidationError

from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.inspection import Inspector, ModelFacts
from orchestrator.ports.store import CatalogueStore
from tandem.protocol.api import NewModel
from tandem.protocol.errors import Conflict, InvalidModel, NotFound
from tandem.protocol.models import ModelInfo


class Models:
    def __init__(self, store: CatalogueStore, artifacts: ArtifactStore, inspector: Inspector) -> None:
        self._store = store
        self._artifacts = artifacts
        self._inspector = inspector

    async def add(self, request: NewModel) -> tuple[ModelInfo, bool]:
        """The model, and whether it is new: the same artifact under the same name and version is no error.

        Raises NotFound (artifact), InvalidModel, Conflict if name and version stand for another artifact.
        """
        known = await self._known(request)
        if known is not None:
            return known, False
        artifact = await self._store.artifact(request.artifact)
        async with self._artifacts.local(artifact.id) as path:
            facts = await self._inspector.model(path)
        model = _model(request, artifact.size, facts)
        await self._store.add_model(model)
        return model, True

    async def get(self, name: str, version: str) -> ModelInfo:
        """Raises NotFound."""
        return await self._store.model(name, version)

    async def all(self) -> list[ModelInfo]:
        return await self._store.models()

    async def _known(self, request: NewModel) -> ModelInfo | None:
        try:
            model = await self._store.model(request.name, request.version)
        except NotFound:
            return None
        if model.artifact != request.artifact:
            raise Conflict(
                f"expected {model.artifact}, which {request.name} version {request.version} stands for, "
                f"got {request.artifact}; add it under another version"
            )
        return model


def _model(request: NewModel, size: int, facts: ModelFacts) -> ModelInfo:
    try:
        return ModelInfo(
            name=request.name,
            version=request.version,
            artifact=request.artifact,
            size=size,
            inputs=facts.inputs,
            outputs=facts.outputs,
            cost_us=max(1, facts.cost_us),
            memory=facts.memory,
        )
    except ValidationError as error:
        raise InvalidModel(f"expected a model within the bounds of the protocol, got one with: {error}") from error
