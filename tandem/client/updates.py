"""Server-sent events of a job, read as updates."""

from dataclasses import dataclass, replace
from typing import Self

from pydantic import ValidationError

from tandem.protocol.api import JobSummary, ProgressView, RenditionProgressView, StateEvent
from tandem.protocol.errors import MalformedMessage
from tandem.protocol.jobs import JOB_TRANSITIONS, JobState, is_final


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """How a job stands."""

    state: JobState
    percent: float = 0.0
    remaining_seconds: float | None = None
    speed: float | None = None
    """Seconds of the source a second, at present; of a transcode."""
    renditions: tuple[RenditionProgressView, ...] = ()

    @property
    def final(self) -> bool:
        return is_final(JOB_TRANSITIONS, self.state)

    @classmethod
    def of(cls, job: JobSummary) -> Self:
        return cls(job.state).at(job.progress)

    def after(self, name: str, data: str) -> "JobUpdate":
        """How it stands after an event; one of a name that is not known changes nothing. Raises MalformedMessage."""
        try:
            match name:
                case "state" | "end":
                    state = StateEvent.model_validate_json(data).state
                    percent = 100.0 if state is JobState.SUCCEEDED else self.percent
                    return replace(self, state=state, percent=percent)
                case "progress":
                    return self.at(ProgressView.model_validate_json(data))
                case _:
                    return self
        except ValidationError as error:
            raise MalformedMessage(f"expected the data of a {name!r} event, got {data[:200]!r}") from error

    def at(self, progress: ProgressView) -> Self:
        """The same state with this progress."""
        return replace(
            self,
            percent=progress.percent,
            remaining_seconds=progress.remaining_seconds,
            speed=progress.speed,
            renditions=progress.renditions,
        )


class EventReader:
    """Lines of a `text/event-stream` in, events out (HTML standard, 9.2.6)."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: str) -> tuple[str, str] | None:
        """Takes one line without its end; at a blank one returns the event's name and data, if there was one."""
        if not line:
            return self._dispatch()
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case _:
                pass  # a comment, or a field that this client has no use for
        return None

    def _dispatch(self) -> tuple[str, str] | None:
        event = (self._name or "message", "\n".join(self._data)) if self._data else None
        self._name, self._data = "", []
        return event
