"""Artifacts, models and API keys."""

from collections.abc import Sequence

import pytest

from orchestrator.core.catalogue import CatalogueUpdate, ModelChanges, ModelKey, key_of, pin, remove
from orchestrator.core.records import ApiKeyRecord, ArtifactRecord
from orchestrator.ports.store import Store
from tandem.protocol.errors import NotFound
from tandem.protocol.media import Layout, Source
from tandem.protocol.models import ModelFile, ModelInfo
from tandem.protocol.tensors import Datatype, TensorSpec
from tests.conformance.store.samples import (
    MEDIA,
    START,
    accept,
    at_once,
    begin,
    decided,
    deliver,
    digest,
    put_model,
    ref_of,
    renditions,
    transcode,
)
from tests.fixtures.clock import ManualClock

SPEC = TensorSpec(name="pixels", datatype=Datatype.FP32, shape=(-1, 64))
MODEL = ModelInfo(
    name="digits", version="1", artifact=digest(1), size=10, inputs=(SPEC,), outputs=(SPEC,), cost_us=50, memory=1
)
FILES = tuple(ModelFile(name=name, artifact=digest(number), size=10) for name, number in (("a", 2), ("b", 3), ("c", 3)))
WITH_FILES = MODEL.model_copy(update={"files": FILES})


async def test_an_artifact_is_known_by_its_digest(store: Store) -> None:
    added = await store.add_artifact(digest(1), 2**40, "video/mp4")
    assert added == ArtifactRecord(digest(1), 2**40, "video/mp4", START) == await store.artifact(digest(1))
    with pytest.raises(NotFound, match=digest(2)):
        await store.artifact(digest(2))


async def test_a_known_artifact_stays_as_it_is(store: Store, clock: ManualClock) -> None:
    first = await store.add_artifact(digest(1), 10, "video/mp4")
    clock.advance(5)
    assert await store.add_artifact(digest(1), 10, "text/plain") == first
    assert await store.artifact(digest(1)) == first


async def test_an_artifact_may_be_added_by_many_at_once(store: Store) -> None:
    answers = await at_once(32, lambda _number: store.add_artifact(digest(1), 10, "video/mp4"))
    assert answers == [ArtifactRecord(digest(1), 10, "video/mp4", START)] * 32


async def test_orphans_are_forgotten_when_they_are_old_enough(store: Store, clock: ManualClock) -> None:
    await store.add_artifact(digest(1), 10, "video/mp4")
    await store.add_artifact(digest(2), 10, "video/mp4")
    clock.advance(60)
    await store.add_artifact(digest(2), 10, "video/mp4")
    assert await store.delete_orphans(61) == []
    assert await store.delete_orphans(60) == [digest(1)]
    with pytest.raises(NotFound):
        await store.artifact(digest(1))
    assert (await store.artifact(digest(2))).created_at == START


async def test_what_a_job_a_model_or_an_accepted_output_refers_to_is_no_orphan(store: Store) -> None:
    for number in (1, 7, 8, 9):
        await store.add_artifact(digest(number), 10, "video/mp4")
    job = transcode()
    await store.submit(job)
    await put_model(store, MODEL)
    await decided(store, job, begin(ref_of(job)), deliver(ref_of(job), renditions(7, 8)), accept(ref_of(job)))
    assert await store.delete_orphans(0) == [digest(9)]


async def test_an_output_that_was_not_accepted_is_an_orphan(store: Store) -> None:
    for number in (7, 8):
        await store.add_artifact(digest(number), 10, "video/mp4")
    job = transcode()
    await store.submit(job)
    await decided(store, job, begin(ref_of(job)), deliver(ref_of(job), renditions(8)))
    assert await store.delete_orphans(0) == [digest(8)]


async def test_artifacts_of_which_nothing_is_known(store: Store) -> None:
    await store.add_artifact(digest(1), 10, "video/mp4")
    assert await store.unlisted([digest(2), digest(1), digest(3)]) == [digest(2), digest(3)]
    assert await store.unlisted([]) == []


async def test_what_a_probe_found_is_kept(store: Store) -> None:
    await store.add_artifact(digest(1), 10, "video/mp4")
    assert await store.media(digest(1)) is None
    layout = Layout(head=5, tail=9, places=(1, 2, 3))
    source = Source(media=MEDIA, keyframes=(-7, 0, 2_000_000), layout=layout)
    await store.save_media(digest(1), source)
    assert await store.media(digest(1)) == MEDIA
    assert await store.source(digest(1)) == source
    assert await store.source(digest(2)) is None
    assert await store.media(digest(2)) is None
    with pytest.raises(NotFound):
        await store.save_media(digest(2), Source(media=MEDIA))


async def test_changes_of_models_are_told_by_revision(store: Store) -> None:
    for number in (1, 2):
        await store.add_artifact(digest(number), 10, "application/octet-stream")
    assert await store.catalogue() == CatalogueUpdate(0)
    await put_model(store, MODEL)
    second = MODEL.model_copy(update={"artifact": digest(2), "version": "2"})
    await put_model(store, second)
    both = frozenset({key_of(MODEL), key_of(second)})
    assert await store.catalogue() == CatalogueUpdate(2, both, (MODEL, second))
    assert await store.catalogue(1) == CatalogueUpdate(2, both, (second,))
    assert await store.catalogue(2) == CatalogueUpdate(2)
    await store.decide_models("local", "digits", lambda known, _now: remove(known, key_of(MODEL)))
    assert await store.catalogue(2) == CatalogueUpdate(3, frozenset({key_of(second)}))
    await put_model(store, second)
    assert (await store.catalogue(3)).keys is None


async def test_a_decision_sees_the_owners_models_and_public_ones_of_the_name(store: Store) -> None:
    await store.add_artifact(digest(1), 10, "application/octet-stream")
    changes: list[dict[str, object]] = [
        {},
        {"owner": "b"},
        {"owner": "c", "public": False},
        {"name": "other"},
        {"name": "other", "owner": "b"},
    ]
    models = [MODEL.model_copy(update=change) for change in changes]
    for model in models:
        await put_model(store, model, check=False)

    async def seen(owner: str, name: str) -> list[ModelKey]:
        found: list[ModelKey] = []

        def look(known: Sequence[ModelInfo], _now: float) -> ModelChanges:
            found.extend(map(key_of, known))
            return ModelChanges()

        await store.decide_models(owner, name, look)
        return sorted(found)

    keys = [key_of(model) for model in models]
    assert await seen("local", "digits") == sorted([keys[0], keys[1], keys[3]])
    assert await seen("c", "other") == sorted([keys[2], keys[3], keys[4]])


async def test_a_model_is_changed_in_its_place(store: Store) -> None:
    await store.add_artifact(digest(1), 10, "application/octet-stream")
    await put_model(store, MODEL)
    await store.decide_models("local", "digits", lambda known, _now: pin(known, key_of(MODEL), 3))
    assert (await store.catalogue()).changed == (MODEL.model_copy(update={"pinned": 3}),)


async def test_a_model_needs_its_artifacts(store: Store) -> None:
    with pytest.raises(NotFound, match=digest(1)):
        await put_model(store, MODEL)
    await store.add_artifact(digest(1), 10, "application/octet-stream")
    with pytest.raises(NotFound, match=digest(2)):
        await put_model(store, WITH_FILES)
    assert await store.catalogue() == CatalogueUpdate(0)


async def test_files_of_a_model_are_kept_as_long_as_it_is(store: Store) -> None:
    for number in (1, 2, 3):
        await store.add_artifact(digest(number), 10, "application/octet-stream")
    await put_model(store, WITH_FILES)
    assert await store.delete_orphans(0) == []
    await store.decide_models("local", "digits", lambda known, _now: remove(known, key_of(MODEL)))
    assert await store.delete_orphans(0) == [digest(1), digest(2), digest(3)]


async def test_a_key_is_good_until_it_is_revoked(store: Store, clock: ManualClock) -> None:
    key = ApiKeyRecord("k1", "ann", b"d" * 32, START)
    await store.add_key(key)
    assert await store.key_by_digest(key.digest) == key
    assert await store.key_by_digest(b"x" * 32) is None
    clock.advance(5)
    await store.revoke_key("k1")
    clock.advance(5)
    await store.revoke_key("k1")
    assert await store.key_by_digest(key.digest) is None
    assert await store.keys() == [ApiKeyRecord("k1", "ann", b"d" * 32, START, revoked_at=START + 5)]
    with pytest.raises(NotFound, match="k2"):
        await store.revoke_key("k2")
