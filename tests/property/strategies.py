"""Hypothesis strategies for what travels on the wire."""

from typing import TypeVar

from hypothesis import strategies as st

from tandem.protocol import messages as m
from tandem.protocol.capacity import RESOURCES, Capability, Capacity, Sandbox
from tandem.protocol.codec import Envelope
from tandem.protocol.errors import ERRORS_BY_CODE
from tandem.protocol.ids import AttemptRef
from tandem.protocol.jobs import InferenceWork, TranscodeWork
from tandem.protocol.ladder import AudioRendition, PixelFormat, Rendition, Window
from tandem.protocol.media import AudioCodec, AudioStream, MediaInfo, VideoCodec, VideoStream
from tandem.protocol.outputs import FileResult, InferenceOutput, TranscodeOutput
from tandem.protocol.pricing import Prices
from tandem.protocol.signing import address_from_bytes
from tandem.protocol.tensors import Datatype, Tensor, TensorSpec, element_size, elements, join_bytes
from tandem.protocol.tickets import TicketParams

T = TypeVar("T")

hexes = st.text("0123456789abcdef", min_size=28, max_size=28)
labels = st.text(min_size=1, max_size=12)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,7}", fullmatch=True)
details = st.text(max_size=40)
bytes32 = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=64, max_size=64)
addresses = st.binary(min_size=20, max_size=20).map(address_from_bytes)
wei = st.integers(0, 2**256 - 1)
seconds = st.floats(0, 10**7)
refs = st.builds(
    AttemptRef,
    task=st.builds(lambda job, index: f"job_{job}.{index}", hexes, st.integers(0, 999_999)),
    number=st.integers(1, 2**31 - 1),
)
artifacts = st.binary(min_size=32, max_size=32).map(lambda raw: f"sha256:{raw.hex()}")
codes = st.none() | st.sampled_from(sorted(ERRORS_BY_CODE))


def tuples(each: st.SearchStrategy[T], *, at_least: int = 0, at_most: int = 3) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(each, min_size=at_least, max_size=at_most).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """With data that fit their description; NaN and infinities are among them."""
    datatype, shape = draw(st.sampled_from(Datatype)), draw(tuples(st.integers(0, 3)))
    size = element_size(datatype)
    if size is None:
        each = st.binary(max_size=6)
        data = join_bytes(draw(st.lists(each, min_size=elements(shape), max_size=elements(shape))))
    elif datatype is Datatype.BOOL:
        data = bytes(draw(st.lists(st.integers(0, 1), min_size=elements(shape), max_size=elements(shape))))
    else:
        data = draw(st.binary(min_size=size * elements(shape), max_size=size * elements(shape)))
    return Tensor(name=draw(labels), datatype=datatype, shape=shape, data=data)


video_streams = st.builds(
    VideoStream,
    codec=labels,
    width=st.integers(1, 16384) | st.integers(16, 300),
    height=st.integers(1, 16384) | st.integers(16, 300),
    rotation=st.sampled_from((0, 90, 180, 270)),
    sample_aspect=st.tuples(st.integers(1, 300), st.integers(1, 300)) | st.just((1, 1)),
    frame_rate=st.tuples(st.integers(0, 240_000), st.integers(1, 1001)),
    frames=st.integers(0, 10**7),
)
media_infos = st.builds(
    MediaInfo,
    format=labels,
    duration_us=st.integers(0, 12 * 3600 * 10**6),
    video=video_streams,
    audio=tuples(
        st.builds(AudioStream, codec=labels, channels=st.integers(1, 64), sample_rate=st.integers(1, 768_000))
    ),
)
sides = st.integers(8, 4096).map(lambda half: 2 * half)
rates = st.integers(16_000, 200_000_000)
renditions = st.builds(
    Rendition,
    name=names,
    width=sides,
    height=sides,
    codec=st.sampled_from(VideoCodec),
    bitrate=rates,
    fps=st.none() | st.tuples(st.integers(1, 240_000), st.integers(1, 1001)),
    pixel_format=st.sampled_from(PixelFormat),
    audio=tuples(names),
)
audio_renditions = st.builds(
    AudioRendition,
    name=names,
    track=st.integers(0, 63),
    codec=st.sampled_from(AudioCodec),
    bitrate=st.none() | rates,
    channels=st.integers(1, 8),
    sample_rate=st.integers(8000, 96_000),
)
windows = st.builds(
    lambda start, length: Window(start_us=start, end_us=start + length),
    st.integers(-(10**9), 10**12),
    st.integers(1, 10**12),
)


def _distinct(parts: tuple[T, ...]) -> tuple[T, ...]:
    return tuple({getattr(part, "name", ""): part for part in parts}.values())


transcodes = st.builds(
    TranscodeWork,
    source=artifacts,
    source_size=st.integers(1, 2**40),
    media=media_infos,
    clip=st.none() | windows,
    window=st.none() | windows,
    seek_us=st.none() | st.integers(-(10**9), 10**12),
    video=tuples(renditions, at_least=1).map(_distinct),
) | st.builds(
    TranscodeWork,
    source=artifacts,
    source_size=st.integers(1, 2**40),
    media=media_infos,
    audio=tuples(audio_renditions, at_least=1).map(_distinct),
)
specs = st.builds(
    TensorSpec, name=labels, datatype=st.sampled_from(Datatype), shape=tuples(st.integers(-1, 2**20), at_most=2)
)


def inferences(inputs: tuple[Tensor, ...]) -> st.SearchStrategy[InferenceWork]:
    metas = tuple(tensor.meta for tensor in inputs)
    return st.builds(
        InferenceWork,
        model=artifacts,
        model_size=st.integers(1, 2**40),
        inputs=st.just(metas),
        outputs=tuples(specs),
        cost_us=st.integers(1, 10**12),
    )


capacities = st.builds(Capacity, **{name: st.integers(0, 2**53) for name in RESOURCES})
prices = st.builds(Prices, megapixel=st.dictionaries(st.sampled_from(VideoCodec), wei), inference_second=wei)
capabilities = st.builds(
    Capability,
    video_encoders=tuples(labels),
    execution_providers=tuples(labels),
    gpus=tuples(labels),
    encode_speed=st.integers(0, 2**53),
    inference_speed=st.integers(0, 2**53),
    sandbox=st.sampled_from(Sandbox),
    ffmpeg=labels,
)
offers = st.builds(
    m.Offer, capability=capabilities, capacity=capacities, prices=prices, max_unpaid=wei, draining=st.booleans()
)
ticket_params = st.builds(
    TicketParams,
    sender=addresses,
    recipient=addresses,
    face_value=wei,
    win_prob=wei,
    expiry=st.integers(0, 2**64 - 1),
    commitment=bytes32,
)
window_ids = st.integers(0, 2**112 - 1).map("win_{:028x}".format)
usage_windows = st.builds(m.UsageWindow, id=window_ids, requests=st.integers(1, 2**63 - 1), price=wei)
limits = st.builds(m.TicketLimits, max_face_value=wei, min_expected_value=wei, max_expected_value=wei)
held = st.builds(m.HeldAttempt, ref=refs, finished=st.booleans())
transcode_outputs = st.builds(
    TranscodeOutput,
    files=tuples(st.builds(FileResult, name=names, artifact=artifacts, size=st.integers(1)), at_least=1),
)


def assigns(work: st.SearchStrategy[TranscodeWork] | st.SearchStrategy[InferenceWork]) -> st.SearchStrategy[m.Assign]:
    return st.builds(
        m.Assign,
        ref=refs,
        work=work,
        price=wei,
        start_to_finish=seconds,
        source_url=details,
        upload_urls=st.dictionaries(names, details, max_size=3),
    )


node_messages: st.SearchStrategy[m.NodeMessage] = st.one_of(
    st.builds(
        m.Hello,
        versions=tuples(st.integers(1, 3), at_least=1),
        features=tuples(labels),
        address=addresses,
        nonce=bytes32,
    ),
    st.builds(m.Proof, signature=signatures, offer=offers, held=tuples(held)),
    st.builds(m.OfferUpdate, offer=offers),
    st.builds(m.Heartbeat, attempts=tuples(refs)),
    st.builds(m.Progress, ref=refs, permille=st.integers(0, 1000), remaining=st.none() | seconds),
    st.builds(m.Finished, ref=refs, output=transcode_outputs),
    st.builds(m.Failed, ref=refs, code=labels, detail=details, retryable=st.booleans()),
    st.builds(m.TicketTerms, params=ticket_params),
    st.builds(m.PaymentReceipt, id=st.integers(1, 2**63 - 1), accepted=st.booleans(), code=codes, detail=details),
    st.builds(m.UsageReceipt, id=window_ids),
    st.builds(m.Problem, code=labels, detail=details, fatal=st.booleans()),
)
orchestrator_messages: st.SearchStrategy[m.OrchestratorMessage] = st.one_of(
    st.builds(
        m.Challenge,
        version=st.integers(1, 3),
        features=tuples(labels),
        sender=addresses,
        signer=addresses,
        chain_id=st.integers(1, 2**256 - 1),
        contract=addresses,
        nonce=bytes32,
        signature=signatures,
    ),
    st.builds(
        m.Welcome, heartbeat=seconds, lease=seconds, limits=limits, keep=tuples(refs), usage=tuples(usage_windows)
    ),
    st.builds(m.HeartbeatReply, lost=tuples(refs)),
    assigns(transcodes),
    st.builds(m.Verdict, ref=refs, accepted=st.booleans(), price=wei, code=codes, detail=details),
    st.builds(m.Cancel, ref=refs, price=wei, reason=details),
    st.builds(m.TicketTermsReply, commitment=bytes32, accepted=st.booleans(), code=codes, detail=details),
    st.builds(
        m.Payment,
        id=st.integers(1, 2**63 - 1),
        params=ticket_params,
        tickets=tuples(
            st.builds(m.SignedTicket, sender_nonce=st.integers(0, 2**32 - 1), signature=signatures), at_least=1
        ),
    ),
    usage_windows,
)


@st.composite
def with_tensors(draw: st.DrawFn) -> Envelope:
    """The two messages that carry tensors."""
    carried = draw(tuples(tensors()))
    if draw(st.booleans()):
        return Envelope(draw(assigns(inferences(carried))), carried)
    output = InferenceOutput(outputs=tuple(tensor.meta for tensor in carried), provider=draw(details))
    return Envelope(m.Finished(ref=draw(refs), output=output), carried)


envelopes: st.SearchStrategy[Envelope] = st.one_of(
    (node_messages | orchestrator_messages).map(Envelope), with_tensors()
)
