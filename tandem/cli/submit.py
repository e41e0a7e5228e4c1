"""The submitter's commands: `tandem transcode`, `infer`, `infer-batch`, `jobs`, `cancel`, `retry`, `nodes`, `usage`."""

import asyncio
import json
import mimetypes
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console

from tandem.cli import tables
from tandem.cli.running import Bars, Session, WebUrl, finish, submitter_command
from tandem.client import batch_inference
from tandem.client import transcode as transcode_request
from tandem.client.inference import answer, batch_result, inference_request
from tandem.protocol.api import JobView, TranscodeResult
from tandem.protocol.jobs import BatchFormat, BucketForm, JobState
from tandem.protocol.ladder import Container, RenditionRequest, VideoSettings
from tandem.protocol.units import parse_amount

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_TARGET = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


class _Rung(click.ParamType[RenditionRequest]):
    """`720` or `720:2500000`: height in pixels, bits a second."""

    name = "height[:bitrate]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> RenditionRequest:
        height, _, bitrate = str(value).partition(":")
        try:
            video = VideoSettings(bitrate=int(bitrate) if bitrate else None)
            return RenditionRequest(height=int(height.removesuffix("p")), video=video)
        except ValueError:
            self.fail(f"expected HEIGHT or HEIGHT:BITRATE, such as 720 or 720:2500000, got {value!r}", param, ctx)


class _Source(click.ParamType[Path | str]):
    """A file of this machine, or a URL that the orchestrator fetches."""

    name = "file or url"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if "://" in str(value):
            return WebUrl().convert(value, param, ctx)
        return Path(str(_FILE.convert(value, param, ctx)))


class _Form(click.ParamType[BucketForm]):
    """A file with a presigned POST, as S3's SDKs give it, in JSON."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BucketForm:
        try:
            return BucketForm.model_validate_json(Path(str(value)).read_bytes())
        except (OSError, ValueError) as error:
            self.fail(f"expected a file with the `url` and the `fields` of a presigned POST: {error}", param, ctx)


class _Amount(click.ParamType[int]):
    """`1500`, `3gwei` or `0.25 ether`."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_amount(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _Input(click.ParamType[tuple[str, list[Any]]]):
    """`NAME=[1, 2]` or `NAME=@FILE`."""

    name = "name=list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[Any]]:
        name, _, text = str(value).partition("=")
        try:
            data = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
        except (OSError, ValueError) as error:
            self.fail(f"expected NAME=LIST or NAME=@FILE with a JSON list: {error}", param, ctx)
        if not isinstance(data, list):
            self.fail(f"expected a JSON list for {name!r}, got {type(data).__name__}", param, ctx)
        return name, data


_webhook = click.option("--webhook", type=WebUrl(), help="Where each state of the job is told.")
_CONTAINERS = {
    (False, False): Container.MP4,
    (True, False): Container.HLS,
    (False, True): Container.DASH,
    (True, True): Container.CMAF,
}
_max_price = click.option("--max-price", type=_Amount(), help="Refuse a job that costs more, such as 0.01ether.")


@click.command()
@click.argument("source", metavar="FILE|URL", type=_Source())
@click.option("--rendition", "-r", "ladder", type=_Rung(), multiple=True, help="A rendition; without any, a ladder.")
@click.option("--hls", is_flag=True, help="An HLS stream instead of MP4 files.")
@click.option("--dash", is_flag=True, help="A DASH stream.")
@click.option("--cmaf", is_flag=True, help="Both, over the same segments.")
@click.option("--output", "-o", type=_FOLDER, help="Where to put what is made; without it nothing is fetched.")
@click.option("--bucket", type=_Form(), help="A file with a presigned POST; all that is made is written by it.")
@_max_price
@_webhook
@submitter_command
async def transcode(  # noqa: PLR0913, PLR0917 - one for each option
    session: Session,
    source: Path | str,
    ladder: tuple[RenditionRequest, ...],
    hls: bool,
    dash: bool,
    cmaf: bool,
    output: Path | None,
    bucket: BucketForm | None,
    max_price: int | None,
    webhook: str | None,
) -> None:
    """Transcode FILE, or the file at URL, into renditions."""
    with session.progress() as bars:
        given = source if isinstance(source, str) else await _upload(session, source, bars)
        kind = _CONTAINERS[hls or cmaf, dash or cmaf]
        request = transcode_request(given, ladder, container=kind, max_price=max_price, webhook=webhook, bucket=bucket)
        job = await session.client.submit(request)
        job = await finish(session, job, bars)
        if output is not None and kind is not Container.MP4:
            await session.client.download_folder(job.id, output, bars.transfer("download"))
        elif output is not None:
            stem = PurePosixPath(urlsplit(source).path).stem if isinstance(source, str) else source.stem
            await _fetch(session, job, output, stem or job.id, bars)
    session.print(job, lambda console: tables.job(console, job, session.client.at))


async def _upload(session: Session, file: Path, bars: Bars) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return (await session.client.upload(file, kind, bars.transfer("upload"))).id


async def _fetch(session: Session, job: JobView, output: Path, stem: str, bars: Bars) -> None:
    await asyncio.to_thread(output.mkdir, parents=True, exist_ok=True)
    if isinstance(job.result, TranscodeResult):
        for rendition in job.result.renditions:
            target = output / f"{stem}-{rendition.name}.mp4"
            await session.client.download(rendition.artifact, target, bars.transfer(rendition.name))


@click.command()
@click.argument("model")
@click.option("--version", help="Of the model; by default the one that answers for it.")
@click.option("--input", "-i", "inputs", type=_Input(), multiple=True, required=True, help="A tensor, as JSON.")
@_max_price
@_webhook
@submitter_command
async def infer(
    session: Session,
    model: str,
    version: str | None,
    inputs: tuple[tuple[str, list[Any]], ...],
    max_price: int | None,
    webhook: str | None,
) -> None:
    """Run MODEL on input tensors: NAME=[…] or NAME=@FILE, nested like the tensor or flat."""
    request = inference_request(
        await session.client.model(model, version), dict(inputs), max_price=max_price, webhook=webhook
    )
    with session.progress() as bars:
        job = await finish(session, await session.client.submit(request), bars)

    def show(console: Console) -> None:
        tables.job(console, job, session.client.at)
        for name, values in answer(job).outputs.items():
            console.print(f"{name} = {json.dumps(values)}", highlight=False)

    session.print(job, show)


@click.command("infer-batch")
@click.argument("model")
@click.argument("source", metavar="FILE|URL", type=_Source())
@click.option("--version", help="Of the model; by default the one that answers for it.")
@click.option(
    "--format", "kind", type=click.Choice([each.value for each in BatchFormat]), help="Told from the content."
)
@click.option("--want", "outputs", multiple=True, help="An output's name; without any, all.")
@click.option("--output", "-o", type=_TARGET, help="Where to put the answers; without it nothing is fetched.")
@_max_price
@_webhook
@submitter_command
async def infer_batch(  # noqa: PLR0913, PLR0917 - its options
    session: Session,
    model: str,
    source: Path | str,
    version: str | None,
    kind: str | None,
    outputs: tuple[str, ...],
    output: Path | None,
    max_price: int | None,
    webhook: str | None,
) -> None:
    """Run MODEL on each row of FILE (JSON Lines, .npz or Arrow IPC), or of the file at URL."""
    with session.progress() as bars:
        given = source if isinstance(source, str) else await _upload(session, source, bars)
        request = batch_inference(
            given,
            model,
            version=version,
            kind=BatchFormat(kind) if kind else None,
            outputs=outputs,
            max_price=max_price,
            webhook=webhook,
        )
        job = await finish(session, await session.client.submit(request), bars)
        if output is not None:
            await session.client.download(batch_result(job).artifact, output, bars.transfer("download"))
    session.print(job, lambda console: tables.job(console, job, session.client.at))


@click.command()
@click.option("--state", type=click.Choice([state.value for state in JobState]), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True)
@submitter_command
async def jobs(session: Session, state: str | None, limit: int) -> None:
    """List your jobs, newest first."""
    page = await session.client.jobs(state=JobState(state) if state else None, limit=limit)
    session.print(page, lambda console: tables.jobs(console, page))


@click.command()
@click.argument("job_id", metavar="JOB")
@submitter_command
async def explain(session: Session, job_id: str) -> None:
    """Say why JOB is waiting, node by node."""
    found = await session.client.explain(job_id)
    session.print(found, lambda console: tables.explanation(console, found))


@click.command()
@click.argument("job_id", metavar="JOB")
@submitter_command
async def cancel(session: Session, job_id: str) -> None:
    """Cancel JOB; work that was accepted by then stays charged."""
    job = await session.client.cancel(job_id)
    session.print(job, lambda console: console.print(f"{job.id} is {job.state}"))


@click.command()
@click.argument("job_id", metavar="JOB")
@submitter_command
async def retry(session: Session, job_id: str) -> None:
    """Try JOB again, which failed; what is done is kept."""
    with session.progress() as bars:
        job = await finish(session, await session.client.retry(job_id), bars)
    session.print(job, lambda console: tables.job(console, job, session.client.at))


@click.command()
@submitter_command
async def nodes(session: Session) -> None:
    """List the nodes that are connected."""
    found = await session.client.nodes()
    session.print(found, lambda console: tables.nodes(console, found))


@click.command()
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Days and models to list.")
@submitter_command
async def usage(session: Session, limit: int) -> None:
    """List what you used on line, by day and model."""
    found = await session.client.usage(limit=limit)
    session.print(found, lambda console: tables.usage(console, found))
