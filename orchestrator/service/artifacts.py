"""Artifacts: bytes in the store of artifacts, and what is known of them in the store."""

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator

from orchestrator.core.records import ArtifactRecord, JobSnapshot
from orchestrator.ports.artifacts import ArtifactStore
from orchestrator.ports.store import Store
from tandem.protocol.errors import InvalidRequest, NotFound, StaleAttempt, TooLarge
from tandem.protocol.ids import AttemptRef, job_of
from tandem.protocol.jobs import AttemptState, InferenceWork, TranscodeWork

_RENDITION_TYPE = "video/mp4"
_MOST_UPLOADS = 32
"""Of one output: far more than a connection that breaks needs."""
_MOST_COUNTED = 10_000
_ROWS_TYPE = "application/octet-stream"


class Artifacts:
    """`limit` bounds a submitter's upload, in bytes."""

    def __init__(self, store: Store, content: ArtifactStore, limit: int) -> None:
        self._store = store
        self._content = content
        self._limit = limit
        self._begun: OrderedDict[tuple[AttemptRef, str], int] = OrderedDict()
        """Uploads of outputs, the latest last."""

    async def upload(
        self, chunks: AsyncIterator[bytes], media_type: str, announced: int | None = None
    ) -> ArtifactRecord:
        """Takes a stream to its end; an early end leaves nothing. `announced` is the size that was promised, in bytes.

        Raises TooLarge, InvalidRequest for no bytes, or Unavailable if they cannot be kept.
        """
        if announced is not None and announced > self._limit:
            raise TooLarge(f"expected an artifact of at most {self._limit} bytes, got one of {announced}")
        artifact_id, size = await self._content.write(_some(chunks), self._limit)
        return await self._store.add_artifact(artifact_id, size, media_type)

    async def upload_output(
        self, ref: AttemptRef, name: str, chunks: AsyncIterator[bytes], limit: int
    ) -> ArtifactRecord:
        """An output from the node that runs the attempt.

        Raises StaleAttempt if the attempt is over, NotFound for one that was not asked for, TooLarge, Unavailable,
        InvalidRequest.
        """
        media_type = _check_output(await self._store.job(job_of(ref.task)), ref, name)
        self._count(ref, name)
        artifact_id, size = await self._content.write(_some(chunks), limit)
        return await self._store.add_artifact(artifact_id, size, media_type)

    def _count(self, ref: AttemptRef, name: str) -> None:
        """Every content stays on the disk for a while, so that a node must not send ever others."""
        begun = self._begun.pop((ref, name), 0) + 1
        self._begun[(ref, name)] = begun
        if len(self._begun) > _MOST_COUNTED:
            self._begun.popitem(last=False)
        if begun > _MOST_UPLOADS:
            raise InvalidRequest(f"expected at most {_MOST_UPLOADS} uploads of {name} by {ref}, got one more")

    async def get(self, artifact_id: str) -> ArtifactRecord:
        """Raises NotFound."""
        return await self._store.artifact(artifact_id)

    def read(self, artifact_id: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end` (exclusive); to be closed if it is left early. Raises NotFound."""
        return self._content.read(artifact_id, start, end)


def _check_output(snapshot: JobSnapshot, ref: AttemptRef, name: str) -> str:
    """The media type of what is to come."""
    attempt = snapshot.attempt(ref)
    if attempt is None or attempt.state is not AttemptState.RUNNING:
        state = attempt.state if attempt else "unknown"
        raise StaleAttempt(f"expected attempt {ref} to be running, it is {state}; stop working on it")
    task = snapshot.task(ref.task)
    wanted = list(task.work.names) if task and not isinstance(task.work, InferenceWork) else []
    if name not in wanted:
        raise NotFound(f"expected an output of {ref}, which are {wanted}, got {name!r}")
    return _RENDITION_TYPE if task and isinstance(task.work, TranscodeWork) else _ROWS_TYPE


async def _some(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same stream, which must not be empty."""
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        yield chunk
    if not size:
        raise InvalidRequest("expected the artifact's bytes as the body, got an empty body")
