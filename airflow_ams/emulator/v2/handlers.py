"""What each v2 request does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_ams.emulator.errors import InvalidRequest, NotFound, NotOffered
from airflow_ams.emulator.ids import canonical_id
from airflow_ams.emulator.odata import DATETIME, INT32, STRING
from airflow_ams.emulator.records import AccessPolicy, AssetFile, Locator
from airflow_ams.emulator.service import Service
from airflow_ams.emulator.v2.bodies import read_properties
from airflow_ams.emulator.v2.call import Answer, Call
from airflow_ams.emulator.v2.edm import ASSET, FILE, JOB, LOCATOR, POLICY, TASK, TYPES, Entity, EntityType
from airflow_ams.emulator.v2.paths import CANCEL_JOB, CREATE_FILE_INFOS
from airflow_ams.emulator.v2.query import read_query
from airflow_ams.emulator.v2.reading import Reading
from airflow_ams.emulator.v2.submission import read_job

_CHANGES = ("MERGE", "PATCH", "PUT")


class Handlers:
    """The v2 service without HTTP: a call comes in, an answer goes out, refusals are raised.

    :param service: the emulator.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reading = Reading(service)
        self._creators: dict[str, Callable[[Call], str]] = {
            JOB.set: self._create_job,
            ASSET.set: self._create_asset,
            FILE.set: self._create_file,
            POLICY.set: self._create_policy,
            LOCATOR.set: self._create_locator,
        }
        self._changers: dict[str, Callable[[Call, str], None]] = {
            JOB.set: self._change_job,
            ASSET.set: self._change_asset,
            FILE.set: self._change_file,
        }
        self._deleters: dict[str, Callable[[Call, str], None]] = {
            JOB.set: lambda call, key: service.jobs.delete(call.account, key),
            ASSET.set: lambda call, key: service.assets.delete(call.account, key),
            POLICY.set: self._delete_policy,
            LOCATOR.set: self._delete_locator,
        }
        self._functions: dict[str, Callable[[Call], Answer]] = {
            CANCEL_JOB: self._cancel_job,
            CREATE_FILE_INFOS: self._create_file_infos,
        }

    def answer(self, call: Call) -> Answer:
        """Do what *call* asks for."""
        path = call.path
        if function := self._functions.get(path.set):
            return function(call)
        if path.set == "":
            self._only_get(call, "the service document")
            return Answer(200, call.writer.service_document())
        kind = TYPES[path.set]
        if path.key is not None and path.member is None:
            return self._on_entity(call, kind, canonical_id(path.key, kind.kind))
        if path.key is None and path.member is None and call.method == "POST":
            return self._create(call, kind)
        self._only_get(call, f"{path.set}/{path.member}" if path.member else path.set)
        if path.key is None:
            return self._read_set(call, kind)
        return self._read_member(call, kind, self._reading.entity(call, kind, path.key))

    def _on_entity(self, call: Call, kind: EntityType, key: str) -> Answer:
        if call.method in _CHANGES and (change := self._changers.get(kind.set)):
            change(call, key)
            return Answer(204)
        if call.method == "DELETE" and (delete := self._deleters.get(kind.set)):
            delete(call, key)
            return Answer(204)
        self._only_get(call, kind.set)
        entity = self._reading.entity(call, kind, key)
        selected = read_query(call.options, kind).selected(entity)
        return Answer(200, call.writer.one(kind, selected, entity))

    def _only_get(self, call: Call, what: str) -> None:
        if call.method not in ("GET", "HEAD"):
            raise NotOffered(f"{call.method} of {what}")

    def _read_set(self, call: Call, kind: EntityType) -> Answer:
        if call.path.member == "$count":
            return self._count(call, kind, None)
        if call.path.member is not None:
            raise NotFound(f"Resource not found for the segment '{call.path.member}'.")
        return self._list(call, kind, None)

    def _list(self, call: Call, kind: EntityType, entities: list[Entity] | None) -> Answer:
        query = read_query(call.options, kind)
        if entities is None:
            matching = query.matching(self._reading.entities(call, kind, query.only_id))
        else:
            matching = query.matching(entities)
        page = query.page(matching)
        parts = [query.selected(entity) for entity in page]
        total = len(matching) if query.count_all else None
        return Answer(200, call.writer.many(kind, parts, page, total))

    def _count(self, call: Call, kind: EntityType, entities: list[Entity] | None) -> Answer:
        query = read_query(call.options, kind)
        found = self._reading.entities(call, kind, query.only_id) if entities is None else entities
        return Answer(200, str(len(query.matching(found))))

    def _read_member(self, call: Call, kind: EntityType, entity: Entity) -> Answer:
        name = call.path.member or ""
        if name in kind.properties:
            # Verbose properties are answered in the older version of the protocol.
            version = "1.0;" if call.writer.verbose else "3.0;"
            return Answer(200, call.writer.property(kind, name, entity), version=version)
        if name not in kind.navigation:
            raise NotFound(f"Resource not found for the segment '{name}'.")
        target, entities, single = self._reading.related(call, kind, entity, name)
        if single:
            return Answer(200, call.writer.one(target, entities[0], entities[0]))
        return self._list(call, target, entities)

    def _create(self, call: Call, kind: EntityType) -> Answer:
        if kind is TASK:
            raise InvalidRequest("A task cannot be created by itself: post it as a part of a job.")
        creator = self._creators.get(kind.set)
        if creator is None:
            raise NotOffered(f"POST of {kind.set}")
        entity = self._reading.entity(call, kind, creator(call))
        location = {"Location": call.writer.uri(kind, entity)}
        return Answer(201, call.writer.one(kind, entity, entity, echo=True), location)

    def _create_job(self, call: Call) -> str:
        request = read_job(call.document(), verbose=call.content_verbose)
        return self._service.submit(call.account, request).id

    def _create_asset(self, call: Call) -> str:
        allowed = {
            name: ASSET.properties[name] for name in ("Name", "Options", "AlternateId", "FormatOption")
        }
        values = read_properties(call.document(), {**allowed, "StorageAccountName": STRING})
        return self._service.assets.create(
            call.account,
            values.get("Name") or "",
            options=values.get("Options") or 0,
            alternate_id=values.get("AlternateId"),
        ).id

    def _create_file(self, call: Call) -> str:
        values = read_properties(call.document(), FILE.properties)
        asset = self._service.assets.get(call.account, canonical_id(_need(values, "ParentAssetId"), "cid"))
        file = self._service.assets.record_file(
            asset.id, _need(values, "Name"), mime_type=values.get("MimeType")
        )
        _apply_to_file(file, values)
        self._service.store.put(file)
        return file.id

    def _create_policy(self, call: Call) -> str:
        allowed = {name: POLICY.properties[name] for name in ("Name", "DurationInMinutes", "Permissions")}
        values = read_properties(call.document(), allowed)
        minutes, permissions = values.get("DurationInMinutes") or 0.0, values.get("Permissions") or 0
        return self._service.assets.create_policy(
            call.account, values.get("Name") or "", minutes, permissions
        ).id

    def _create_locator(self, call: Call) -> str:
        allowed = {
            "Id": STRING,
            "Name": STRING,
            "AccessPolicyId": STRING,
            "AssetId": STRING,
            "Type": INT32,
            "StartTime": DATETIME,
            "ExpirationDateTime": DATETIME,
        }
        values = read_properties(call.document(), allowed)
        if values.get("Type") != 1:
            raise NotOffered(f"Locator.Type {values.get('Type')} (only 1, SAS, is)")
        return self._service.assets.create_locator(
            call.account,
            canonical_id(_need(values, "AssetId"), "cid"),
            canonical_id(_need(values, "AccessPolicyId"), "pid"),
            values.get("StartTime"),
            values.get("Name"),
        ).id

    def _change_job(self, call: Call, key: str) -> None:
        self._reading.entity(call, JOB, key)
        values = read_properties(call.document(), {"Priority": INT32})
        self._service.jobs.set_priority(call.account, key, _need(values, "Priority"))

    def _change_asset(self, call: Call, key: str) -> None:
        asset = self._service.assets.get(call.account, key)
        values = read_properties(call.document(), {"Name": STRING, "AlternateId": STRING})
        asset.name = values.get("Name") or asset.name
        asset.alternate_id = values.get("AlternateId", asset.alternate_id)
        asset.modified = self._service.clock.now()
        self._service.store.put(asset)

    def _change_file(self, call: Call, key: str) -> None:
        file = self._service.store.get(AssetFile, key)
        if file is None or file.account != call.account:
            raise NotFound("Resource AssetFile not found")
        names = ("Id", "Name", "ParentAssetId", "IsPrimary", "MimeType", "ContentFileSize")
        values = read_properties(call.document(), {name: FILE.properties[name] for name in names})
        _apply_to_file(file, values)
        file.modified = self._service.clock.now()
        self._service.store.put(file)

    def _delete_policy(self, call: Call, key: str) -> None:
        self._reading.entity(call, POLICY, key)
        policy = self._service.store.get(AccessPolicy, key)
        if policy is not None:
            self._service.store.remove(policy)

    def _delete_locator(self, call: Call, key: str) -> None:
        self._reading.entity(call, LOCATOR, key)
        locator = self._service.store.get(Locator, key)
        if locator is not None:
            self._service.store.remove(locator)

    def _cancel_job(self, call: Call) -> Answer:
        self._only_get(call, "CancelJob")
        self._service.cancel(call.account, canonical_id(_parameter(call, "jobid"), JOB.kind))
        return Answer(204)

    def _create_file_infos(self, call: Call) -> Answer:
        self._only_get(call, "CreateFileInfos")
        asset_id = canonical_id(_parameter(call, "assetid"), ASSET.kind)
        self._service.assets.record_folder(call.account, asset_id)
        return Answer(204)


def _apply_to_file(file: AssetFile, values: dict[str, Any]) -> None:
    # The size counts what is stored; a client that says otherwise before its upload is not believed.
    file.primary = values["IsPrimary"] if values.get("IsPrimary") is not None else file.primary
    file.mime_type = values.get("MimeType") or file.mime_type


def _need(values: dict[str, Any], name: str) -> Any:
    if values.get(name) is None:
        raise InvalidRequest(f"The property '{name}' is required.")
    return values[name]


def _parameter(call: Call, name: str) -> str:
    value = next((value for key, value in call.options.items() if key.lower() == name), "")
    if len(value) < 3 or not (value[0] == value[-1] == "'"):
        raise InvalidRequest(f"The parameter {name} is missing or not in quotes: {name}='nb:…'.")
    return value[1:-1].replace("''", "'")
