# SPDX-License-Identifier: Apache-2.0
"""The tasks that submit what a gate lets pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_scnet.sensors.scnet import ScnetJobStateSensor


def names(submitted_by: Any) -> tuple[str, ...] | None:
    """
    Return the names that an author gave, or None where the tasks right behind the gate are meant.

    :param submitted_by: a task id, or several
    :raises ValueError: where it is anything else
    """
    if submitted_by is None:
        return None
    given = (submitted_by,) if isinstance(submitted_by, str) else submitted_by
    if not isinstance(given, Sequence) or not given or not all(isinstance(each, str) and each for each in given):
        raise ValueError("submitted_by is no list of task ids, such as ['submit']")
    return tuple(given)


def submitters(sensor: ScnetJobStateSensor) -> dict[str, bool]:
    """
    Return the ids of the tasks that submit, once the DAG is complete.

    :param sensor: the gate
    :return: for each id whether it is the instance with the gate's own map index rather than all of them
    :raises ValueError: where the DAG has no such task
    """
    dag = sensor.get_dag()
    if dag is None:
        return {}
    given = names(sensor.submitted_by)
    ids = sorted(sensor.downstream_task_ids) if given is None else [_task_id(sensor, dag, name) for name in given]
    own = next(_mapped_groups(sensor), None)
    return {task_id: own is not None and own in _mapped_groups(dag.get_task(task_id)) for task_id in ids}


def _task_id(sensor: ScnetJobStateSensor, dag: Any, name: str) -> str:
    """Find a task by its id, or by the name that it has in the gate's own group or in one around it."""
    candidates: list[str] = [name, *(group.child_id(name) for group in _groups(sensor))]
    for candidate in candidates:
        if candidate in dag.task_dict and candidate != sensor.task_id:
            return candidate
    import difflib  # only for somebody who made a mistake

    labels = {task_id.rpartition(".")[2]: task_id for task_id in dag.task_dict if task_id != sensor.task_id}
    meant = difflib.get_close_matches(name, [*dag.task_dict, *labels], n=1)
    hint = f" (did you mean '{labels.get(meant[0], meant[0])}'?)" if meant else ""
    raise ValueError(f"submitted_by names '{name[:200]}', which is no other task of the DAG{hint}")


def _groups(task: Any) -> Iterator[Any]:
    """Yield the task groups around a task, from the inside out."""
    group = task.task_group
    while group is not None and group.group_id:
        yield group
        group = group.task_group if hasattr(group, "task_group") else group.parent_group


def _mapped_groups(task: Any) -> Iterator[str]:
    """Yield the ids of the mapped groups around a task, from the inside out."""
    return (group.group_id for group in task.iter_mapped_task_groups())
