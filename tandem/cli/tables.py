"""Answers as tables for people."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from tandem.protocol.api import (
    BatchResult,
    DeliveryList,
    Explanation,
    JobList,
    JobView,
    ModelView,
    NodeList,
    ProgressView,
    TranscodeResult,
    UsageList,
    WebhookView,
)
from tandem.protocol.jobs import AttemptState, TranscodeRequest
from tandem.protocol.ladder import Container
from tandem.protocol.tensors import TensorSpec
from tandem.protocol.units import format_amount

_KBIT = 1000
_HLS, _DASH = "master.m3u8", "manifest.mpd"


def job(console: Console, view: JobView, at: Callable[[str], str]) -> None:
    """What came back, what it cost, and who did it. `at` has the URL of a path of the orchestrator."""
    if isinstance(view.result, TranscodeResult):
        _renditions(console, view.result)
        for name in _manifests(view):
            console.print(f"to be played: {at(f'{view.folder}{name}')}", highlight=False, soft_wrap=True)
    if isinstance(view.result, BatchResult):
        result = view.result
        console.print(f"{result.rows} rows, {result.failed} failed: {result.artifact}", highlight=False, soft_wrap=True)
    done_by = ", ".join(dict.fromkeys(each.node for each in view.attempts if each.state is AttemptState.ACCEPTED))
    quoted = "nothing" if view.price.quoted is None else format_amount(view.price.quoted)
    console.print(
        f"{view.id}: {view.state}, charged {format_amount(view.price.charged)} of "
        f"{quoted} quoted, done by {done_by or 'nobody'}",
        highlight=False,
        soft_wrap=True,
    )


def _manifests(view: JobView) -> tuple[str, ...]:
    """What players open of a stream."""
    match view.request.output.container if isinstance(view.request, TranscodeRequest) else Container.MP4:
        case Container.MP4:
            return ()
        case Container.HLS:
            return (_HLS,)
        case Container.DASH:
            return (_DASH,)
        case Container.CMAF:
            return (_HLS, _DASH)


def _renditions(console: Console, result: TranscodeResult) -> None:
    rows = [
        (
            each.name,
            f"{each.width}x{each.height}",
            str(each.frames or ""),
            f"{(each.bitrate or 0) // _KBIT} kbit/s",
            f"{each.size} bytes",
            each.artifact,
        )
        for each in result.renditions
    ]
    show(console, ("rendition", "picture", "frames", "bitrate", "size", "artifact"), rows)


def explanation(console: Console, found: Explanation) -> None:
    """A line for each waiting task on each node, and for each obstacle."""
    rows = [
        (waiting.task, node.node, obstacle.obstacle, obstacle.detail)
        for waiting in found.waiting
        for node in waiting.nodes
        for obstacle in node.obstacles
    ]
    if rows:
        show(console, ("task", "node", "obstacle", "detail"), rows)
    elif found.waiting:
        later = [waiting.not_before for waiting in found.waiting if waiting.not_before is not None]
        if not any(waiting.nodes for waiting in found.waiting):
            console.print("it waits for a node: none is connected")
        elif later:
            console.print(f"an attempt failed; it is tried again from {min(later):%H:%M:%S} (UTC) on")
        else:
            console.print("a node is about to take it")
    else:
        console.print(f"it is not waiting, it is {found.state}")


def jobs(console: Console, page: JobList) -> None:
    rows = [
        (
            each.id,
            each.kind,
            each.state,
            _progress(each.progress),
            format_amount(each.price.charged),
            f"{each.created_at:%Y-%m-%d %H:%M:%S}",
        )
        for each in page.jobs
    ]
    show(console, ("job", "kind", "state", "progress", "charged", "submitted (UTC)"), rows)


def _progress(progress: ProgressView) -> str:
    speed = f", {progress.speed:.1f}x" if progress.speed else ""
    left = f", {progress.remaining_seconds:.0f} s left" if progress.remaining_seconds else ""
    return f"{progress.percent:.0f} %{speed}{left}"


def models(console: Console, found: Sequence[ModelView]) -> None:
    rows = [
        (
            each.name,
            f"{each.version} (default)" if each.answers else each.version,
            "public" if each.public else "private",
            _tensors(each.inputs),
            _tensors(each.outputs),
            f"{each.cost_us} µs",
            "yes" if each.batchable else "no",
        )
        for each in found
    ]
    show(console, ("model", "version", "for", "inputs", "outputs", "cost", "batches"), rows)


def nodes(console: Console, found: NodeList) -> None:
    rows = [
        (
            each.address,
            ", ".join((*each.capability.video_encoders, *each.capability.execution_providers)),
            str(len(each.running)),
            each.withheld.obstacle if each.withheld else "draining" if each.draining else "open",
            format_amount(each.earned),
            format_amount(each.issued),
        )
        for each in found.nodes
    ]
    show(console, ("node", "can", "running", "state", "earned", "in tickets"), rows)


def usage(console: Console, found: UsageList) -> None:
    rows = [
        (f"{each.day}", each.model, each.version, str(each.requests), format_amount(each.price)) for each in found.usage
    ]
    show(console, ("day (UTC)", "model", "version", "requests", "price"), rows)


def webhook(console: Console, found: WebhookView) -> None:
    console.print(f"jobs are told of at {found.url or 'no URL but their own'}", highlight=False, soft_wrap=True)
    if found.secret:
        console.print(f"secret, shown this once: {found.secret}", highlight=False, soft_wrap=True)


def deliveries(console: Console, page: DeliveryList) -> None:
    rows = [
        (
            each.id,
            each.type,
            each.status,
            str(each.tries),
            f"{each.happened_at:%Y-%m-%d %H:%M:%S}",
            each.error or "",
        )
        for each in page.deliveries
    ]
    show(console, ("event", "type", "status", "tries", "happened (UTC)", "error"), rows)


def _tensors(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs)


def show(console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose cells are shown whole."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")  # ids are to be copied whole
    for row in rows:
        table.add_row(*row)
    console.print(table)
