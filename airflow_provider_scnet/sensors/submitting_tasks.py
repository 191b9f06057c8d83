# SPDX-License-Identifier: Apache-2.0
"""The tasks that submit behind a gate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor


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


def submission_tasks(sensor: ScnetJobCountSensor, base: type[ScnetJobCountSensor]) -> dict[str, Any]:
    """
    Return what the trigger has to know of the tasks behind the gate, once the DAG is complete.

    :param sensor: the gate
    :param base: the class of all gates
    :return: ``submitted_by``, the ids of the tasks that submit; ``upstream``, those of the tasks right before
        these; for each whether it is the instance with the gate's own map index rather than all of them;
        ``gates_upstream``, the ids of the gates that stand before the tasks that submit; ``after_past_runs``,
        whether one of all these waits for itself in the run before; and ``tell_job_id``, the ids of the tasks that
        leave the id of their job as an XCom once they have submitted
    :raises ValueError: where the DAG has no such task
    """
    dag = sensor.get_dag()
    if dag is None:
        return {
            "submitted_by": {},
            "upstream": {},
            "gates_upstream": [],
            "after_past_runs": False,
            "tell_job_id": [],
        }
    ids = named_tasks(sensor) or _right_behind(sensor, dag)
    own = next(_mapped_groups(sensor), None)

    def is_own(task_id: str) -> bool:
        return own is not None and own in _mapped_groups(dag.get_task(task_id))

    submitted_by = {task_id: is_own(task_id) for task_id in ids}
    upstream = sorted({each for task_id in ids for each in dag.get_task(task_id).upstream_task_ids})
    before = sorted(_relatives(dag, ids, upstream=True))
    # Other instances of the gate stand before the tasks that submit unless each has a submission of its own.
    siblings = not all(submitted_by.values())
    return {
        "submitted_by": submitted_by,
        "upstream": {task_id: is_own(task_id) for task_id in upstream},
        "gates_upstream": [
            task_id
            for task_id in before
            if _is_gate(dag.get_task(task_id), base) and (siblings or task_id != sensor.task_id)
        ],
        "after_past_runs": any(dag.get_task(task_id).depends_on_past for task_id in {*ids, *before}),
        "tell_job_id": [task_id for task_id in ids if _tells_job_id(dag.get_task(task_id))],
    }


def named_tasks(sensor: ScnetJobCountSensor) -> list[str]:
    """
    Return the ids of the tasks that an author named as those that submit; none where nothing is named.

    :param sensor: the gate
    :raises ValueError: where the DAG has no such task
    """
    dag = sensor.get_dag()
    return [] if dag is None else [_task_id(sensor, dag, name) for name in names(sensor.submitted_by) or ()]


def _right_behind(sensor: ScnetJobCountSensor, dag: Any) -> list[str]:
    """Return the tasks right behind the gate; one that stands behind another of them waits for it, or reads."""
    ids = sensor.downstream_task_ids
    return sorted(set(ids) - _relatives(dag, ids, upstream=False))


def _relatives(dag: Any, task_ids: Collection[str], *, upstream: bool) -> set[str]:
    """Return all tasks before, or behind, any of some tasks: in one walk, for many gates ask."""
    found: set[str] = set()
    left = set(task_ids)
    while left:
        found_now = set().union(*(dag.task_dict[each].get_direct_relative_ids(upstream) for each in left))
        left = found_now - found
        found |= found_now
    return found


def _is_gate(task: Any, base: type[ScnetJobCountSensor]) -> bool:
    cls = _class_of(task)
    return isinstance(cls, type) and issubclass(cls, base)


def _tells_job_id(task: Any) -> bool:
    # A mapped task has its arguments in another place.
    pushes = getattr(task, "partial_kwargs", vars(task)).get("do_xcom_push", True)
    return bool(pushes) and getattr(_class_of(task), "tells_job_id", False)


def _class_of(task: Any) -> Any:
    return getattr(task, "operator_class", type(task))


def _task_id(sensor: ScnetJobCountSensor, dag: Any, name: str) -> str:
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
