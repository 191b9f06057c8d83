# SPDX-License-Identifier: Apache-2.0
"""
A job that is to be submitted: what is asked, read strictly, and the fields of SCnet's interface that say it.

Source of the fields: SCnet OpenAPI v2, "submit a job"; ``GAP_SCHEDULER_OPT_WEB`` is what public clients send.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from airflow_provider_scnet.client.errors import ScnetConfigError
from airflow_provider_scnet.client.queue_name import queue_named
from airflow_provider_scnet.client.redaction import redacted

#: The longest name that is sent. What SCnet makes of long ones is not known.
LONGEST_NAME = 128

# Fields with parameters of their own, which check them.
_PARAMETERS = {
    "GAP_CMD_FILE": "command",
    "GAP_WORK_DIR": "work_dir",
    "GAP_QUEUE": "queue_name",
    "GAP_NNODE": "nodes",
    "GAP_NPROC": "cores",
    "GAP_PPN": "cores_per_node",
    "GAP_NGPU": "gpus_per_node",
    "GAP_NDCU": "dcus_per_node",
    "GAP_JOB_MEM": "memory_per_node",
    "GAP_WALL_TIME": "wall_time",
    "GAP_EXCLUSIVE": "exclusive",
    "GAP_APPNAME": "app_name",
    "GAP_STD_OUT_FILE": "stdout",
    "GAP_STD_ERR_FILE": "stderr",
    "GAP_JOB_NAME": "job_name",
}
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
        if not isinstance(self.exclusive, bool):
            raise ScnetConfigError(f"exclusive is neither true nor false but {_shown(self.exclusive)}")
        counts = {
            "GAP_NPROC": _count("cores", self.cores),
            "GAP_PPN": _count("cores_per_node", self.cores_per_node),
            "GAP_NGPU": _count("gpus_per_node", self.gpus_per_node),
            "GAP_NDCU": _count("dcus_per_node", self.dcus_per_node),
            "GAP_JOB_MEM": _memory(self.memory_per_node),
            "GAP_EXCLUSIVE": "1" if self.exclusive else "",
        }
        return {
            "GAP_SUBMIT_TYPE": "cmd",
            "GAP_CMD_FILE": _command(self.command),
            "GAP_JOB_NAME": _word("job_name", self.job_name, r"[A-Za-z0-9_][A-Za-z0-9_.-]*", LONGEST_NAME),
            "GAP_WORK_DIR": self._work_dir,
            "GAP_QUEUE": queue_named(self.queue_name),
            # Where nodes are named, their number has to be there, and empty.
            "GAP_NNODE": "" if named_nodes else _count("nodes", 1 if self.nodes is None else self.nodes),
            "GAP_WALL_TIME": _wall_time(self.wall_time),
            "GAP_APPNAME": _word("app_name", self.app_name, r"\w+", LONGEST_NAME),
            "GAP_STD_OUT_FILE": self._file("stdout", self.stdout),
            "GAP_STD_ERR_FILE": self._file("stderr", self.stderr),
            **{name: value for name, value in counts.items() if value},
            **options,
        }

    def stdout_of(self, job_id: str) -> str:
        """Return the path of the standard output of the job that was submitted with this id."""
        return self._file("stdout", self.stdout).replace("%j", job_id)

    def stderr_of(self, job_id: str) -> str:
        """Return the path of the standard error of the job that was submitted with this id."""
        return self._file("stderr", self.stderr).replace("%j", job_id)

    @property
    def _work_dir(self) -> str:
        path = _path("work_dir", self.work_dir)
        if not path.startswith("/"):
            raise ScnetConfigError(f"work_dir is no absolute path on the cluster: {_shown(path)}")
        return path.rstrip("/") or "/"

    def _file(self, name: str, path: str) -> str:
        path = _path(name, path)
        return path if path.startswith("/") else f"{self._work_dir.rstrip('/')}/{path}"


def _shown(value: object) -> str:
    return f"'{redacted(value)[:80]}'"


def _word(name: str, value: object, pattern: str, longest: int) -> str:
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII) or len(value) > longest:
        raise ScnetConfigError(
            f"{name} has to be a text of 1 to {longest} letters, digits and the like, without spaces, "
            f"not {_shown(value)}"
        )
    return value


def _path(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 4000:
        raise ScnetConfigError(f"{name} has to be a path on one line, not {_shown(value)}")
    return value.strip()


def _command(command: object) -> str:
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


def _memory(value: object) -> str:
    if value is None:
        return ""
    text = value.upper().replace(" ", "") if isinstance(value, str) else ""
    if not re.fullmatch("[1-9][0-9]{0,8}(MB|GB)", text):
        raise ScnetConfigError(f"memory_per_node has to be such as 4GB or 512MB, not {_shown(value)}")
    return text


def _wall_time(value: object) -> str:
    wrong = ScnetConfigError(
        "wall_time has to be longer than zero, such as '01:30:00' (hours, minutes, seconds) or a timedelta, "
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
        if name in _PARAMETERS:
            raise ScnetConfigError(f"job_options holds {name}: use the parameter {_PARAMETERS[name]}")
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
