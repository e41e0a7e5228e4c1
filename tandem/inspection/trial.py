"""What a trial of a model is to be made with."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from tandem.protocol.ids import Frozen
from tandem.protocol.models import MAX_WARM_UPS, Tolerance, WarmUpTensor


class Trial(Frozen):
    warm_up: Annotated[tuple[tuple[WarmUpTensor, ...], ...], Field(max_length=MAX_WARM_UPS)] = ()
    """Inputs to run it with; none: zeros with every open dimension at 1."""
    tolerance: Tolerance = Tolerance()


def sizes_beside(path: Path) -> dict[str, int]:
    """All other files in the folder of a model and below, with their sizes."""
    beside = (each for each in path.parent.rglob("*") if each != path and not each.is_dir())
    return {each.relative_to(path.parent).as_posix(): each.lstat().st_size for each in beside}
