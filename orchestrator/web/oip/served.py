"""A model with what each request needs of it, worked out once."""

from tandem.protocol.models import ModelInfo


class Served:
    """Inputs and outputs by name."""

    __slots__ = ("info", "inputs", "output_names", "outputs")

    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self.inputs = {spec.name: spec for spec in info.inputs}
        self.outputs = {spec.name: spec for spec in info.outputs}
        self.output_names = tuple(self.outputs)


class ServedModels:
    """Those that were asked for, as long as the catalogue holds the same."""

    def __init__(self, most: int = 4096) -> None:
        self._served: dict[tuple[str, str, str], Served] = {}
        self._most = most

    def of(self, info: ModelInfo) -> Served:
        key = (info.owner, info.name, info.version)
        served = self._served.get(key)
        if served is None or served.info is not info:
            if len(self._served) >= self._most:
                self._served.clear()
            served = self._served[key] = Served(info)
        return served
