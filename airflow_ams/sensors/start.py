"""Starting a wait in the triggerer: what can be handed to a trigger when the DAG is read."""

from __future__ import annotations

from typing import Any


def trigger_argument(value: Any, what: str) -> Any:
    """Return a field of the sensor as an argument that the triggerer can render.

    :param value: the field: a text, a template, an upstream task's output, or a list of these
    :param what: the field and its task, for messages
    :raises ValueError: rendering it in the triggerer would hang it (Airflow 3.3), or cannot work
    """
    if isinstance(value, list | tuple):
        return [_text(item, what) or f"{{{{ {_pull(item, what)} }}}}" for item in value]
    # As JSON, since it may be a list.
    return _text(value, what) or f"{{{{ {_pull(value, what)} | tojson }}}}"


def _pull(value: Any, what: str) -> str:
    from airflow.sdk.definitions.xcom_arg import PlainXComArg

    if not isinstance(value, PlainXComArg):
        raise ValueError(
            f"{what} cannot be used with start_from_trigger: give ids, a template or a task's plain output, "
            f"not {type(value).__name__}"
        )
    operator = value.operator
    if operator.is_mapped or operator.get_closest_mapped_task_group() is not None:
        raise ValueError(
            f"{what} is the output of '{operator.task_id}', which is mapped; the triggerer of Airflow 3.3 "
            "hangs on reading all of its outputs. Leave out start_from_trigger"
        )
    return f"ti.xcom_pull(task_ids={operator.task_id!r}, key={value.key!r}, map_indexes=-1)"


def _text(value: Any, what: str) -> str:
    """Return a text, or nothing if it is none; refuse one that pulls an XCom without one ``map_indexes``."""
    if not isinstance(value, str) or "xcom_pull" not in value:
        return value if isinstance(value, str) else ""
    import jinja2

    for call in jinja2.Environment(autoescape=True).parse(value).find_all(jinja2.nodes.Call):
        if getattr(call.node, "attr", None) == "xcom_pull" and not any(_is_number(k) for k in call.kwargs):
            raise ValueError(
                f"{what} pulls an XCom without map_indexes; with start_from_trigger the triggerer of Airflow "
                "3.3 hangs on that. Add map_indexes=-1, or give the task's .output"
            )
    return value


def _is_number(keyword: Any) -> bool:
    from jinja2 import nodes

    value = keyword.value
    if isinstance(value, nodes.Neg):
        value = value.node
    return bool(
        keyword.key == "map_indexes" and isinstance(value, nodes.Const) and isinstance(value.value, int)
    )
