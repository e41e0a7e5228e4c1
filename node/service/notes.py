"""How things stand, for `tandem node status`: written down when it changes."""

from node.core.standing import ALIVE_SECONDS, Topic
from node.ports.tickets import TicketStore
from tandem.clock import Clock
from tandem.waiting import Bell


class Notes:
    """The newest note on each topic. An empty text stands for: nothing is wrong."""

    def __init__(self, store: TicketStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._said: dict[Topic, str] = {}
        self._new: dict[Topic, tuple[str, float]] = {}
        self._bell = Bell(clock)

    def say(self, topic: Topic, text: str = "") -> bool:
        """Whether this is news."""
        if self._said.get(topic) == text:
            return False
        self._said[topic] = text
        self._new[topic] = text, self._clock.now()
        self._bell.ring()
        return True

    async def run(self) -> None:
        """Until cancelled: writes what is new, and now and then that the node is alive."""
        said_at: float | None = None
        while True:
            if said_at is None or self._clock.monotonic() - said_at >= ALIVE_SECONDS:
                said_at = self._clock.monotonic()
                self.say(Topic.ALIVE, str(int(self._clock.now())))
            while self._new:
                topic, (text, at) = self._new.popitem()
                await self._store.note(topic, text, at)
            await self._bell.wait(ALIVE_SECONDS)
