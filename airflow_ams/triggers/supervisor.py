"""What the trigger needs of its triggerer that Airflow 3 has no public name for."""

from __future__ import annotations

from typing import Any


async def push_xcom(ti: Any, value: Any) -> bool:
    """Store a task's return value from its trigger.

    Airflow 3 encodes what a ``TaskSuccessEvent`` carries twice, so the next task would read a text.

    :param ti: the trigger's task instance
    :returns: whether it is done; on Airflow 2 it is not, and the event itself can carry the value
    """
    try:
        from airflow.sdk.execution_time import task_runner
        from airflow.sdk.execution_time.comms import SetXCom
    except ImportError:
        return False
    if getattr(task_runner, "SUPERVISOR_COMMS", None) is None:
        return False
    message = SetXCom(
        key="return_value",
        value=value,
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index,
    )
    await _ask(task_runner, message)
    return True


async def is_deferred(ti: Any) -> bool:
    """Whether a task is waiting in some triggerer, as Airflow 3.3 knows.

    :param ti: the trigger's task instance
    """
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import GetTaskStates

    message = GetTaskStates(
        dag_id=ti.dag_id,
        task_ids=[ti.task_id],
        run_ids=[ti.run_id],
        map_index=ti.map_index if ti.map_index >= 0 else None,
    )
    answer = await _ask(task_runner, message)
    return any(state == "deferred" for state in answer.task_states.get(ti.run_id, {}).values())


async def _ask(task_runner: Any, message: Any) -> Any:
    return await task_runner.SUPERVISOR_COMMS.asend(message)
