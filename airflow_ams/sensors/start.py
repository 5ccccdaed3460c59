"""Starting a wait in the triggerer: what can be handed to a trigger when the DAG is read."""

from __future__ import annotations

from typing import Any

_TASKS = ("ti", "task_instance")
_OF_A_TASK = frozenset({"dag_id", "id", "map_index", "run_id", "task_id", "try_number"})
_OF_JINJA = frozenset({"dict", "loop", "namespace", "range"})
_OF_AIRFLOW = frozenset(
    {
        *("dag", "dag_run", "macros", "params", "partition_date", "partition_key", "run_id", "task"),
        *("data_interval_end", "data_interval_start", "ds", "ds_nodash", "logical_date"),
        *("task_instance_key_str", "ts", "ts_nodash", "ts_nodash_with_tz"),
        *("conn", "var"),
    }
)
"""Names that a template may use: plain values, and at last what the triggerer of Airflow 3.3 can look up."""


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
    """Return a text, or nothing if it is none; refuse one that the triggerer could hang on."""
    if not isinstance(value, str):
        return ""
    import jinja2
    from jinja2 import nodes

    tree = jinja2.Environment(autoescape=True).parse(value)
    names = list(tree.find_all(nodes.Name))
    # By another name, by a computed key or in another function's hands the task could be asked for anything.
    pulls = {id(call.node) for call in tree.find_all(nodes.Call) if any(map(_is_one_index, call.kwargs))}
    harmless = {
        id(node.node)
        for node in tree.find_all(nodes.Getattr)
        if node.attr in _OF_A_TASK or (node.attr == "xcom_pull" and id(node) in pulls)
    }
    if any(node.name in _TASKS and id(node) not in harmless for node in names):
        raise ValueError(
            f"{what} pulls an XCom without map_indexes, or asks ti for more than its ids; with "
            "start_from_trigger the triggerer of Airflow 3.3 hangs on that. Write "
            "ti.xcom_pull(…, map_indexes=-1), or give the task's .output"
        )
    known = _OF_AIRFLOW.union(_OF_JINJA, _TASKS, (node.name for node in names if node.ctx != "load"))
    unknown = [node.name for node in names if node.name not in known]
    if any(tree.find_all((nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include))):
        unknown.append("another template")
    if unknown:
        raise ValueError(
            f"{what} uses {unknown[0]}, which the triggerer of Airflow 3.3 does not have, or may hang on; "
            "leave out start_from_trigger"
        )
    return value


def _is_one_index(keyword: Any) -> bool:
    from jinja2 import nodes

    value = keyword.value.node if isinstance(keyword.value, nodes.Neg) else keyword.value
    is_number = isinstance(value, nodes.Const) and isinstance(value.value, int)
    return bool(keyword.key == "map_indexes" and is_number)
