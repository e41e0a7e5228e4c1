"""The files of a model on this machine."""

from pathlib import Path

from tandem.protocol.errors import InvalidModel
from tandem.protocol.models import MAX_MODEL_FILES, MODEL_FILE


def files_of(path: Path) -> dict[str, Path]:
    """An ONNX file under MODEL_FILE, and the files of its external data under the names that it has for them.

    Raises InvalidModel.
    """
    from tandem.inspection.model_rules import external_names, parse

    names = external_names(parse(path.read_bytes()))
    files = {MODEL_FILE: path, **{name: path.parent / name for name in names}}
    missing = [str(place) for place in files.values() if not place.is_file()]
    if missing:
        raise InvalidModel(f"expected the external data of {path.name} beside it, and {missing[0]} is missing")
    if len(names) > MAX_MODEL_FILES:
        raise InvalidModel(
            f"expected external data in at most {MAX_MODEL_FILES} files, got {len(names)}; save the model with "
            "all tensors in one file (onnx.save: all_tensors_to_one_file=True)"
        )
    return files
