"""The submitter's commands against a real orchestrator."""

import asyncio
import json
import re
from pathlib import Path

import click
from click.testing import CliRunner, Result

from orchestrator.cli import orchestrator
from orchestrator.core.lifecycle import Cancelled
from orchestrator.core.records import UsageShare, UsageWindowRecord
from tandem.cli.models import model
from tandem.cli.submit import cancel, explain, infer, infer_batch, jobs, nodes, transcode, usage
from tandem.cli.webhooks import webhooks
from tandem.protocol.jobs import TranscodeRequest
from tandem.protocol.ladder import Container
from tandem.protocol.media import MediaInfo, Source, VideoStream
from tandem.protocol.models import ModelSettings
from tandem.protocol.outputs import FileResult, InferenceOutput, TranscodeOutput
from tandem.protocol.tensors import Datatype, Tensor
from tests.fixtures.api import DIGITS, NODE, Api

SAMPLES = Path(__file__).parents[3] / "demo" / "digits.json"


async def tandem(api: Api, *arguments: str | Path) -> Result:
    commands = (transcode, infer, infer_batch, jobs, explain, cancel, model, nodes, usage, webhooks)
    group = click.Group("tandem", commands={command.name or "": command for command in commands})
    environment = {"TANDEM_URL": api.url, "COLUMNS": "240"}
    return await asyncio.to_thread(CliRunner().invoke, group, [str(each) for each in arguments], env=environment)


async def do_transcode(api: Api) -> None:
    job = await api.next_job()
    rendition = FileResult(name="96p", artifact=await api.upload(b"rendition", "video/mp4"), size=9)
    video = VideoStream(codec="h264", width=128, height=96, frame_rate=(10, 1), frames=10)
    await api.store.save_media(
        rendition.artifact, Source(media=MediaInfo(format="mp4", duration_us=10**6, video=video))
    )
    await api.finish(job, await api.assign(job, price=7), TranscodeOutput(files=(rendition,)))


async def do_inference(api: Api) -> None:
    job = await api.next_job()
    label = Tensor(name="label", datatype=Datatype.INT64, shape=(1,), data=(4).to_bytes(8, "little"))
    output = InferenceOutput(outputs=(label.meta,), provider="CPUExecutionProvider")
    await api.finish(job, await api.assign(job), output, (label,))


async def test_transcode_puts_the_renditions_where_it_is_told(api: Api, clip: bytes, tmp_path: Path) -> None:
    source, output = tmp_path / "clip.mp4", tmp_path / "out"
    source.write_bytes(clip)
    async with asyncio.TaskGroup() as together:
        together.create_task(do_transcode(api))
        result = await tandem(api, "transcode", source, "-r", "96:200000", "-o", output)
    assert result.exit_code == 0, result.output
    assert [(path.name, path.read_bytes()) for path in output.iterdir()] == [("clip-96p.mp4", b"rendition")]
    for expected in ("96p", "128x96", "10", "charged 7 wei", NODE):
        assert expected in result.stdout


async def end_stream(api: Api) -> Container:
    job = await api.next_job()
    request = (await api.store.job(job)).job.request
    assert isinstance(request, TranscodeRequest)
    await api.apply(Cancelled(), job)
    return request.output.container


async def test_hls_and_dash_together_are_both(api: Api, clip: bytes, tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip)
    async with asyncio.TaskGroup() as together:
        asked = together.create_task(end_stream(api))
        result = await tandem(api, "transcode", source, "--hls", "--dash")
    assert (result.exit_code, asked.result()) == (1, Container.CMAF), result.output


async def test_a_model_is_added_listed_and_run(api: Api, tmp_path: Path) -> None:
    added = await tandem(api, "model", "add", DIGITS)
    assert "image FP32 [-1, 64]" in added.stdout, added.output
    assert "digits" in (await tandem(api, "model", "list")).stdout
    pixels = tmp_path / "pixels.json"
    pixels.write_text(json.dumps([0.5] * 64))
    async with asyncio.TaskGroup() as together:
        together.create_task(do_inference(api))
        result = await tandem(api, "infer", "digits", "-i", f"image=@{pixels}")
    assert result.exit_code == 0, result.output
    assert "label = [4]" in result.stdout
    assert "succeeded" in (await tandem(api, "jobs")).stdout


async def test_a_model_is_changed_pinned_unloaded_and_deleted(api: Api, tmp_path: Path) -> None:
    await tandem(api, "model", "add", DIGITS)
    (model,) = (await api.store.catalogue()).changed
    changed = await tandem(api, "model", "set", "digits", "--max-batch", "4", "--public", "--json")
    shown = json.loads(changed.stdout)
    assert (shown["settings"]["max_batch"], shown["public"]) == (4, True)
    unloaded = await tandem(api, "model", "unload", "digits")
    assert "unloaded digits version 1" in unloaded.stderr, unloaded.output
    batched = model.model_copy(update={"settings": ModelSettings(max_batch=4)})
    assert api.unloaded == [model.served, batched.served]
    deleted = await tandem(api, "model", "delete", "digits")
    assert "deleted digits version 1" in deleted.stderr, deleted.output
    assert await api.models.all("local") == []


async def operator(folder: Path, *arguments: str) -> Result:
    """A command of the operator's, beside the orchestrator."""
    unused = ["--chain.contract", f"0x{'0' * 40}", "--chain.keystore", "-", "--chain.password-file", "-"]
    words = [*arguments, "--data", str(folder), *unused]
    return await asyncio.to_thread(CliRunner().invoke, orchestrator, words)


async def test_the_operator_pins_a_model_for_a_key_and_lets_go_of_it(api: Api, tmp_path: Path) -> None:
    await tandem(api, "model", "add", DIGITS)
    for replicas in (3, 0):
        pinned = await operator(tmp_path, "model", "pin", "digits", "--replicas", str(replicas))
        assert pinned.exit_code == 0, pinned.output
        await api.models.refresh()
        assert [each.pinned for each in await api.models.warm()] == ([replicas] if replicas else [])
        listed = await operator(tmp_path, "model", "list")
        assert listed.stdout.split() == ["local", "digits", "1", "private", "0", str(replicas)]
    missing = await operator(tmp_path, "model", "pin", "digits", "--owner", "key_other", "--replicas", "1")
    assert missing.exit_code == 1
    assert "got digits version 1 of key_other; `tandem orchestrator model list` shows all" in missing.stderr
    unnamed = await operator(tmp_path, "key", "create", " ")
    assert (unnamed.exit_code, "expected a name" in unnamed.stderr) == (2, True)


async def test_json_is_the_answer_and_nothing_else(api: Api, clip: bytes, tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip)
    async with asyncio.TaskGroup() as together:
        together.create_task(do_transcode(api))
        result = await tandem(api, "transcode", source, "-r", "96", "--json")
    assert json.loads(result.stdout)["result"]["renditions"][0]["frames"] == 10
    assert (
        json.loads((await tandem(api, "jobs", "--state", "succeeded", "--json")).stdout)["jobs"][0]["kind"]
        == "transcode"
    )
    assert json.loads((await tandem(api, "nodes", "--json")).stdout) == {"nodes": []}


async def test_usage_is_listed_by_day_and_model(api: Api) -> None:
    shares = [UsageShare(owner, "digits", "1", requests=2, price=2 * 10**9) for owner in ("local", "key_other")]
    await api.store.settle_usage([UsageWindowRecord(f"win_{1:028x}", NODE, tuple(shares), 4, 4 * 10**9)])
    listed = await tandem(api, "usage")
    assert listed.exit_code == 0, listed.output
    assert re.search(r"\bdigits\b.*\b1\b.*\b2\b.*\b2 gwei", listed.stdout)
    page = json.loads((await tandem(api, "usage", "--json")).stdout)
    assert (page["usage"][0]["price"], page["next"]) == (str(2 * 10**9), None)
    status, problem = await api.call("GET", "/v1/usage?after=yesterday")
    assert (status, problem["code"]) == (400, "invalid_request")


async def test_a_job_that_is_cancelled_ends_the_command_with_1(api: Api, clip: bytes, tmp_path: Path) -> None:
    source = tmp_path / "clip.mp4"
    source.write_bytes(clip)

    async def cancel() -> None:
        await api.call("DELETE", f"/v1/jobs/{await api.next_job()}")

    async with asyncio.TaskGroup() as together:
        together.create_task(cancel())
        result = await tandem(api, "transcode", source)
    assert result.exit_code == 1
    assert "has cancelled" in result.stderr


async def test_cancel_says_what_became_of_the_job(api: Api, clip: bytes) -> None:
    request = {"kind": "transcode", "input": {"artifact": await api.upload(clip)}}
    _, job = await api.call("POST", "/v1/jobs", json=request)
    assert (await tandem(api, "cancel", job["id"])).stdout == f"{job['id']} is cancelled\n"


WRONG: list[tuple[list[str | Path], int, str]] = [
    (["cancel", "job_" + "0" * 28], 3, "not_found: "),
    (["infer", "nobody", "-i", "x=[1]"], 3, "not_found: "),
    (["jobs", "--key", "tdm_wrong"], 3, "unauthorized: "),
    (["jobs", "--state", "lost"], 2, "'lost' is not one of"),
    (["infer", "m", "-i", "x"], 2, "expected NAME=LIST"),
    (["infer", "m", "-i", "x=5"], 2, "expected a JSON list"),
    (["transcode", DIGITS, "-r", "tall"], 2, "expected HEIGHT"),
    (["transcode", DIGITS], 3, "unreadable_media: "),
    (["model", "add", __file__, "--name", "m"], 3, "invalid_model: "),
    (["model", "add", DIGITS, "--name", "../m"], 3, "invalid_request: name: expected at most 64 letters"),
    (["model", "add", DIGITS, "--settings", SAMPLES], 2, "got one with the whole: expected an object, got a list"),
    (["infer-batch", "a b", DIGITS], 3, "invalid_request: model: expected at most 64 letters"),
    (["jobs", "--url", "http://127.0.0.1:1"], 4, "is it running there?"),
]


async def test_what_goes_wrong_is_said_with_an_exit_code(api: Api) -> None:
    for arguments, code, said in WRONG:
        result = await tandem(api, *arguments)
        assert result.exit_code == code, result.output
        assert said in result.stderr
        assert "Traceback" not in result.output
