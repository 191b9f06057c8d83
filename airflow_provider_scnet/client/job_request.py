# SPDX-License-Identifier: Apache-2.0
"""
A job that is to be submitted: what is asked, read strictly, and the fields of SCnet's interface that say it.

Source of the fields: SCnet OpenAPI v2, "submit a job"; ``GAP_SCHEDULER_OPT_WEB`` is what public clients send.
"""

from __future__ import annotations

import functools
import math
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from airflow_provider_scnet.client.errors import ScnetConfigError
from airflow_provider_scnet.client.queue_name import queue_named
from airflow_provider_scnet.client.redaction import redacted

#: The longest name that is sent. What SCnet makes of long ones is not known.
LONGEST_NAME = 128

_FORBIDDEN = {
    "GAP_SUBMIT_TYPE": "a job is submitted by its command",
    "GAP_MULTI_SUB": "one submission is one job: map the task for several",
    "GAP_CLUSTER_ID": "the connection says where the job goes",
}
# Options of sbatch that name, multiply or replace the job: it would not be found again.
_FORBIDDEN_OPTIONS = re.compile(r"(^|\s)(--(job-name|array|wrap|test-only|cluster|clusters)\b|-[JaM])")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """
    A job that is to be submitted. Whole numbers may be given as text, as a template renders them.

    :param command: what runs, as text or as a list of lines: no ``#SBATCH`` lines, as SCnet's own script surrounds
        it
    :param work_dir: where it runs, an absolute path
    :param queue_name: the queue, which Slurm calls a partition
    :param wall_time: how long it may run, such as ``01:30:00`` (hours, minutes, seconds) or a timedelta
    :param job_name: its name: letters, digits, ``_``, ``.`` and ``-``
    :param nodes: how many nodes; default: one
    :param cores: how many cores in all; not together with ``cores_per_node``
    :param cores_per_node: how many cores on each node
    :param gpus_per_node: how many GPUs on each node
    :param dcus_per_node: how many DCUs on each node
    :param memory_per_node: memory on each node, such as ``4GB`` or ``512MB``
    :param exclusive: whether it has its nodes for itself
    :param app_name: the English name of SCnet's application
    :param stdout: the file of its standard output, below ``work_dir`` unless absolute; ``%j`` stands for its id
    :param stderr: the file of its standard error, likewise
    :param job_options: further fields, such as ``{"GAP_NODE_STRING": "node1"}``; none that has a parameter here,
        and none that names, multiplies or replaces the job
    :raises ScnetConfigError: where something is missing, wrong, or excludes each other
    """

    command: str | Sequence[str] = field(repr=False)
    work_dir: str
    queue_name: str
    wall_time: str | timedelta
    job_name: str
    nodes: int | str | None = None
    cores: int | str | None = None
    cores_per_node: int | str | None = None
    gpus_per_node: int | str | None = None
    dcus_per_node: int | str | None = None
    memory_per_node: str | None = None
    exclusive: bool = False
    app_name: str = "BASE"
    stdout: str = "std.out.%j"
    stderr: str = "std.err.%j"
    job_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.fields()

    def fields(self) -> dict[str, str]:
        """
        Return the fields of SCnet's interface, ``mapAppJobInfo``.

        :raises ScnetConfigError: where something is missing, wrong, or excludes each other
        """
        options = _options(self.job_options)
        named_nodes = "GAP_NODE_STRING" in options
        if named_nodes and self.nodes is not None:
            raise ScnetConfigError("nodes and the job option GAP_NODE_STRING exclude each other: give one of them")
        if self.cores is not None and self.cores_per_node is not None:
            raise ScnetConfigError("cores and cores_per_node exclude each other: give one of them")
        asked = {name: read(parameter, getattr(self, parameter)) for name, (parameter, read) in _FIELDS.items()}
        for name in ("GAP_STD_OUT_FILE", "GAP_STD_ERR_FILE"):
            asked[name] = posixpath.join(asked["GAP_WORK_DIR"], asked[name])
        return {
            "GAP_SUBMIT_TYPE": "cmd",
            **{name: value for name, value in asked.items() if value},
            # Where nodes are named, their number has to be there, and empty.
            "GAP_NNODE": "" if named_nodes else asked["GAP_NNODE"] or "1",
            **options,
        }

    def stdout_of(self, job_id: str) -> str:
        """Return the path of the standard output of the job that was submitted with this id."""
        return self.fields()["GAP_STD_OUT_FILE"].replace("%j", job_id)

    def stderr_of(self, job_id: str) -> str:
        """Return the path of the standard error of the job that was submitted with this id."""
        return self.fields()["GAP_STD_ERR_FILE"].replace("%j", job_id)


def _shown(value: object) -> str:
    return f"'{redacted(value)[:80]}'"


def _word(name: str, value: object, pattern: str = r"\w+") -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII) or len(value) > LONGEST_NAME:
        raise ScnetConfigError(
            f"{name} has to be a text of 1 to {LONGEST_NAME} letters, digits and the like, without spaces, "
            f"not {_shown(value)}"
        )
    return value


def _path(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 4000:
        raise ScnetConfigError(f"{name} has to be a path on one line, not {_shown(value)}")
    return value.strip()


def _work_dir(name: str, value: object) -> str:
    path = _path(name, value)
    if not path.startswith("/"):
        raise ScnetConfigError(f"{name} is no absolute path on the cluster: {_shown(path)}")
    return path.rstrip("/") or "/"


def _flag(name: str, value: object) -> str:
    if not isinstance(value, bool):
        raise ScnetConfigError(f"{name} is neither true nor false but {_shown(value)}")
    return "1" if value else ""


def _command(name: str, command: object) -> str:
    lines = [command] if isinstance(command, str) else command
    if not isinstance(lines, Sequence) or isinstance(lines, bytes) or not all(isinstance(x, str) for x in lines):
        raise ScnetConfigError("command has to be a text, or a list of lines")
    # The shell takes a carriage return for a part of the last word.
    text = "\n".join(lines).replace("\r\n", "\n").strip("\n")
    if not text.strip():
        raise ScnetConfigError("command is empty")
    if "\0" in text:
        raise ScnetConfigError("command holds a NUL character")
    if re.search(r"^\s*#SBATCH", text, re.MULTILINE):
        raise ScnetConfigError(
            "command holds lines that begin with #SBATCH. SCnet puts it into a script of its own, which may "
            "ignore them: use the parameters, or job_options={'GAP_SCHEDULER_OPT_WEB': '#SBATCH --account=…'}"
        )
    return text


def _count(name: str, value: object) -> str:
    """Return a whole number from 1 as text; empty where there is none."""
    if value is None:
        return ""
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ScnetConfigError(f"{name} has to be a whole number from 1, not {_shown(value)}")
    return text


def _memory(name: str, value: object) -> str:
    if value is None:
        return ""
    text = value.upper().replace(" ", "") if isinstance(value, str) else ""
    if not re.fullmatch("[1-9][0-9]{0,8}(MB|GB)", text):
        raise ScnetConfigError(f"{name} has to be such as 4GB or 512MB, not {_shown(value)}")
    return text


def _wall_time(name: str, value: object) -> str:
    wrong = ScnetConfigError(
        f"{name} has to be longer than zero, such as '01:30:00' (hours, minutes, seconds) or a timedelta, "
        f"not {_shown(value)}"
    )
    if isinstance(value, timedelta):
        total = math.ceil(value.total_seconds())
    elif isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}:[0-5][0-9]:[0-5][0-9]", value.strip()):
        hours, minutes, seconds = map(int, value.strip().split(":"))
        total = hours * 3600 + minutes * 60 + seconds
    else:
        raise wrong
    # To Slurm, zero is no limit at all.
    if not 0 < total < 100_000 * 3600:
        raise wrong
    return f"{total // 3600:02}:{total // 60 % 60:02}:{total % 60:02}"


def _options(options: object) -> dict[str, str]:
    if not isinstance(options, Mapping):
        raise ScnetConfigError("job_options is no mapping such as {'GAP_NODE_STRING': 'node1'}")
    found = {}
    for name, value in options.items():
        if not isinstance(name, str) or not re.fullmatch("GAP_[A-Z0-9_]{1,60}", name):
            raise ScnetConfigError(f"job_options names no field GAP_…, but {_shown(name)}")
        if name in _FIELDS:
            raise ScnetConfigError(f"job_options holds {name}: use the parameter {_FIELDS[name][0]}")
        if name in _FORBIDDEN:
            raise ScnetConfigError(f"job_options holds {name}: {_FORBIDDEN[name]}")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ScnetConfigError(f"the job option {name} has to be a text, not {_shown(value)}")
        if name == "GAP_SCHEDULER_OPT_WEB" and (option := _FORBIDDEN_OPTIONS.search(str(value))):
            raise ScnetConfigError(
                f"the job option {name} holds {option.group().strip()}: "
                "nothing there may name, multiply or replace the job"
            )
        if str(value):
            found[name] = str(value)
    return found


# The fields that have a parameter, and how it is read; what is read as empty is not sent.
_FIELDS: dict[str, tuple[str, Callable[[str, Any], str]]] = {
    "GAP_CMD_FILE": ("command", _command),
    "GAP_JOB_NAME": ("job_name", functools.partial(_word, pattern=r"[A-Za-z0-9_][A-Za-z0-9_.-]*")),
    "GAP_WORK_DIR": ("work_dir", _work_dir),
    "GAP_QUEUE": ("queue_name", lambda _, value: queue_named(value)),
    "GAP_NNODE": ("nodes", _count),
    "GAP_NPROC": ("cores", _count),
    "GAP_PPN": ("cores_per_node", _count),
    "GAP_NGPU": ("gpus_per_node", _count),
    "GAP_NDCU": ("dcus_per_node", _count),
    "GAP_JOB_MEM": ("memory_per_node", _memory),
    "GAP_WALL_TIME": ("wall_time", _wall_time),
    "GAP_EXCLUSIVE": ("exclusive", _flag),
    "GAP_APPNAME": ("app_name", _word),
    "GAP_STD_OUT_FILE": ("stdout", _path),
    "GAP_STD_ERR_FILE": ("stderr", _path),
}
