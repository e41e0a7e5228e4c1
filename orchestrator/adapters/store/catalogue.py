"""Artifacts, models and API keys."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import ColumnElement, Connection, Table, and_, case, delete, exists, func, insert, or_, select, update
from sqlalchemy.sql.dml import ReturningDelete

from orchestrator.adapters.store.engine import Database
from orchestrator.adapters.store.queries import BATCH, RELEASED, demand_artifacts
from orchestrator.adapters.store.rows import artifact_record, key_record
from orchestrator.adapters.store.schema import (
    api_keys,
    artifacts,
    catalogue_revision,
    job_artifacts,
    model_files,
    models,
)
from orchestrator.core.catalogue import CatalogueUpdate, ModelChanges, ModelKey, key_of
from orchestrator.core.records import ApiKeyRecord, ArtifactRecord
from orchestrator.ports.store import ModelDecision
from tandem.protocol.errors import NotFound
from tandem.protocol.media import MediaInfo, Source
from tandem.protocol.models import ModelInfo


class SqlCatalogue:
    """The CatalogueStore part of the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_artifact(self, artifact_id: str, size: int, media_type: str) -> ArtifactRecord:
        now = self._database.now()
        renew = update(artifacts).where(artifacts.c.id == artifact_id).values(renewed_at=now).returning(artifacts)
        new = ArtifactRecord(artifact_id, size, media_type, now)

        def add(connection: Connection) -> ArtifactRecord:
            known = connection.execute(renew).one_or_none()
            if known is not None:
                return artifact_record(known)
            connection.execute(
                insert(artifacts).values(
                    id=artifact_id, size=size, media_type=media_type, created_at=now, renewed_at=now
                )
            )
            return new

        return await self._database.write(add)

    async def artifact(self, artifact_id: str) -> ArtifactRecord:
        query = select(artifacts).where(artifacts.c.id == artifact_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None:
            raise _no_artifact(artifact_id)
        return artifact_record(row)

    async def delete_orphans(self, older_than: float, released: float = 0) -> list[str]:
        now = self._database.now()
        old = case(
            (artifacts.c.renewed_at == RELEASED, artifacts.c.created_at <= now - released),
            else_=artifacts.c.renewed_at <= now - older_than,
        )
        orphaned = (
            old,
            ~exists().where(job_artifacts.c.artifact == artifacts.c.id),
            ~exists().where(models.c.artifact == artifacts.c.id),
            ~exists().where(model_files.c.artifact == artifacts.c.id),
        )
        query = select(artifacts.c.id).where(*orphaned)
        # In a reader, since all artifacts are looked at, and a writer is there for everybody.
        found = await self._database.read(lambda connection: sorted(connection.scalars(query)))
        gone: list[str] = []
        for start in range(0, len(found), BATCH):
            statement = delete(artifacts).where(artifacts.c.id.in_(found[start : start + BATCH]), *orphaned)
            gone += await self._database.write(partial(_ids, statement.returning(artifacts.c.id)))
        return gone

    async def unlisted(self, artifact_ids: Sequence[str]) -> list[str]:
        batches = [artifact_ids[start : start + BATCH] for start in range(0, len(artifact_ids), BATCH)]

        def listed(connection: Connection) -> set[str]:
            queries = (select(artifacts.c.id).where(artifacts.c.id.in_(batch)) for batch in batches)
            return {found for query in queries for found in connection.scalars(query)}

        known = await self._database.read(listed)
        return [artifact_id for artifact_id in artifact_ids if artifact_id not in known]

    async def save_media(self, artifact_id: str, source: Source) -> None:
        found = {"media": source.media, "keyframes": source.keyframes, "layout": source.layout}
        statement = update(artifacts).where(artifacts.c.id == artifact_id).values(found)
        if await self._database.write(lambda connection: connection.execute(statement).rowcount) == 0:
            raise _no_artifact(artifact_id)

    async def media(self, artifact_id: str) -> MediaInfo | None:
        query = select(artifacts.c.media).where(artifacts.c.id == artifact_id)
        found: MediaInfo | None = await self._database.read(lambda connection: connection.scalar(query))
        return found

    async def source(self, artifact_id: str) -> Source | None:
        columns = artifacts.c["media", "keyframes", "layout"]
        query = select(*columns).where(artifacts.c.id == artifact_id)
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        if row is None or row.media is None:
            return None
        return Source(media=row.media, keyframes=row.keyframes or (), layout=row.layout)

    async def decide_models(self, owner: str, name: str, decide: ModelDecision) -> ModelChanges:
        concerned = select(models.c.info).where(
            or_(models.c.owner == owner, and_(models.c.name == name, models.c.public))
        )

        def write(connection: Connection) -> ModelChanges:
            known = list(connection.scalars(concerned.order_by(models.c.owner, models.c.name, models.c.version)))
            changes = decide(known, self._database.now())
            _save_models(connection, changes)
            return changes

        return await self._database.write(write)

    async def catalogue(self, since: int = 0) -> CatalogueUpdate:
        def read(connection: Connection) -> CatalogueUpdate:
            revision = connection.scalar(select(catalogue_revision.c.number)) or 0
            if revision == since:
                return CatalogueUpdate(revision)
            keys = connection.execute(select(models.c.owner, models.c.name, models.c.version))
            changed = connection.scalars(select(models.c.info).where(models.c.revision > since))
            return CatalogueUpdate(revision, frozenset(ModelKey(*row) for row in keys), tuple(changed))

        return await self._database.read(read)

    async def add_key(self, key: ApiKeyRecord) -> None:
        statement = insert(api_keys).values(
            id=key.id, name=key.name, digest=key.digest, created_at=key.created_at, revoked_at=key.revoked_at
        )
        await self._database.write(lambda connection: connection.execute(statement))

    async def key_by_digest(self, digest: bytes) -> ApiKeyRecord | None:
        query = select(api_keys).where(api_keys.c.digest == digest, api_keys.c.revoked_at.is_(None))
        row = await self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else key_record(row)

    async def keys(self) -> list[ApiKeyRecord]:
        query = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        return await self._database.read(lambda connection: [key_record(row) for row in connection.execute(query)])

    async def revoke_key(self, key_id: str) -> None:
        statement = (
            update(api_keys)
            .where(api_keys.c.id == key_id)
            .values(revoked_at=func.coalesce(api_keys.c.revoked_at, self._database.now()))
        )
        if await self._database.write(lambda connection: connection.execute(statement).rowcount) == 0:
            raise NotFound(f"expected the id of an API key, got {key_id}")


def _ids(statement: ReturningDelete[tuple[str]], connection: Connection) -> list[str]:
    return sorted(connection.scalars(statement))


def _no_artifact(artifact_id: str) -> NotFound:
    return NotFound(f"expected an artifact of this store, got {artifact_id}")


def _save_models(connection: Connection, changes: ModelChanges) -> None:
    if not (changes.put or changes.removed):
        return
    revision = (connection.scalar(select(catalogue_revision.c.number)) or 0) + 1
    connection.execute(delete(catalogue_revision))
    connection.execute(insert(catalogue_revision).values(number=revision))
    for key in changes.removed:
        connection.execute(delete(model_files).where(*_at(model_files, key)))
        connection.execute(delete(models).where(*_at(models, key)))
    for model in changes.put:
        _save_model(connection, model, revision)


def _save_model(connection: Connection, model: ModelInfo, revision: int) -> None:
    key = key_of(model)
    values = {"public": model.public, "artifact": model.artifact, "info": model, "revision": revision}
    if connection.execute(update(models).where(*_at(models, key)).values(values)).rowcount:
        return
    files = {file.artifact for file in model.files}
    demand_artifacts(connection, sorted({model.artifact, *files}))
    connection.execute(insert(models).values(**key._asdict(), **values))
    if files:
        connection.execute(insert(model_files), [{**key._asdict(), "artifact": artifact} for artifact in sorted(files)])


def _at(table: Table, key: ModelKey) -> tuple[ColumnElement[bool], ...]:
    return table.c.owner == key.owner, table.c.name == key.name, table.c.version == key.version
