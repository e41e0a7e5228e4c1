"""Child processes that work on files in a folder of their own, a bounded number at a time."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

import orchestrator
from tandem.clock import Clock
from tandem.process import Confinement, Limits, python_command, python_runtime, run
from tandem.protocol.capacity import Sandbox
from tandem.protocol.errors import AttemptTimeout, ChildCrashed, TandemError, TooLarge, Unavailable
from tandem.protocol.ids import Frozen

MAX_ANSWER = 2**24

Facts = TypeVar("Facts", bound=BaseModel)


class Workshop:
    """`folder` is where the children work; what lies there at the start was left by a crash, and goes."""

    def __init__(self, folder: Path, *, sandbox: Sandbox, clock: Clock, concurrency: int = 2) -> None:
        self._folder = folder
        self._sandbox = sandbox
        self._clock = clock
        self._turns = asyncio.Semaphore(concurrency)
        shutil.rmtree(folder, ignore_errors=True)

    @asynccontextmanager
    async def room(self) -> AsyncIterator[Path]:
        room = await asyncio.to_thread(_make_room, self._folder)
        try:
            yield room
        finally:
            await asyncio.to_thread(shutil.rmtree, room)

    async def ask(self, order: "Order", answer: type[Facts], refusal: type[TandemError], limits: Limits) -> Facts:
        """The child's answer. Raises `refusal` if its files are at fault, Unavailable if it cannot work at all."""
        argv = python_command(order.module, order.text)
        readable = (*python_runtime(orchestrator), *sorted(order.given))
        confinement = Confinement(self._sandbox, readable=readable, writable=order.writable)
        try:
            async with self._turns:
                done = await run(argv, limits=limits, confinement=confinement, clock=self._clock, max_output=MAX_ANSWER)
        except (ChildCrashed, AttemptTimeout, TooLarge) as error:
            raise refusal(f"expected {order.what} within bounds; {error.detail}") from error
        if done.status:
            reason = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.status}"
            raise Unavailable(f"expected an answer from {order.module}, got: {reason}")
        return _parse(done.stdout, answer, refusal)


class Order(Frozen):
    """What one child is to do."""

    module: str
    """Its main."""
    text: str
    what: str
    """The files that are expected, in words."""
    given: frozenset[Path]
    writable: tuple[Path, ...] = ()


def size_of(given: Iterable[Path]) -> int:
    """Bytes."""
    return sum(path.stat().st_size for path in given)


def _make_room(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return Path(mkdtemp(dir=folder)).resolve()
    except OSError as error:
        raise Unavailable(f"expected to make a folder in {folder}, got {error.strerror}") from error


class _Reply(BaseModel):
    """What a child says. One that was taken over by its file may say anything."""

    result: dict[str, Any] | None = None
    refused: str | None = Field(default=None, max_length=4096)


def _parse(stdout: bytes, answer: type[Facts], refusal: type[TandemError]) -> Facts:
    try:
        reply = _Reply.model_validate_json(stdout)
        if reply.refused is None:
            return answer.model_validate(reply.result)
    except ValidationError as error:
        raise refusal(f"expected an answer within bounds, got {error.errors()[0]['msg']}") from error
    raise refusal(reply.refused)
