"""What a trigger is given, what Airflow stores of it, and how it starts without a worker."""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import DAG, TaskDeferred, task

from airflow_ams.sensors.ams import AmsJobSensor
from airflow_ams.sensors.waiting import BACKSTOP
from airflow_ams.triggers.ams import AmsJobTrigger
from tests.integration.waits import UNKNOWN, Deferred, fired, rebuilt, sensor

if TYPE_CHECKING:
    from airflow_ams.emulator.process import Emulator

OTHER = "nb:jid:UUID:11111111-2222-3333-4444-555555555555"
ALL: dict[str, Any] = {
    "job_ids": [UNKNOWN, OTHER],
    "ams_conn_id": "ams_other",
    "poke_interval": 7.5,
    "deadline": 1234.5,
    "started_at": 1000.25,
    "not_found_grace": 3.0,
    "queue_timeout": 12.0,
    "queued_until": 1012.5,
    "fail_fast": False,
    "cancel_on_kill": True,
    "cancel_on_timeout": True,
    "end_from_trigger": True,
    "do_xcom_push": False,
    "backstop": 60.0,
}
can_start = pytest.mark.skipif(
    tuple(int(part) for part in airflow_version.split(".")[:2]) < (3, 3), reason="Airflow starts none there"
)


def dag(**arguments: Any) -> DAG:
    """Make an empty DAG."""
    return DAG("starts", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=timezone.utc), **arguments)


# -- arguments


@pytest.mark.parametrize("ids", [UNKNOWN, [UNKNOWN, OTHER]])
def test_arguments_survive_storing(ids: Any) -> None:
    """The complaint: arguments that cannot be stored. Through JSON, which is what Airflow 3.3 stores."""
    one = AmsJobTrigger(**{**ALL, "job_ids": ids})
    classpath, arguments = one.serialize()
    assert classpath == "airflow_ams.triggers.ams.AmsJobTrigger"
    assert arguments == {**ALL, "job_ids": ids}
    assert json.loads(json.dumps(arguments)) == arguments
    again = rebuilt(one)
    assert isinstance(again, AmsJobTrigger)
    assert again.serialize() == one.serialize()


def test_arguments_survive_airflows_own_serialization() -> None:
    """Both of Airflow's ways: the encrypted column, and, where there is one, serde."""
    from airflow.models.trigger import Trigger

    one = AmsJobTrigger(**ALL)
    row: Any = Trigger.from_object(one)
    assert row.kwargs == ALL
    try:
        serde = importlib.import_module("airflow.sdk.serde")
    except ImportError:
        serde = importlib.import_module("airflow.serialization.serde")
    assert serde.deserialize(serde.serialize(one.serialize()[1])) == ALL


def test_a_tuple_of_ids_is_stored_as_a_list() -> None:
    """JSON has no tuples."""
    assert AmsJobTrigger((UNKNOWN, OTHER)).serialize()[1]["job_ids"] == [UNKNOWN, OTHER]


def test_arguments_hold_no_secret(ams_emulator: Emulator) -> None:
    """The complaint: arguments are stored in plain JSON. Only ids and settings are in them."""
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing"}])
    run = Deferred(sensor(job_id, deferrable=True))
    run.start()
    stored = json.dumps(run.trigger.serialize())
    for secret in (ams_emulator.key, "Bearer", "token", "http", "127.0.0.1", "password"):
        assert secret not in stored
    assert run.trigger.job_ids == job_id
    assert run.trigger.ams_conn_id == "ams_default"


def test_every_setting_of_the_sensor_reaches_the_trigger(ams_emulator: Emulator) -> None:
    """None is forgotten on the way."""
    ids = [ams_emulator.submit_scripted(states=[{"state": "Queued", "seconds": 60}]) for _ in range(2)]
    settings: dict[str, Any] = {
        "not_found_grace": 3,
        "queue_timeout": timedelta(seconds=12),
        "fail_fast": False,
        "cancel_on_kill": True,
        "cancel_on_timeout": True,
        "end_from_trigger": True,
        "do_xcom_push": False,
        "timeout": 30,
    }
    run = Deferred(sensor(ids, deferrable=True, poke_interval=7.5, **settings))
    before = time.time()
    run.start()
    _, arguments = run.trigger.serialize()
    assert before <= arguments["started_at"] <= time.time()
    assert arguments["deadline"] == arguments["started_at"] + 30
    own = {**ALL, "job_ids": ids, "ams_conn_id": "ams_default", "backstop": 0.0}
    assert arguments["started_at"] < arguments["queued_until"] <= arguments["started_at"] + 12
    for name in ("started_at", "deadline", "queued_until"):
        del arguments[name], own[name]
    assert arguments == own


def test_the_trigger_gets_ids_as_the_service_writes_them(ams_emulator: Emulator) -> None:
    """What the worker has understood of a pasted id is what is stored."""
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing"}])
    run = Deferred(sensor(job_id.upper().replace(":", "%3A"), deferrable=True))
    run.start()
    assert run.trigger.job_ids == job_id


def test_an_old_row_still_runs(ams_emulator: Emulator) -> None:
    """After an upgrade: a trigger that was stored before the other arguments came."""
    job_id = ams_emulator.submit_scripted(states=["Finished"])
    old: dict[str, Any] = {
        "job_ids": job_id,
        "ams_conn_id": "ams_default",
        "poke_interval": 1.0,
        "deadline": time.time() + 60,
    }
    assert asyncio.run(fired(AmsJobTrigger(**old)))["outcome"] == "succeeded"


def test_a_grace_that_was_stored_as_null_is_the_usual_one(ams_emulator: Emulator) -> None:
    """JSON knows no infinity, so Airflow stores null in its place."""
    job_id = ams_emulator.submit_scripted(states=["Finished"], appear_after=1)
    one = AmsJobTrigger(job_id, poke_interval=0.05, deadline=time.time() + 60, not_found_grace=None)
    assert one.serialize()[1]["not_found_grace"] == 60
    assert asyncio.run(fired(one))["outcome"] == "succeeded"


def test_building_a_trigger_reads_nothing() -> None:
    """The complaint: errors of event loops on connection lookup. Nothing is looked up before `run`."""
    assert AmsJobTrigger(UNKNOWN, "ams_nowhere").ams_conn_id == "ams_nowhere"


# -- starting without a worker


def started(made: AmsJobSensor, **context: Any) -> AmsJobTrigger:
    """Make the trigger as the triggerer makes it of a stored DAG, and let Airflow render its arguments."""
    from airflow.serialization.serialized_objects import DagSerialization

    stored = DagSerialization.to_dict(made.dag)
    operator = DagSerialization.from_dict(json.loads(json.dumps(stored))).get_task(made.task_id)
    assert operator.start_from_trigger
    start_args: Any = operator.start_trigger_args
    arguments = start_args.trigger_kwargs
    if "__type" in arguments:
        from airflow.serialization.serialized_objects import BaseSerialization

        arguments = BaseSerialization.deserialize(arguments)
    one = AmsJobTrigger(**arguments)

    class Ti:
        """Stands for Airflow's own."""

        task_id = made.task_id
        task = operator

    one.task_instance = Ti()  # type: ignore[assignment]
    one.render_template_fields(context)  # type: ignore[arg-type]
    return one


class Pulling:
    """Answers `ti.xcom_pull`, but hangs a triggerer of Airflow 3.3 as that does.

    :param value: what the upstream task has returned
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"Pulling({self._value!r})"

    def xcom_pull(self, task_ids: str, key: str = "return_value", map_indexes: Any = None) -> Any:
        """Return the value."""
        assert (task_ids, key, map_indexes) == ("submit", "return_value", -1), "this never comes back"
        return self._value


@can_start
@pytest.mark.parametrize(
    ("job_id", "context", "ids"),
    [
        (UNKNOWN, {}, UNKNOWN),
        ("{{ params.job_id }}", {"params": {"job_id": UNKNOWN}}, UNKNOWN),
        ([UNKNOWN, "{{ params.job_id }}"], {"params": {"job_id": OTHER}}, [UNKNOWN, OTHER]),
        ("{{ params.ids }}", {"params": {"ids": [UNKNOWN, OTHER]}}, [UNKNOWN, OTHER]),
        ("{{ ti.xcom_pull('submit', map_indexes=-1) }}", {"ti": Pulling(UNKNOWN)}, UNKNOWN),
    ],
    ids=str,
)
def test_arguments_are_rendered_in_the_triggerer(job_id: Any, context: Any, ids: Any) -> None:
    """The complaint: templates are not rendered. By Airflow's own rendering, of the DAG as it was stored."""
    from airflow_ams.api.ids import read_ids

    with dag():
        made = sensor(job_id, deferrable=True, start_from_trigger=True, ams_conn_id="ams_{{ 1 + 1 }}")
    one = started(made, **context)
    assert read_ids(one.job_ids) == ids
    assert one.ams_conn_id == "ams_2"


@can_start
@pytest.mark.parametrize("value", [UNKNOWN, [UNKNOWN, OTHER], 'it\'s "quoted" & <odd>'])
def test_an_upstream_output_is_pulled_without_hanging(value: Any) -> None:
    """As Jinja with `map_indexes=-1`, since without it the triggerer waits for ever."""
    from airflow_ams.api.ids import read_ids

    with dag():

        @task
        def submit() -> Any:
            return value

        made = sensor(submit(), deferrable=True, start_from_trigger=True)
    one = started(made, ti=Pulling(value))
    assert read_ids(one.job_ids) == value
    assert made.upstream_task_ids == {"submit"}


@can_start
def test_upstream_outputs_in_a_list_are_pulled_without_hanging() -> None:
    """Each item of a list may be an output."""
    with dag():

        @task
        def submit() -> str:
            return UNKNOWN

        made = sensor([submit(), OTHER], deferrable=True, start_from_trigger=True)
    assert started(made, ti=Pulling(UNKNOWN)).job_ids == [UNKNOWN, OTHER]


@can_start
def test_an_upstream_without_output_is_refused_in_the_triggerer() -> None:
    """None is no id; the task fails with a sentence, and not with a trigger that waits for 'None'."""
    with dag():

        @task
        def submit() -> None:
            return None

        made = sensor(submit(), deferrable=True, start_from_trigger=True)
    event = asyncio.run(fired(started(made, ti=Pulling(None))))
    assert event["outcome"] == "refused"


@can_start
def test_start_arguments_are_constants() -> None:
    """An absolute deadline in them would make a new version of the DAG each time that it is parsed."""
    from airflow.serialization.serialized_objects import DagSerialization

    def parse() -> Any:
        with dag() as made:
            sensor(
                "{{ params.job_id }}",
                deferrable=True,
                start_from_trigger=True,
                execution_timeout=timedelta(minutes=5),
            )
        return json.dumps(DagSerialization.to_dict(made)["dag"]["tasks"], sort_keys=True)

    first = parse()
    time.sleep(0.01)
    assert parse() == first


@can_start
@pytest.mark.parametrize(
    ("limits", "airflows", "ours"),
    [
        ({"timeout": 100}, 100 + BACKSTOP, 100),
        ({"timeout": 100, "execution_timeout": timedelta(seconds=30)}, 30, 30),
        ({"timeout": 100, "execution_timeout": timedelta(seconds=120)}, 120, 100),
        ({"timeout": 100, "execution_timeout": timedelta(seconds=400)}, 100 + BACKSTOP, 100),
    ],
)
def test_the_deadline_comes_from_airflows_own(limits: dict[str, Any], airflows: float, ours: float) -> None:
    """`trigger.timeout_after` is the only clock that a task has which never was on a worker."""
    with dag():
        made = sensor(UNKNOWN, deferrable=True, start_from_trigger=True, **limits)
    one = started(made)
    start_args = made.start_trigger_args
    assert start_args is not None
    limit = made.execution_timeout.total_seconds() if made.execution_timeout else float("inf")
    assert start_args.timeout is not None
    assert min(start_args.timeout.total_seconds(), limit) == airflows, "what Airflow makes of both"
    now = datetime.now(timezone.utc)
    one.timeout_after = now + timedelta(seconds=airflows)  # type: ignore[attr-defined]
    assert one._deadline() - now.timestamp() == pytest.approx(ours)


@can_start
def test_a_wait_that_began_in_the_triggerer(ams_emulator: Emulator) -> None:
    """Its first poll is at once, because no worker polled; its event is an ordinary one for the worker."""
    job_id = ams_emulator.submit_scripted(states=["Finished"])
    with dag():
        made = sensor("{{ params.id }}", deferrable=True, start_from_trigger=True, poke_interval=3600)
    one = started(made, params={"id": job_id})
    event = asyncio.run(fired(one))
    assert made.start_trigger_args is not None
    assert made.start_trigger_args.next_method == "execute_complete"
    assert made.resume_execution("execute_complete", {"event": event}, {})["id"] == job_id


@can_start
@pytest.mark.parametrize(
    "template",
    [
        "{{ ti.xcom_pull('submit') }}",
        "{{ ti.xcom_pull(task_ids='submit', key='return_value') }}",
        "{{ task_instance.xcom_pull('submit') | upper }}",
        "{% if x %}{{ ti.xcom_pull('submit') }}{% endif %}",
        "{{ ti.xcom_pull('submit', map_indexes=None) }}",
        "{{ ti.xcom_pull('submit', map_indexes=[0, 1]) }}",
        "{{ ti.xcom_pull(ti.xcom_pull('submit'), map_indexes=-1) }}",
        "{{ ti.get_previous_dagrun().run_id }}",
        "{{ ti.task.task_id }}",
        "{{ task_instance['x' ~ 'com_pull']('submit') }}",
        "{% set t = ti %}{{ t['x' ~ 'com_pull']('submit') }}",
        "{% set pull = ti.xcom_pull %}{{ pull('submit') }}",
        "{{ (ti | attr('xcom_pull'))('submit') }}",
        "{{ [ti] | map(attribute='xcom_pull') | first }}",
    ],
)
@pytest.mark.parametrize("place", ["alone", "in a list", "connection"])
def test_a_template_that_would_hang_the_triggerer_is_refused(template: str, place: str) -> None:
    """When the DAG is parsed, with the reason and what to write instead."""
    fields: dict[str, Any] = {"job_id": template}
    if place == "in a list":
        fields = {"job_id": [UNKNOWN, template]}
    elif place == "connection":
        fields = {"job_id": UNKNOWN, "ams_conn_id": template}
    with dag(), pytest.raises(ValueError, match=r"'wait'.*map_indexes"):
        sensor(deferrable=True, start_from_trigger=True, **fields)
    with dag():
        sensor(deferrable=True, **fields)


@can_start
@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ context['ti']['x' ~ 'com_pull']('submit') }}", "context"),
        ("{{ prev_start_date_success }}", "prev_start_date_success"),
        ("{{ inlet_events['a'][0].extra }}", "inlet_events"),
        ("{{ triggering_asset_events.values() | first }}", "triggering_asset_events"),
        ("{{ my_own_macro() }}", "my_own_macro"),
        ("{% include 'ids.txt' %}", "another template"),
    ],
)
def test_a_template_may_use_plain_values_only(template: str, reason: str) -> None:
    """What else there is on a worker is missing in the triggerer, or must be asked for, which may hang."""
    with dag(), pytest.raises(ValueError, match=rf"'wait' uses {reason}, "):
        sensor(template, deferrable=True, start_from_trigger=True)


@can_start
@pytest.mark.parametrize(
    "template",
    [
        "{{ ti.run_id }}{{ task_instance.map_index }}",
        "{{ task_instance.xcom_pull(task_ids='submit', key='job', map_indexes=0)['id'] }}",
        "{{ (ti.xcom_pull('submit', map_indexes=-1) or params.job_id) | trim }}",
        "{{ dag_run.conf.get('job_id', var.value.job_id) }}{{ conn.ams_default.login }}",
        "{{ macros.datetime.strptime(ds, '%Y-%m-%d').year }}{{ data_interval_start.isoformat() }}",
        "{% set ids = params.ids %}{% for job_id in ids %}{{ loop.index }}{{ job_id }}{% endfor %}",
    ],
)
def test_a_template_of_plain_values_is_accepted(template: str) -> None:
    """Whatever the triggerer has, or can look up."""
    with dag():
        assert sensor(template, deferrable=True, start_from_trigger=True).start_from_trigger


@can_start
def test_a_mapped_upstream_is_refused() -> None:
    """All its outputs would have to be read, which hangs the triggerer."""
    with dag():

        @task
        def submit(n: int) -> str:
            return UNKNOWN

        mapped = submit.expand(n=[1, 2])
        with pytest.raises(ValueError, match=r"'submit'.*mapped"):
            sensor(mapped, deferrable=True, start_from_trigger=True)
        with pytest.raises(ValueError, match="'wait_map'"):
            sensor(
                mapped.map(lambda job_id: job_id),
                task_id="wait_map",
                deferrable=True,
                start_from_trigger=True,
            )


@can_start
def test_mapping_is_refused() -> None:
    """`.expand()` drops the start arguments, which nobody would notice; ending in the triggerer works."""
    with pytest.raises(ValueError, match=r"'wait'.*mapped"):
        AmsJobSensor.partial(task_id="wait", deferrable=True, start_from_trigger=True)
    with dag():
        AmsJobSensor.partial(task_id="wait", deferrable=True, end_from_trigger=True).expand(job_id=[UNKNOWN])


def test_where_airflow_cannot_the_wait_begins_on_a_worker(
    ams_emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below 3.3, and without `deferrable`, start_from_trigger is left aside; the task defers as usual."""
    from airflow_ams.sensors import ams

    monkeypatch.setattr(ams, "_CAN_START_FROM_TRIGGER", False)
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing"}])
    made = sensor(job_id, deferrable=True, start_from_trigger=True)
    assert not made.start_from_trigger
    with pytest.raises(TaskDeferred):
        made.execute({})
    assert not sensor("{{ ti.xcom_pull('x') }}", start_from_trigger=True).start_from_trigger


@can_start
def test_executed_all_the_same_it_defers_the_ordinary_way(ams_emulator: Emulator) -> None:
    """As `dag.test()` does, which knows no start in a triggerer."""
    job_id = ams_emulator.submit_scripted(states=[{"state": "Processing"}])
    run = Deferred(sensor(job_id, deferrable=True, start_from_trigger=True))
    run.start()
    assert run.trigger.started_at is not None
