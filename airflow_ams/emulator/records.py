"""What the emulator keeps: plain records, the same for every dialect.

Times are seconds since the epoch by the emulator's clock; progress is percent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypedDict

from airflow_ams.emulator.ids import guid_of

MEDIA_ENCODER_STANDARD = "nb:mpid:UUID:ff4df607-d419-42f0-bc17-a481b1331e56"
SCRIPTED = "nb:mpid:UUID:5c819ed0-0000-4000-8000-a1f10a35c819"
# The transforms of jobs that were not made over v3.
SCRIPTED_TRANSFORM, OTHERS_TRANSFORM = "Scripted", "v2"


class State(IntEnum):
    """States of jobs and tasks; Job (REST reference), State. A script may use other integers."""

    Queued = 0
    Scheduled = 1
    Processing = 2
    Finished = 3
    Error = 4
    Canceled = 5
    Canceling = 6


FINAL = frozenset({State.Finished, State.Error, State.Canceled})


class Reason(TypedDict):
    """A code and its text."""

    code: str
    message: str


class Failure(Reason, total=False):
    """One entry of a task's ErrorDetails; what is not required is shown by v3 only."""

    category: str
    retry: str
    details: list[Reason]


class Event(TypedDict):
    """One entry of a task's HistoricalEvents."""

    code: str
    message: str | None
    at: float


@dataclass
class Record:
    """What all records have: an identifier, and the account that owns it."""

    id: str
    account: str
    created: float


@dataclass
class Transform(Record):
    """What v3 jobs are made of: `outputs` are the documents with the presets, as they were sent."""

    name: str
    modified: float
    description: str | None = None
    outputs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Job(Record):
    """A job.

    :param script: the document of a scripted one, else None.
    :param transform: what it is a job of, in v3; those of other dialects get one that tells so.
    :param job_name: its name among the jobs of that transform.
    :param patched: when v3 changed it, the only thing that moves its lastModified.
    :param description: as v3 set it.
    :param correlation: its correlationData.
    :param input: the document as v3 sent it.
    """

    name: str
    modified: float
    priority: int = 0
    state: int = State.Queued
    started: float | None = None
    ended: float | None = None
    canceled_at: float | None = None
    script: dict[str, Any] | None = None
    inputs: list[str] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    transform: str = ""
    job_name: str = ""
    patched: float | None = None
    description: str | None = None
    correlation: dict[str, str] | None = None
    input: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.transform = self.transform or (OTHERS_TRANSFORM if self.script is None else SCRIPTED_TRANSFORM)
        self.job_name = self.job_name or guid_of(self.id)


@dataclass
class Task(Record):
    """One step of a job, in the order in which the steps run; what v3 calls an output of the job.

    :param url: where the input is, instead of in an asset.
    :param label: what v3 calls it.
    :param tolerated: whether its failure does not count for the job (``onError: ContinueJob``).
    :param preset_override: the document that v3 sent instead of the transform's preset.
    """

    job: str
    position: int
    name: str
    processor: str
    configuration: str
    body: str
    priority: int = 0
    options: int = 0
    state: int = State.Queued
    progress: float = 0.0
    started: float | None = None
    ended: float | None = None
    failures: list[Failure] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    url: str | None = None
    label: str = ""
    tolerated: bool = False
    preset_override: dict[str, Any] | None = None


@dataclass
class Asset(Record):
    """A folder of files.

    :param job: the job that makes it, None for one that was uploaded.
    :param asset_name: what v3 calls it; names are unique there.
    """

    name: str
    modified: float
    alternate_id: str | None = None
    options: int = 0
    job: str | None = None
    asset_name: str = ""
    description: str | None = None

    def __post_init__(self) -> None:
        self.asset_name = self.asset_name or f"asset-{guid_of(self.id)}"


@dataclass
class AssetFile(Record):
    """A file of an asset; `source` is its place outside the asset's folder, for files of ``--media``."""

    asset: str
    name: str
    modified: float
    size: int = 0
    primary: bool = False
    mime_type: str | None = None
    source: str | None = None


@dataclass
class AccessPolicy(Record):
    """How long and for what locators made from it are good."""

    name: str
    minutes: float
    permissions: int
    modified: float


@dataclass
class Locator(Record):
    """A signed way into an asset's folder."""

    asset: str
    policy: str
    permissions: int
    starts: float | None
    expires: float
    name: str | None = None


@dataclass(frozen=True)
class Processor:
    """A media processor, as the service lists it."""

    id: str
    name: str
    description: str
    vendor: str
    version: str


PROCESSORS = (
    Processor(MEDIA_ENCODER_STANDARD, "Media Encoder Standard", "Media Encoder Standard", "Microsoft", "1.1"),
    Processor(
        SCRIPTED, "Scripted", "Follows a script given as the task's Configuration", "airflow-ams", "1.0"
    ),
)
