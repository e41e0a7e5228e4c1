"""Models over HTTP and by the SDK: external data, versions, who may do what, quotas."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.core.catalogue import ModelChanges, ModelQuota, key_of, pin, remove
from tandem.client import TandemClient
from tandem.protocol.api import ModelChange
from tandem.protocol.errors import Forbidden, InvalidModel, InvalidRequest, NotFound, QuotaExceeded
from tandem.protocol.models import ModelSettings, WarmUpTensor, model_digest
from tests.fixtures import onnx_models
from tests.fixtures.api import DIGITS, Api, run_api


@pytest.fixture
async def ann(api: Api) -> AsyncIterator[TandemClient]:
    async with TandemClient(api.url, (await api.bearer("ann"))["Authorization"].split()[1]) as client:
        yield client


@pytest.fixture
async def bob(api: Api) -> AsyncIterator[TandemClient]:
    async with TandemClient(api.url, (await api.bearer("bob"))["Authorization"].split()[1]) as client:
        yield client


def split_model(folder: Path, *, size: int = 4) -> Path:
    """One whose weight lies in a file of its own, in a folder."""
    path = folder / "split.onnx"
    path.write_bytes(onnx_models.external("data/weights.bin", offset="0", length="4"))
    (folder / "data").mkdir()
    (folder / "data" / "weights.bin").write_bytes(bytes(size))
    return path


async def test_external_data_come_with_the_model(ann: TandemClient, tmp_path: Path) -> None:
    model = await ann.upload_model(split_model(tmp_path), "split")
    (file,) = model.files
    assert (file.name, file.size) == ("data/weights.bin", 4)
    assert model.digest == model_digest(model.artifact, model.files) != model.artifact
    assert (model.opset, model.own, model.public, model.answers) == (17, True, False, True)
    assert await ann.upload_model(tmp_path / "split.onnx", "split") == model


async def test_external_data_that_do_not_fit_are_refused(ann: TandemClient, tmp_path: Path) -> None:
    path = split_model(tmp_path, size=3)
    with pytest.raises(InvalidModel, match=r"expected 4 bytes for 'weights' within the 3 of 'data/weights.bin'"):
        await ann.upload_model(path, "split")
    artifact, extra = (await ann.upload(path)).id, (await ann.upload(DIGITS)).id
    with pytest.raises(InvalidModel, match=r"'data/weights.bin' is missing; upload it too"):
        await ann.add_model("split", "1", artifact)
    with pytest.raises(InvalidModel, match=r"got 'extra' too; leave them out"):
        await ann.add_model("digits", "1", extra, files={"extra": artifact})
    (tmp_path / "data" / "weights.bin").unlink()
    with pytest.raises(InvalidModel, match="beside it"):
        await ann.upload_model(path, "split")


async def test_names_of_files_stay_in_the_folder(api: Api) -> None:
    artifact = await api.upload(b"x")
    for names in (["../x"], ["/etc/passwd"], ["a", "a/b"], ["model.onnx"]):
        request = {"name": "m", "artifact": artifact, "files": dict.fromkeys(names, artifact)}
        status, body = await api.call("POST", "/v1/models", json=request)
        assert (status, body["code"]) == (400, "invalid_request"), names


async def test_a_private_model_is_not_there_for_others(api: Api, ann: TandemClient, bob: TandemClient) -> None:
    await ann.upload_model(DIGITS, "digits")
    (info,) = (await api.store.catalogue()).changed
    for ask in (bob.model("digits"), bob.model("digits", "1"), bob.delete_model("digits", "1")):
        with pytest.raises(NotFound, match="digits"):
            await ask
    with pytest.raises(NotFound):
        await bob.infer("digits", {"image": [0.0] * 64})
    assert await bob.models() == ()
    theirs = await bob.upload_model(DIGITS, "digits")
    assert theirs.own
    await bob.delete_model("digits", "1")
    api.unloaded.clear()
    other = ModelChanges(put=(info.model_copy(update={"name": "other"}),))
    await api.store.decide_models(info.owner, "other", lambda _known, _now: other)
    await api.models.refresh()
    await ann.unload_model("digits", "1")
    await ann.delete_model("digits", "1")
    assert api.unloaded == []  # another model is the same to the nodes
    await ann.delete_model("other", "1")
    assert api.unloaded == [info.served]


async def test_a_public_one_is_used_by_all_and_changed_by_its_owner(ann: TandemClient, bob: TandemClient) -> None:
    await ann.upload_model(DIGITS, "digits")
    await ann.change_model("digits", "1", ModelChange(public=True))
    assert not (await bob.model("digits")).own
    for ask in (
        bob.delete_model("digits", "1"),
        bob.change_model("digits", "1", ModelChange(public=False)),
        bob.unload_model("digits", "1"),
    ):
        with pytest.raises(Forbidden, match="register one of your own"):
            await ask


async def test_versions_and_settings(api: Api, ann: TandemClient) -> None:
    for version, most in (("2", 1), ("10", 2)):
        await ann.upload_model(DIGITS, "digits", version, settings=ModelSettings(max_batch=most))
    infos = {each.version: each for each in (await api.store.catalogue()).changed}
    assert (await ann.model("digits")).version == "10"
    await ann.change_model("digits", "2", ModelChange(default=True))
    assert (await ann.model("digits")).version == "2"
    changed = await ann.change_model("digits", "2", ModelChange(settings=ModelSettings(max_batch=16)))
    assert (changed.settings.max_batch, changed.answers, changed.batchable) == (16, True, True)
    await ann.change_model("digits", "2", ModelChange(settings=ModelSettings(max_batch=16, hedge=True)))
    assert api.unloaded == [infos["2"].served]  # what is run alike stays
    await ann.delete_model("digits", "2")
    assert (await ann.model("digits")).version == "10"
    await ann.unload_model("digits", "10")
    batched = infos["2"].model_copy(update={"settings": ModelSettings(max_batch=16)})
    assert api.unloaded == [infos["2"].served, batched.served, infos["10"].served]


async def test_batches_of_a_model_that_has_none_are_refused(ann: TandemClient, tmp_path: Path) -> None:
    path = split_model(tmp_path)
    with pytest.raises(InvalidRequest, match=r"max_batch: expected 1, .* first dimension of 'x', 'y' is not open"):
        await ann.upload_model(path, "split", settings=ModelSettings(max_batch=2))
    wrong = ModelSettings(warm_up=((WarmUpTensor(name="z", shape=(1,)),),))
    with pytest.raises(InvalidModel, match=r"warm_up: expected the inputs \['x'\]"):
        await ann.upload_model(path, "split", settings=wrong)


async def test_a_key_has_no_more_than_its_quota(tmp_path: Path) -> None:
    async with run_api(tmp_path, quota=ModelQuota(1, 2**30, 0)) as api, TandemClient(api.url) as client:
        await client.upload_model(DIGITS, "digits")
        with pytest.raises(QuotaExceeded, match="at most 1 models a key"):
            await client.upload_model(DIGITS, "digits", "2")


async def test_what_another_process_changes_is_seen(api: Api, ann: TandemClient) -> None:
    model = await ann.upload_model(DIGITS, "digits")
    (info,) = (await api.store.catalogue()).changed
    heard: list[int] = []
    api.models.watch(lambda: heard.append(1))
    assert await api.models.warm() == []
    await api.store.decide_models(info.owner, "digits", lambda known, _now: pin(known, key_of(info), 3))
    await api.models.refresh()
    assert ([each.digest for each in await api.models.warm()], heard) == ([model.digest], [1])
    await api.store.decide_models(info.owner, "digits", lambda known, _now: remove(known, key_of(info)))
    await api.models.refresh()
    with pytest.raises(NotFound):
        await ann.model("digits")
