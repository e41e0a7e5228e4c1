"""Rows as records and records as rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from orchestrator.core.records import (
    AccountRecord,
    ApiKeyRecord,
    ArtifactRecord,
    AttemptRecord,
    DeliveryRecord,
    ExportRecord,
    JobRecord,
    PaymentRecord,
    PreparationRecord,
    Submission,
    TaskRecord,
    WebhookRecord,
)
from tandem.protocol.ids import AttemptRef, index_of, job_of
from tandem.protocol.tensors import Tensor, TensorMeta

AnyRow = Row[*tuple[Any, ...]]
Values = dict[str, Any]


def job_record(row: AnyRow) -> JobRecord:
    return JobRecord(
        id=row.id,
        owner=row.owner,
        request=row.request,
        state=row.state,
        price=row.price,
        created_at=row.created_at,
        finished_at=row.finished_at,
        failure=row.failure,
        webhook=row.webhook,
    )


def job_values(submission: Submission) -> Values:
    job, once = submission.job, submission.once
    return {
        "id": job.id,
        "owner": job.owner,
        "request": job.request,
        "state": job.state,
        "price": job.price,
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "failure": job.failure,
        "webhook": job.webhook,
        "idempotency_key": once.idempotency_key if once else None,
        "request_digest": once.request_digest if once else b"",
    }


def preparation_record(row: AnyRow) -> PreparationRecord:
    return PreparationRecord(
        job=row.job, owner=row.owner, tries=row.tries, not_before=row.not_before, source=row.source
    )


def export_record(row: AnyRow) -> ExportRecord:
    return ExportRecord(
        job=row.job,
        owner=row.owner,
        tries=row.tries,
        not_before=row.not_before,
        written=row.written,
        error=row.error,
    )


def webhook_record(row: AnyRow) -> WebhookRecord:
    return WebhookRecord(
        owner=row.owner,
        url=row.url,
        secret=row.secret,
        made_at=row.made_at,
        previous=row.previous,
        previous_until=row.previous_until,
    )


def webhook_values(webhook: WebhookRecord) -> Values:
    return {
        "owner": webhook.owner,
        "url": webhook.url,
        "secret": webhook.secret,
        "made_at": webhook.made_at,
        "previous": webhook.previous,
        "previous_until": webhook.previous_until,
    }


def delivery_record(row: AnyRow) -> DeliveryRecord:
    return DeliveryRecord(
        job=row.job,
        number=row.number,
        owner=row.owner,
        state=row.state,
        at=row.at,
        url=row.url,
        status=row.status,
        since=row.since,
        tries=row.tries,
        not_before=row.not_before,
        delivered_at=row.delivered_at,
        error=row.error,
    )


def delivery_values(delivery: DeliveryRecord) -> Values:
    return {
        "job": delivery.job,
        "number": delivery.number,
        "owner": delivery.owner,
        "state": delivery.state,
        "at": delivery.at,
        "url": delivery.url,
        "endpoint": delivery.endpoint,
        "status": delivery.status,
        "since": delivery.since,
        "tries": delivery.tries,
        "not_before": delivery.not_before,
        "delivered_at": delivery.delivered_at,
        "error": delivery.error,
    }


def task_record(row: AnyRow) -> TaskRecord:
    return TaskRecord(id=row.id, work=row.work, state=row.state, price=row.price, not_before=row.not_before)


def task_values(task: TaskRecord) -> Values:
    return {
        "id": task.id,
        "job": job_of(task.id),
        "position": index_of(task.id),
        "work": task.work,
        "state": task.state,
        "price": task.price,
        "not_before": task.not_before,
    }


def attempt_record(row: AnyRow, outputs: Mapping[AttemptRef, tuple[Tensor, ...]] | None = None) -> AttemptRecord:
    ref = attempt_ref(row)
    return AttemptRecord(
        ref=ref,
        node=row.node,
        state=row.state,
        price=row.price,
        started_at=row.started_at,
        lease_until=row.lease_until,
        output=row.output,
        tensors=(outputs or {}).get(ref, ()),
        failure=row.failure,
        finished_at=row.finished_at,
        lane=row.lane,
        earned=row.earned,
    )


def attempt_values(attempt: AttemptRecord) -> Values:
    return {
        "task": attempt.ref.task,
        "number": attempt.ref.number,
        "node": attempt.node,
        "state": attempt.state,
        "price": attempt.price,
        "started_at": attempt.started_at,
        "lease_until": attempt.lease_until,
        "output": attempt.output,
        "failure": attempt.failure,
        "finished_at": attempt.finished_at,
        "lane": attempt.lane,
        "earned": attempt.earned,
    }


def attempt_ref(row: AnyRow) -> AttemptRef:
    return AttemptRef.model_construct(task=row.task, number=row.number)


def tensor_values(task: str, number: int, tensors: Sequence[Tensor]) -> Values:
    """All tensors of one task or attempt in one row: what they are, and their data end to end."""
    return {
        "task": task,
        "number": number,
        "metas": tuple(tensor.meta for tensor in tensors),
        "data": b"".join(tensor.data for tensor in tensors),
    }


def tensors_of(row: AnyRow) -> tuple[Tensor, ...]:
    metas: tuple[TensorMeta, ...] = row.metas
    found, offset = [], 0
    for meta in metas:
        data = row.data[offset : offset + meta.size]
        found.append(Tensor(name=meta.name, datatype=meta.datatype, shape=meta.shape, data=data))
        offset += meta.size
    return tuple(found)


def account_record(row: AnyRow) -> AccountRecord:
    return AccountRecord(
        node=row.node,
        earned=row.earned,
        issued=row.issued,
        refused=row.refused,
        redeemed=row.redeemed,
        unissued=row.unissued,
        active_at=row.active_at,
        params=row.params,
        next_nonce=row.next_nonce,
    )


def account_values(account: AccountRecord) -> Values:
    return {
        "node": account.node,
        "earned": account.earned,
        "issued": account.issued,
        "refused": account.refused,
        "redeemed": account.redeemed,
        "unissued": account.unissued,
        "active_at": account.active_at,
        "params": account.params,
        "next_nonce": account.next_nonce,
    }


def payment_record(row: AnyRow) -> PaymentRecord:
    return PaymentRecord(
        id=row.id,
        node=row.node,
        params=row.params,
        nonces=range(row.first_nonce, row.last_nonce + 1),
        tickets=row.tickets,
        receipt=row.receipt,
        failure=row.failure,
    )


def payment_values(payment: PaymentRecord) -> Values:
    return {
        "node": payment.node,
        "params": payment.params,
        "tickets": payment.tickets,
        "receipt": payment.receipt,
        "failure": payment.failure,
        "params_hash": payment.params.hash(),
        "first_nonce": payment.nonces[0],
        "last_nonce": payment.nonces[-1],
    }


def artifact_record(row: AnyRow) -> ArtifactRecord:
    return ArtifactRecord(id=row.id, size=row.size, media_type=row.media_type, created_at=row.created_at)


def key_record(row: AnyRow) -> ApiKeyRecord:
    return ApiKeyRecord(
        id=row.id, name=row.name, digest=row.digest, created_at=row.created_at, revoked_at=row.revoked_at
    )
