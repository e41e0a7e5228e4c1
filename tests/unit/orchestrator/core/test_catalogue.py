"""The catalogue's rules: whose a name is, which version answers, what a key may have."""

import pytest

from orchestrator.core.catalogue import (
    Catalogue,
    CatalogueUpdate,
    ModelKey,
    ModelQuota,
    add,
    answering,
    change,
    key_of,
    pin,
    remove,
)
from tandem.protocol.api import ModelChange
from tandem.protocol.errors import Conflict, InvalidRequest, InvalidTensor, NotFound, QuotaExceeded
from tandem.protocol.models import ModelInfo, ModelSettings, Provider, Tolerance, WarmUpTensor
from tandem.protocol.tensors import Datatype, TensorSpec

QUOTA = ModelQuota(models=3, size=100, replicas=2)
SPEC = TensorSpec(name="x", datatype=Datatype.FP32, shape=(-1, 2))


def model(name: str = "m", version: str = "1", owner: str = "ann", **facts: object) -> ModelInfo:
    told = {"size": 10, "inputs": (SPEC,), "outputs": (SPEC,), "cost_us": 5, "memory": 1, "public": False, **facts}
    return ModelInfo.model_validate(
        {"name": name, "version": version, "owner": owner, "artifact": "sha256:" + "a" * 64, **told}
    )


def catalogue(*models: ModelInfo) -> Catalogue:
    known = Catalogue()
    known.update(CatalogueUpdate(1, frozenset(map(key_of, models)), models))
    return known


def found(known: Catalogue, owner: str, name: str = "m", version: str | None = None) -> ModelKey | None:
    model = known.find(owner, name, version)
    return None if model is None else key_of(model)


def test_a_private_model_is_there_for_its_owner_alone() -> None:
    known = catalogue(model())
    assert found(known, "ann") == ("ann", "m", "1") == found(known, "ann", version="1")
    assert found(known, "bob") is None
    assert known.visible_to("bob") == []


def test_a_key_means_its_own_model_before_the_public_one() -> None:
    known = catalogue(model(public=True), model(owner="bob", version="2"))
    assert found(known, "bob") == ("bob", "m", "2")
    assert found(known, "bob", version="1") is None
    assert found(known, "carl") == ("ann", "m", "1")
    assert [key_of(each).owner for each in known.visible_to("bob")] == ["bob"]


def test_a_public_name_is_the_first_ones_even_if_two_got_it() -> None:
    early, late = model(public=True, created_at=1), model(owner="bob", public=True, version="9", created_at=2)
    assert found(catalogue(late, early), "carl") == key_of(early)


def test_others_see_public_versions_alone() -> None:
    known = catalogue(model(public=True), model(version="2"))
    assert found(known, "ann") == ("ann", "m", "2")
    assert found(known, "bob") == ("ann", "m", "1")


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([("9", 3), ("10", 2), ("2", 5)], "10"),
        ([("1.0", 1), ("2.0", 3), ("3", 2)], "2.0"),
        ([("b", 1), ("a", 1)], "b"),
    ],
)
def test_the_latest_answers(versions: list[tuple[str, int]], expected: str) -> None:
    models = [model(version=version, created_at=at) for version, at in versions]
    assert answering(models).version == expected
    chosen = [each.model_copy(update={"default": each is models[0]}) for each in models]
    assert answering(chosen) == chosen[0]


def test_the_catalogue_follows_changes() -> None:
    known = catalogue(model(), model(version="2"))
    known.update(CatalogueUpdate(2))
    assert found(known, "ann") == ("ann", "m", "2")
    known.update(CatalogueUpdate(3, frozenset({("ann", "m", "1")}), (model(pinned=4),)))  # type: ignore[arg-type]
    assert found(known, "ann", version="2") is None
    assert [each.replicas for each in known.warm()] == [4]
    known.update(CatalogueUpdate(4, frozenset()))
    assert found(known, "ann") is None
    assert not known.serves(model().served)


def test_models_are_served_as_one_if_they_are_run_alike() -> None:
    known = catalogue(model(), model(owner="bob", settings=ModelSettings(hedge=True, replicas=1, timeout_s=3)))
    assert known.serves(model().served, besides=key_of(model()))
    for other in (
        {"settings": ModelSettings(max_batch=2)},
        {"settings": ModelSettings(provider=Provider.CPU)},
        {"cost_us": 7},
        {"artifact": "sha256:" + "b" * 64},
    ):
        assert not known.serves(model().model_copy(update=other).served)


def test_the_same_again_changes_nothing_and_other_files_are_refused() -> None:
    assert add([model()], model(), QUOTA).put == ()
    with pytest.raises(Conflict, match="another version"):
        add([model()], model(artifact="sha256:" + "b" * 64), QUOTA)


def test_a_public_name_of_another_key_is_taken() -> None:
    theirs = model(owner="bob", public=True)
    assert add([theirs], model(), QUOTA).put == (model(),)
    with pytest.raises(Conflict, match="public name"):
        add([theirs], model(public=True), QUOTA)
    with pytest.raises(Conflict, match="public name"):
        change([theirs, model()], key_of(model()), ModelChange(public=True), QUOTA)


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        (ModelQuota(1, 100, 2), "at most 1 models"),
        (ModelQuota(9, 19, 2), "at most 19 bytes"),
        (ModelQuota(9, 100, 2), "at most 2 warm"),
    ],
)
def test_a_key_has_no_more_than_it_may(quota: ModelQuota, message: str) -> None:
    new = model(version="2", settings=ModelSettings(replicas=3))
    with pytest.raises(QuotaExceeded, match=message):
        add([model(), model(owner="bob", public=True, name="other")], new, quota)


def test_only_what_is_named_changes() -> None:
    old = model(unbatchable=None, settings=ModelSettings(hedge=True, tolerance=Tolerance(relative=0.5)))
    wanted = ModelChange(settings=ModelSettings(max_batch=8))
    (new,) = change([old], key_of(old), wanted, QUOTA).put
    assert new.settings == ModelSettings(hedge=True, tolerance=Tolerance(relative=0.5), max_batch=8)
    assert (new.public, new.default) == (False, False)


def test_a_new_default_takes_the_place_of_the_old_one() -> None:
    first, second = model(default=True), model(version="2")
    changes = change([first, second], key_of(second), ModelChange(default=True), QUOTA)
    assert {each.version: each.default for each in changes.put} == {"1": False, "2": True}


def test_settings_that_a_model_cannot_have_are_refused_with_the_reason() -> None:
    fixed = model(unbatchable="the first dimension of 'x' is not open")
    with pytest.raises(InvalidRequest, match="'x' is not open; got 4"):
        change([fixed], key_of(fixed), ModelChange(settings=ModelSettings(max_batch=4)), QUOTA)
    for shape, name in [((1, 3), "x"), ((1, 2), "y")]:
        warm_up = ((WarmUpTensor(name=name, shape=shape),),)
        with pytest.raises(InvalidTensor, match="expected"):
            add([], model(settings=ModelSettings(warm_up=warm_up)), QUOTA)


def test_what_is_not_there_cannot_be_changed() -> None:
    key = ModelKey("bob", "m", "1")
    with pytest.raises(NotFound, match="m version 1"):
        change([model()], key, ModelChange(), QUOTA)
    with pytest.raises(NotFound, match="m version 1"):
        remove([model()], key)
    with pytest.raises(NotFound, match="m version 1"):
        pin([model()], key, 1)
