"""Requests that are run as one: which fit together, what they ask for, and whose rows of the answer are whose."""

from collections.abc import Sequence

from tandem.protocol.tensors import Datatype, Tensor, TensorMeta

Key = tuple[tuple[str, ...], tuple[tuple[str, Datatype, tuple[int, ...]], ...]]
"""Requests of the same key differ in the number of their rows alone."""
Merged = tuple[str, Datatype, tuple[int, ...], int]
"""Name, datatype, shape, bytes."""


def rows_of(inputs: Sequence[Tensor]) -> int:
    """How many rows a request has, by the first dimension of all its inputs; 0 if it cannot be run with others."""
    sizes = {tensor.shape[0] if tensor.shape else 0 for tensor in inputs}
    return sizes.pop() if len(sizes) == 1 else 0


def key_of(inputs: Sequence[Tensor], outputs: Sequence[str]) -> Key:
    return tuple(outputs), tuple([(tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in inputs])


def merge(requests: Sequence[Sequence[Tensor]]) -> tuple[tuple[Merged, ...], list[list[bytes | memoryview]]]:
    """The inputs of all requests as one: what they are, and the pieces that each is made of, in order."""
    facts, pieces = [], []
    for same in zip(*requests, strict=True):
        first = same[0]
        data = [tensor.data for tensor in same]
        rows = sum(tensor.shape[0] for tensor in same)
        facts.append((first.name, first.datatype, (rows, *first.shape[1:]), sum(map(len, data))))
        pieces.append(data)
    return tuple(facts), pieces


def splits(metas: Sequence[TensorMeta], rows: Sequence[int]) -> bool:
    """Whether each output has the rows of all requests, and so can be told apart."""
    return all(meta.shape and meta.shape[0] == sum(rows) for meta in metas)


def split(outputs: Sequence[Tensor], rows: Sequence[int]) -> list[tuple[Tensor, ...]]:
    """Each request's own rows of outputs of which `splits` is true."""
    answers: list[list[Tensor]] = [[] for _ in rows]
    for tensor in outputs:
        width, at = len(tensor.data) // max(1, sum(rows)), 0
        for answer, count in zip(answers, rows, strict=True):
            data = tensor.data[at : at + count * width]
            answer.append(Tensor(tensor.name, tensor.datatype, (count, *tensor.shape[1:]), data))
            at += count * width
    return [tuple(answer) for answer in answers]
