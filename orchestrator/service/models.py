"""The catalogue: files become a model once a trial load and run has shown what it takes and gives.

All models are kept in memory, so that finding one takes no look into the store. What this process changes it knows at
once; what another changes, such as an operator's command, within about a second.
"""

import asyncio
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from orchestrator.core import catalogue
from orchestrator.core.catalogue import Catalogue, ModelKey, ModelQuota, key_of, missing
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.inspection import Inspector, ModelFacts
from orchestrator.ports.store import CatalogueStore, ModelDecision
from tandem.clock import Clock
from tandem.inspection.trial import Trial
from tandem.protocol.api import ModelChange, NewModel
from tandem.protocol.errors import Forbidden, InvalidModel
from tandem.protocol.models import MODEL_FILE, ModelFile, ModelInfo, model_digest
from tandem.protocol.wording import wording

_EVERY_SECONDS = 1.0


class Models:
    def __init__(
        self, store: CatalogueStore, artifacts: ArtifactStore, inspector: Inspector, clock: Clock, quota: ModelQuota
    ) -> None:
        self._store = store
        self._artifacts = artifacts
        self._inspector = inspector
        self._clock = clock
        self._quota = quota
        self._known = Catalogue()
        self._revision = 0
        self._refreshing = asyncio.Lock()
        self._watchers: list[Callable[[], None]] = []

    async def run(self) -> None:
        """Keeps up with what other processes change; until cancelled."""
        while True:
            await self.refresh()
            await self._clock.sleep(_EVERY_SECONDS)

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called after every change of the catalogue."""
        self._watchers.append(changed)

    async def refresh(self) -> None:
        async with self._refreshing:
            update = await self._store.catalogue(self._revision)
            if update.keys is None:
                return
            self._known.update(update)
            self._revision = update.revision
        for changed in self._watchers:
            changed()

    def known(self, owner: str, name: str, version: str | None = None) -> ModelInfo | None:
        """The model that this key means, if no look into the store is needed for it."""
        return self._known.find(owner, name, version)

    async def find(self, owner: str, name: str, version: str | None = None) -> ModelInfo:
        """The model that this key means; without a version, the one that answers for the name.

        Looks into the store only for what it does not know. Raises NotFound, also for another key's private model.
        """
        model = self._known.find(owner, name, version)
        if model is not None:
            return model
        await self.refresh()
        model = self._known.find(owner, name, version)
        if model is None:
            raise missing(name, version)
        return model

    async def versions(self, owner: str, name: str) -> list[ModelInfo]:
        """All that this key may use of a name, the one registered first before the others. Raises NotFound."""
        answering = await self.find(owner, name)
        return [each for each in self._known.visible_to(owner) if each.name == answering.name]

    async def all(self, owner: str) -> list[ModelInfo]:
        """All that this key may use."""
        await self.refresh()
        return self._known.visible_to(owner)

    def answers(self, model: ModelInfo) -> bool:
        """Whether requests that name no version get this one."""
        return self._known.answers(model)

    async def warm(self) -> list[ModelInfo]:
        """Those of which replicas are to be kept warm."""
        return self._known.warm()

    def shared(self, model: ModelInfo) -> bool:
        """Whether another model that is registered is served as this one is, or was: the same files, run alike."""
        return self._known.serves(model.served, besides=key_of(model))

    async def add(self, request: NewModel, owner: str) -> tuple[ModelInfo, bool]:
        """The model, and whether it is new: the same files under the same name and version are no error.

        Raises NotFound (artifact), InvalidModel, InvalidRequest (settings), QuotaExceeded; Conflict if name and version
        stand for other files, or the name is another key's and public.
        """
        files = [await self._file(name, artifact) for name, artifact in sorted(request.files.items())]
        artifact = await self._store.artifact(request.artifact)
        await self.refresh()
        known = self._known.get(ModelKey(owner, request.name, request.version))
        if known is not None:
            catalogue.demand_same(known, model_digest(request.artifact, files))
            return known, False
        facts = await self._facts(request)
        model = _model(request, owner, artifact.size, files, facts)
        await self._decide(
            key_of(model),
            lambda known, now: catalogue.add(known, model.model_copy(update={"created_at": now}), self._quota),
        )
        return await self.find(owner, model.name, model.version), True

    async def change(self, owner: str, name: str, version: str, wanted: ModelChange) -> ModelInfo:
        """Raises NotFound, InvalidRequest, QuotaExceeded, Conflict; Forbidden for another key's model."""
        key = await self._own(owner, name, version)
        await self._decide(key, lambda known, _now: catalogue.change(known, key, wanted, self._quota))
        return await self.find(owner, name, version)

    async def delete(self, owner: str, name: str, version: str) -> ModelInfo:
        """Forgets the model and says which it was. Jobs that use it go on to their end, and its bytes stay as long.

        Raises NotFound; Forbidden for another key's model.
        """
        key = await self._own(owner, name, version)
        model = await self.find(owner, name, version)
        await self._decide(key, lambda known, _now: catalogue.remove(known, key))
        return model

    async def own(self, owner: str, name: str, version: str) -> ModelInfo:
        """Raises NotFound; Forbidden for another key's model."""
        await self._own(owner, name, version)
        return await self.find(owner, name, version)

    async def _own(self, owner: str, name: str, version: str) -> ModelKey:
        model = await self.find(owner, name, version)
        if model.owner != owner:
            raise Forbidden(
                f"expected the key that registered {name} version {version}, got another; register one of your own"
            )
        return key_of(model)

    async def _decide(self, key: ModelKey, decide: ModelDecision) -> None:
        await self._store.decide_models(key.owner, key.name, decide)
        await self.refresh()

    async def _file(self, name: str, artifact: str) -> ModelFile:
        found = await self._store.artifact(artifact)
        return ModelFile(name=name, artifact=found.id, size=found.size)

    async def _facts(self, request: NewModel) -> ModelFacts:
        trial = Trial(warm_up=request.settings.warm_up, tolerance=request.settings.tolerance)
        places = {MODEL_FILE: request.artifact, **request.files}
        async with self._artifacts.folder(places) as folder:
            return await self._inspector.model(folder / MODEL_FILE, trial)


def _model(request: NewModel, owner: str, size: int, files: Sequence[ModelFile], facts: ModelFacts) -> ModelInfo:
    try:
        return ModelInfo(
            name=request.name,
            version=request.version,
            artifact=request.artifact,
            size=size,
            files=tuple(files),
            inputs=facts.inputs,
            outputs=facts.outputs,
            opset=facts.opset,
            cost_us=facts.cost_us,
            measured=facts.measured,
            memory=facts.memory,
            unbatchable=facts.unbatchable,
            unrepeatable=facts.unrepeatable,
            settings=request.settings,
            owner=owner,
            public=request.public,
        )
    except ValidationError as error:
        raise InvalidModel(f"expected a model within bounds, got one with {wording(error)}") from error
