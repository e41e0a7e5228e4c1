"""The catalogue of models: who may register, change and use what, and which version answers.

A name belongs to whoever registered it, so that two keys may each have a `digits` and neither learns of the other's.
A key that has no model of a name means the public one, and that is the first key's that published one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tandem.protocol.api import ModelChange
from tandem.protocol.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded
from tandem.protocol.models import ModelInfo, warm_up_tensors


class ModelKey(NamedTuple):
    """What names a model in the store."""

    owner: str
    name: str
    version: str


def key_of(model: ModelInfo) -> ModelKey:
    return ModelKey(model.owner, model.name, model.version)


@dataclass(frozen=True, slots=True)
class ModelQuota:
    """What one key may have."""

    models: int
    """Versions, of all names."""
    size: int
    """Bytes of all their files; a file that two have counts twice."""
    replicas: int
    """Warm ones, of all models together; the operator's pins come on top."""


@dataclass(frozen=True, slots=True)
class ModelChanges:
    """What to write: new models and changed ones, and those that go."""

    put: tuple[ModelInfo, ...] = ()
    removed: tuple[ModelKey, ...] = ()


@dataclass(frozen=True, slots=True)
class CatalogueUpdate:
    """What a store says of its models to one who knows those of an earlier revision."""

    revision: int
    """Higher after each change."""
    keys: frozenset[ModelKey] | None = None
    """Of all models there are; None: nothing has changed."""
    changed: tuple[ModelInfo, ...] = ()
    """New and changed ones."""


def add(known: Sequence[ModelInfo], model: ModelInfo, quota: ModelQuota) -> ModelChanges:
    """Nothing to write if the model is there already.

    `known` are all models of its owner and all public ones of its name. Raises Conflict if name and version stand for
    other files, or if a public name is another key's; QuotaExceeded; InvalidRequest for settings it cannot have.
    """
    same = next((each for each in known if key_of(each) == key_of(model)), None)
    if same is not None:
        demand_same(same, model.digest)
        return ModelChanges()
    check_settings(model)
    _check_public(known, model)
    _check_quota([*_of(known, model.owner), model], quota)
    return ModelChanges(put=(model,))


def demand_same(known: ModelInfo, digest: str) -> None:
    """Raises Conflict unless the known model is the one of this digest."""
    if known.digest != digest:
        raise Conflict(
            f"expected {known.digest}, which {known.name} version {known.version} stands for, got {digest}; "
            "add it under another version"
        )


def change(known: Sequence[ModelInfo], key: ModelKey, wanted: ModelChange, quota: ModelQuota) -> ModelChanges:
    """Raises what `add` does, and NotFound."""
    old = _find(known, key)
    new = old.model_copy(update=_updates(old, wanted))
    check_settings(new)
    _check_public(known, new)
    if new.settings.replicas > old.settings.replicas:
        _check_quota([new if key_of(each) == key else each for each in _of(known, key.owner)], quota)
    others = [each for each in _of(known, key.owner) if each.name == key.name and each.default and key_of(each) != key]
    stepping_back = tuple(each.model_copy(update={"default": False}) for each in others if new.default)
    return ModelChanges(put=(new, *stepping_back))


def pin(known: Sequence[ModelInfo], key: ModelKey, replicas: int) -> ModelChanges:
    """What the operator of the market wants kept warm, whatever the owner asks for. Raises NotFound."""
    model = next((each for each in known if key_of(each) == key), None)
    if model is None:
        raise NotFound(
            f"expected a registered model, got {key.name} version {key.version} of {key.owner}; "
            "`tandem orchestrator model list` shows all"
        )
    return ModelChanges(put=(model.model_copy(update={"pinned": replicas}),))


def remove(known: Sequence[ModelInfo], key: ModelKey) -> ModelChanges:
    """Raises NotFound."""
    return ModelChanges(removed=(key_of(_find(known, key)),))


def check_settings(model: ModelInfo) -> None:
    """Raises InvalidRequest for settings that this model cannot have, InvalidTensor for warm-up inputs not its own."""
    if model.settings.max_batch > 1 and model.unbatchable is not None:
        raise InvalidRequest(
            f"settings.max_batch: expected 1, since requests of {model.name} cannot be run together: "
            f"{model.unbatchable}; got {model.settings.max_batch}"
        )
    for tensors in model.settings.warm_up:
        warm_up_tensors(model.inputs, tensors)


def _updates(old: ModelInfo, wanted: ModelChange) -> dict[str, object]:
    """What a partial change says; of the settings, too, only those that it names."""
    updates: dict[str, object] = {}
    if wanted.public is not None:
        updates["public"] = wanted.public
    if wanted.default is not None:
        updates["default"] = wanted.default
    if wanted.settings is not None:
        said = {name: getattr(wanted.settings, name) for name in wanted.settings.model_fields_set}
        updates["settings"] = old.settings.model_copy(update=said)
    return updates


def _find(known: Sequence[ModelInfo], key: ModelKey) -> ModelInfo:
    model = next((each for each in known if key_of(each) == key), None)
    if model is None:
        raise missing(key.name, key.version)
    return model


def missing(name: str, version: str | None = None) -> NotFound:
    which = f"{name} version {version}" if version is not None else name
    return NotFound(f"expected a registered model that this key may use, got {which}; `tandem model list` shows them")


def _of(known: Sequence[ModelInfo], owner: str) -> list[ModelInfo]:
    return [each for each in known if each.owner == owner]


def _check_public(known: Sequence[ModelInfo], model: ModelInfo) -> None:
    if model.public and any(each.public and each.name == model.name and each.owner != model.owner for each in known):
        raise Conflict(
            f"expected a public name that is free, got {model.name}, which another key has published; "
            "choose another name, or keep the model private"
        )


def _check_quota(own: Sequence[ModelInfo], quota: ModelQuota) -> None:
    size, replicas = sum(each.total_size for each in own), sum(each.settings.replicas for each in own)
    for what, limit, got in (
        ("models", quota.models, len(own)),
        ("bytes of models", quota.size, size),
        ("warm replicas of models", quota.replicas, replicas),
    ):
        if got > limit:
            raise QuotaExceeded(f"expected at most {limit} {what} a key, got {got}; delete some, or ask the operator")


def answering(versions: Iterable[ModelInfo]) -> ModelInfo:
    """Which of a name's versions answers whoever names none.

    The one that its owner made the default; else the latest: if all versions are numbers, the highest, else the one
    registered last.
    """
    found = list(versions)
    chosen = [each for each in found if each.default]
    if chosen:
        return chosen[0]
    if all(each.version.isdecimal() for each in found):
        return max(found, key=lambda each: (int(each.version), each.created_at))
    return max(found, key=lambda each: (each.created_at, each.version))


class _Family(NamedTuple):
    """All versions under one name that one key may use, and the one that answers."""

    versions: Mapping[str, ModelInfo]
    answering: ModelInfo


class Catalogue:
    """All models, in memory, to be looked up without waiting."""

    def __init__(self) -> None:
        self._models: dict[ModelKey, ModelInfo] = {}
        self._own: dict[tuple[str, str], _Family] = {}
        self._public: dict[str, _Family] = {}

    def update(self, update: CatalogueUpdate) -> None:
        if update.keys is None:
            return
        gone = self._models.keys() - update.keys
        for key in gone:
            del self._models[key]
        self._models.update((key_of(model), model) for model in update.changed)
        self._regroup({key.name for key in gone} | {model.name for model in update.changed})

    def get(self, key: ModelKey) -> ModelInfo | None:
        return self._models.get(key)

    def serves(self, served: str, *, besides: ModelKey | None = None) -> bool:
        """Whether a model, another than this, is served as that."""
        return any(model.served == served for key, model in self._models.items() if key != besides)

    def find(self, owner: str, name: str, version: str | None = None) -> ModelInfo | None:
        """The model that this key means; None also for one that it may not use."""
        family = self._own.get((owner, name)) or self._public.get(name)
        if family is None:
            return None
        return family.answering if version is None else family.versions.get(version)

    def visible_to(self, owner: str) -> list[ModelInfo]:
        """By name, and by version as they came."""
        own = {name for of, name in self._own if of == owner}
        shown = [self._own[owner, name] for name in own]
        shown += [family for name, family in self._public.items() if name not in own]
        found = [model for family in shown for model in family.versions.values()]
        return sorted(found, key=lambda model: (model.name, model.created_at, model.version))

    def answers(self, model: ModelInfo) -> bool:
        """Whether it answers whoever names no version."""
        family = self._own.get((model.owner, model.name))
        return family is not None and family.answering == model

    def warm(self) -> list[ModelInfo]:
        """Those of which replicas are to be kept warm."""
        return [model for model in self._models.values() if model.replicas]

    def _regroup(self, names: set[str]) -> None:
        self._own = {place: family for place, family in self._own.items() if place[1] not in names}
        for name in names:
            self._public.pop(name, None)
        grouped: dict[tuple[str, str], dict[str, ModelInfo]] = {}
        for key, model in self._models.items():
            if key.name in names:
                grouped.setdefault((key.owner, key.name), {})[key.version] = model
        published: dict[str, list[dict[str, ModelInfo]]] = {}
        for place, versions in grouped.items():
            self._own[place] = _Family(versions, answering(versions.values()))
            public = {version: model for version, model in versions.items() if model.public}
            if public:
                published.setdefault(place[1], []).append(public)
        for name, families in published.items():
            first = min(families, key=_published)
            self._public[name] = _Family(first, answering(first.values()))


def _published(versions: Mapping[str, ModelInfo]) -> tuple[float, str]:
    return min((model.created_at, model.owner) for model in versions.values())
