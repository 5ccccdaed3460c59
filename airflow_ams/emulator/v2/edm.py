"""The entity types of the v2 service, and how a record becomes an entity of its type.

An entity is a dictionary from property names to values, in the order in which the service writes them;
times are aware datetimes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_ams.emulator.ids import guid_of
from airflow_ams.emulator.odata import BOOLEAN, DATETIME, DOUBLE, INT32, INT64, STRING, as_datetime
from airflow_ams.emulator.records import AccessPolicy, Asset, AssetFile, Job, Locator, Processor, Task

Entity = dict[str, Any]
NAMESPACE = "Microsoft.Cloud.Media.Vod.Rest.Data.Models"


@dataclass(frozen=True)
class EntityType:
    """What the service says about one entity set.

    :param set: the set's name in a path.
    :param name: the type's name, without the namespace.
    :param kind: the letters in its identifiers, for instance ``jid``.
    :param properties: name to type.
    :param navigation: the properties that lead to other entities.
    :param iso_dates: whether verbose JSON writes times as ISO text; the others are ``/Date(ms)/``.
    """

    set: str
    name: str
    kind: str
    properties: Mapping[str, str]
    navigation: tuple[str, ...] = ()
    iso_dates: bool = False


def collection_of(name: str) -> str:
    """Return the type of a collection of the complex type *name*."""
    return f"Collection({NAMESPACE}.{name})"


JOB = EntityType(
    "Jobs",
    "Job",
    "jid",
    {
        "Id": STRING,
        "Name": STRING,
        "Created": DATETIME,
        "LastModified": DATETIME,
        "EndTime": DATETIME,
        "Priority": INT32,
        "RunningDuration": DOUBLE,
        "StartTime": DATETIME,
        "State": INT32,
        "TemplateId": STRING,
        "JobNotificationSubscriptions": collection_of("JobNotificationSubscription"),
    },
    ("Tasks", "OutputMediaAssets", "InputMediaAssets"),
    iso_dates=True,
)
TASK = EntityType(
    "Tasks",
    "Task",
    "tid",
    {
        "Id": STRING,
        "Configuration": STRING,
        "EndTime": DATETIME,
        "ErrorDetails": collection_of("ErrorDetail"),
        "HistoricalEvents": collection_of("TaskHistoricalEvent"),
        "MediaProcessorId": STRING,
        "Name": STRING,
        "PerfMessage": STRING,
        "Priority": INT32,
        "Progress": DOUBLE,
        "RunningDuration": DOUBLE,
        "StartTime": DATETIME,
        "State": INT32,
        "TaskBody": STRING,
        "Options": INT32,
        "EncryptionKeyId": STRING,
        "EncryptionScheme": STRING,
        "EncryptionVersion": STRING,
        "InitializationVector": STRING,
        "TaskNotificationSubscriptions": collection_of("TaskNotificationSubscription"),
    },
    ("OutputMediaAssets", "InputMediaAssets"),
    iso_dates=True,
)
ASSET = EntityType(
    "Assets",
    "Asset",
    "cid",
    {
        "Id": STRING,
        "State": INT32,
        "Created": DATETIME,
        "LastModified": DATETIME,
        "AlternateId": STRING,
        "Name": STRING,
        "Options": INT32,
        "FormatOption": INT32,
        "Uri": STRING,
        "StorageAccountName": STRING,
    },
    ("Locators", "Files"),
)
FILE = EntityType(
    "Files",
    "AssetFile",
    "cid",
    {
        "Id": STRING,
        "Name": STRING,
        "ContentFileSize": INT64,
        "ParentAssetId": STRING,
        "EncryptionVersion": STRING,
        "EncryptionScheme": STRING,
        "IsEncrypted": BOOLEAN,
        "EncryptionKeyId": STRING,
        "InitializationVector": STRING,
        "IsPrimary": BOOLEAN,
        "LastModified": DATETIME,
        "Created": DATETIME,
        "MimeType": STRING,
        "ContentChecksum": STRING,
        "Options": INT32,
    },
)
POLICY = EntityType(
    "AccessPolicies",
    "AccessPolicy",
    "pid",
    {
        "Id": STRING,
        "Created": DATETIME,
        "LastModified": DATETIME,
        "Name": STRING,
        "DurationInMinutes": DOUBLE,
        "Permissions": INT32,
    },
)
LOCATOR = EntityType(
    "Locators",
    "Locator",
    "lid",
    {
        "Id": STRING,
        "ExpirationDateTime": DATETIME,
        "Type": INT32,
        "Path": STRING,
        "BaseUri": STRING,
        "ContentAccessComponent": STRING,
        "AccessPolicyId": STRING,
        "AssetId": STRING,
        "StartTime": DATETIME,
        "Name": STRING,
    },
    ("AccessPolicy", "Asset"),
)
PROCESSOR = EntityType(
    "MediaProcessors",
    "MediaProcessor",
    "mpid",
    {
        "Id": STRING,
        "Description": STRING,
        "Name": STRING,
        "Sku": STRING,
        "Vendor": STRING,
        "Version": STRING,
    },
)
TYPES = {kind.set: kind for kind in (JOB, TASK, ASSET, FILE, POLICY, LOCATOR, PROCESSOR)}


def job_entity(job: Job, now: float) -> Entity:
    """Return *job* as an entity; Job (REST reference)."""
    return {
        "Id": job.id,
        "Name": job.name,
        "Created": as_datetime(job.created),
        "LastModified": as_datetime(job.modified),
        "EndTime": as_datetime(job.ended),
        "Priority": job.priority,
        "RunningDuration": _milliseconds(job.started, job.ended, now),
        "StartTime": as_datetime(job.started),
        "State": int(job.state),
        "TemplateId": None,
        "JobNotificationSubscriptions": [],
    }


def task_entity(task: Task, now: float) -> Entity:
    """Return *task* as an entity; Task (REST reference)."""
    events = [
        {"Code": event["code"], "Message": event["message"], "TimeStamp": as_datetime(event["at"])}
        for event in task.events
    ]
    return {
        "Id": task.id,
        "Configuration": task.configuration,
        "EndTime": as_datetime(task.ended),
        "ErrorDetails": [
            {"Code": failure["code"], "Message": failure["message"]} for failure in task.failures
        ],
        "HistoricalEvents": events,
        "MediaProcessorId": task.processor,
        "Name": task.name,
        "PerfMessage": None,
        "Priority": task.priority,
        "Progress": float(task.progress),
        "RunningDuration": _milliseconds(task.started, task.ended, now),
        "StartTime": as_datetime(task.started),
        "State": int(task.state),
        "TaskBody": task.body,
        "Options": task.options,
        "EncryptionKeyId": None,
        "EncryptionScheme": None,
        "EncryptionVersion": None,
        "InitializationVector": None,
        "TaskNotificationSubscriptions": [],
    }


def asset_entity(asset: Asset, storage: str) -> Entity:
    """Return *asset* as an entity; Asset (REST reference). *storage* is the URL of the containers."""
    return {
        "Id": asset.id,
        "State": 0,
        "Created": as_datetime(asset.created),
        "LastModified": as_datetime(asset.modified),
        "AlternateId": asset.alternate_id,
        "Name": asset.name,
        "Options": asset.options,
        "FormatOption": 0,
        "Uri": f"{storage}asset-{guid_of(asset.id)}",
        "StorageAccountName": "emulator",
    }


def file_entity(file: AssetFile) -> Entity:
    """Return *file* as an entity; AssetFile (REST reference)."""
    return {
        "Id": file.id,
        "Name": file.name,
        "ContentFileSize": file.size,
        "ParentAssetId": file.asset,
        "EncryptionVersion": None,
        "EncryptionScheme": None,
        "IsEncrypted": False,
        "EncryptionKeyId": None,
        "InitializationVector": None,
        "IsPrimary": file.primary,
        "LastModified": as_datetime(file.modified),
        "Created": as_datetime(file.created),
        "MimeType": file.mime_type,
        "ContentChecksum": None,
        "Options": 0,
    }


def policy_entity(policy: AccessPolicy) -> Entity:
    """Return *policy* as an entity; AccessPolicy (REST reference)."""
    return {
        "Id": policy.id,
        "Created": as_datetime(policy.created),
        "LastModified": as_datetime(policy.modified),
        "Name": policy.name,
        "DurationInMinutes": float(policy.minutes),
        "Permissions": policy.permissions,
    }


def locator_entity(locator: Locator, storage: str, signature: str) -> Entity:
    """Return *locator* as an entity; Locator (REST reference). Its Path opens the asset's folder."""
    base = f"{storage}asset-{guid_of(locator.asset)}"
    component = f"?sv=2012-02-12&sr=c&si={guid_of(locator.id)}&sig={signature}"
    return {
        "Id": locator.id,
        "ExpirationDateTime": as_datetime(locator.expires),
        "Type": 1,
        "Path": base + component,
        "BaseUri": base,
        "ContentAccessComponent": component,
        "AccessPolicyId": locator.policy,
        "AssetId": locator.asset,
        "StartTime": as_datetime(locator.starts),
        "Name": locator.name,
    }


def processor_entity(processor: Processor) -> Entity:
    """Return *processor* as an entity; MediaProcessor (REST reference)."""
    return {
        "Id": processor.id,
        "Description": processor.description,
        "Name": processor.name,
        "Sku": "",
        "Vendor": processor.vendor,
        "Version": processor.version,
    }


def _milliseconds(started: float | None, ended: float | None, now: float) -> float:
    if started is None:
        return 0.0
    return float(round(((now if ended is None else ended) - started) * 1000))
