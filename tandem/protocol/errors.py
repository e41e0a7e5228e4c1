"""The one tree of errors that Tandem raises on purpose.

    TandemError
    ├── RetryableError          another attempt, later or elsewhere, may succeed
    │   ├── Unavailable         unavailable: a dependency does not answer, or is full
    │   │   ├── ChainUnavailable    chain_unavailable: no RPC endpoint answers
    │   │   │   └── FeeCapExceeded      fee_cap_exceeded: gas costs more than the settings allow
    │   │   ├── NoCapacity          no_capacity: the node has no room for this attempt
    │   │   ├── UrlUnavailable      url_unavailable: the server of a URL does not answer, or not to the end
    │   │   └── Overloaded          overloaded: as many requests wait as may wait; come again after `retry_after`
    │   ├── AttemptLost         attempt_lost: the lease ran out or the node went away
    │   ├── AttemptReturned     attempt_returned: a draining node handed the attempt back
    │   ├── ChildCrashed        child_crashed: an executor's process ended by a signal or without an answer
    │   ├── AttemptTimeout      attempt_timeout: `start_to_finish` ran out
    │   ├── DeadlineExceeded    deadline_exceeded: a request on line was not answered within its timeout
    │   ├── TransferFailed      transfer_failed: an artifact could not be moved, or came with another digest
    │   ├── ResultRejected      result_rejected: verification found the result not to be what was asked
    │   └── ExposureExceeded    exposure_exceeded: unpaid work would pass the agreed bound
    └── FinalError              the same request can never succeed
        ├── InvalidRequest      invalid_request: what came does not follow the schema
        │   ├── InvalidLadder       invalid_ladder: a rendition that cannot be had from this input
        │   ├── InvalidTensor       invalid_tensor: wrong name, shape, datatype or data
        │   ├── InvalidModel        invalid_model: not a model that Tandem can serve
        │   ├── UnreadableMedia     unreadable_media: no decodable video in the file
        │   ├── UnreadableBatch     unreadable_batch: not a file of rows that the model takes
    │   ├── UrlForbidden        url_forbidden: a URL leads where the orchestrator may not go
        │   ├── UrlRefused          url_refused: the server of a URL does not give what it names
        │   ├── PriceExceeded       price_exceeded: the job costs more than its max_price
        │   └── IdempotencyConflict idempotency_conflict: the key was used for another request
        ├── WebhookInvalid      webhook_invalid: not signed with the secret, or not now
        ├── NotFound            not_found: no such job, model, artifact or path
        ├── Unauthorized        unauthorized: no key, or a wrong one
        ├── Forbidden           forbidden: the key is good, but not for this
        │   └── QuotaExceeded       quota_exceeded: the key has as much as it may have
        ├── TooLarge            too_large: a body, an artifact or a result passes its bound
        ├── Conflict            conflict: the state does not allow it
        ├── StaleAttempt        stale_attempt: the fencing token is not the current one
        ├── InvalidTransition   invalid_transition: the state machine has no such step
        ├── JobFailed           job_failed: the task failed on as many nodes as the policy allows
        ├── AssemblyFailed      assembly_failed: the results of a job's tasks do not fit together
        ├── ExecutionFailed     execution_failed: the executor says that the input itself cannot be processed
        ├── ProtocolError       protocol_error: the peer broke the node session's rules
        │   ├── MalformedMessage    malformed_message: not a message of this version, or over the bound
        │   ├── UnknownMessage      unknown_message: a type that this side does not know
        │   ├── MessageOutOfOrder   message_out_of_order: a known message in the wrong phase
        │   ├── StreamViolation     stream_violation: a frame of a stream that is not due, or passes its bounds
    │   │   └── CreditExceeded      credit_exceeded: more bytes than the window of a stream or the session allows
    │   ├── VersionMismatch     version_mismatch: no common version of the protocol
        │   └── ForgedIdentity      forged_identity: the proof does not match the claimed address
        ├── TicketError         ticket_invalid: the ticket cannot be accepted
        │   ├── TicketSignatureInvalid  ticket_signature_invalid: not canonical, or not by a signer of the sender
        │   ├── TicketParamsUnknown     ticket_params_unknown: not parameters that this node issued
        │   ├── TicketExpired           ticket_expired
        │   ├── TicketReplayed          ticket_replayed: the nonce was seen before
        │   ├── TicketRevealed          ticket_revealed: the commitment was already revealed
        │   └── TicketUnfunded          ticket_unfunded: the contract does not promise enough to this node
        ├── ChainError          chain_error: the chain answered with an error
        │   ├── InsufficientFunds       insufficient_funds: the account cannot pay for its transaction
        │   └── TransactionReverted     transaction_reverted
        └── ConfigurationError  configuration_error: a setting, a file or a program is missing or wrong

A `code` is stable: it is what travels on the wire and what a client may branch on. Whether something may be tried
again is the type's branch, never a string. `HTTP` statuses are given here too, so that one table serves the API.
"""

from typing import ClassVar


class TandemError(Exception):
    """Base. The message says what was expected, what came, and what to do."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    @property
    def detail(self) -> str:
        return str(self)


class RetryableError(TandemError):
    """Another attempt, later or elsewhere, may succeed."""

    status = 503
    retryable = True


class Unavailable(RetryableError):
    code = "unavailable"


class ChainUnavailable(Unavailable):
    code = "chain_unavailable"


class FeeCapExceeded(ChainUnavailable):
    code = "fee_cap_exceeded"


class NoCapacity(Unavailable):
    code = "no_capacity"


class UrlUnavailable(Unavailable):
    code = "url_unavailable"


class Overloaded(Unavailable):
    """`retry_after`: seconds after which it may be worth another try."""

    code = "overloaded"
    status = 429

    def __init__(self, detail: str, retry_after: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class AttemptLost(RetryableError):
    code = "attempt_lost"


class AttemptReturned(RetryableError):
    code = "attempt_returned"


class ChildCrashed(RetryableError):
    code = "child_crashed"


class AttemptTimeout(RetryableError):
    code = "attempt_timeout"


class DeadlineExceeded(RetryableError):
    code = "deadline_exceeded"
    status = 504


class TransferFailed(RetryableError):
    code = "transfer_failed"


class ResultRejected(RetryableError):
    code = "result_rejected"


class ExposureExceeded(RetryableError):
    code = "exposure_exceeded"


class FinalError(TandemError):
    """The same request can never succeed."""

    status = 400


class InvalidRequest(FinalError):
    code = "invalid_request"


class InvalidLadder(InvalidRequest):
    code = "invalid_ladder"


class InvalidTensor(InvalidRequest):
    code = "invalid_tensor"


class InvalidModel(InvalidRequest):
    code = "invalid_model"


class UnreadableMedia(InvalidRequest):
    code = "unreadable_media"


class UnreadableBatch(InvalidRequest):
    code = "unreadable_batch"


class UrlForbidden(InvalidRequest):
    code = "url_forbidden"


class UrlRefused(InvalidRequest):
    code = "url_refused"


class PriceExceeded(InvalidRequest):
    code = "price_exceeded"


class IdempotencyConflict(InvalidRequest):
    code = "idempotency_conflict"
    status = 422


class WebhookInvalid(FinalError):
    code = "webhook_invalid"


class NotFound(FinalError):
    code = "not_found"
    status = 404


class Unauthorized(FinalError):
    code = "unauthorized"
    status = 401


class Forbidden(FinalError):
    code = "forbidden"
    status = 403


class QuotaExceeded(Forbidden):
    code = "quota_exceeded"


class TooLarge(FinalError):
    code = "too_large"
    status = 413


class Conflict(FinalError):
    code = "conflict"
    status = 409


class StaleAttempt(FinalError):
    code = "stale_attempt"
    status = 409


class InvalidTransition(FinalError):
    code = "invalid_transition"
    status = 409


class JobFailed(FinalError):
    code = "job_failed"


class AssemblyFailed(FinalError):
    code = "assembly_failed"


class ExecutionFailed(FinalError):
    code = "execution_failed"


class ProtocolError(FinalError):
    code = "protocol_error"


class MalformedMessage(ProtocolError):
    code = "malformed_message"


class UnknownMessage(ProtocolError):
    code = "unknown_message"


class MessageOutOfOrder(ProtocolError):
    code = "message_out_of_order"


class StreamViolation(ProtocolError):
    code = "stream_violation"


class CreditExceeded(StreamViolation):
    code = "credit_exceeded"


class VersionMismatch(ProtocolError):
    code = "version_mismatch"


class ForgedIdentity(ProtocolError):
    code = "forged_identity"


class TicketError(FinalError):
    code = "ticket_invalid"


class TicketSignatureInvalid(TicketError):
    code = "ticket_signature_invalid"


class TicketParamsUnknown(TicketError):
    code = "ticket_params_unknown"


class TicketExpired(TicketError):
    code = "ticket_expired"


class TicketReplayed(TicketError):
    code = "ticket_replayed"


class TicketRevealed(TicketError):
    code = "ticket_revealed"


class TicketUnfunded(TicketError):
    code = "ticket_unfunded"


class ChainError(FinalError):
    code = "chain_error"
    status = 502


class InsufficientFunds(ChainError):
    code = "insufficient_funds"


class TransactionReverted(ChainError):
    code = "transaction_reverted"


class ConfigurationError(FinalError):
    code = "configuration_error"
    status = 500


def _leaves(base: type[TandemError]) -> dict[str, type[TandemError]]:
    found = {base.code: base} if "code" in vars(base) else {}
    for child in base.__subclasses__():
        found |= _leaves(child)
    return found


ERRORS_BY_CODE: dict[str, type[TandemError]] = _leaves(TandemError)
"""Every wire code with its type."""


def error_from_wire(code: str, detail: str, *, retryable: bool) -> TandemError:
    """The error that a peer named; an unknown code keeps only its branch."""
    unknown = RetryableError if retryable else FinalError
    return ERRORS_BY_CODE.get(code, unknown)(detail)
