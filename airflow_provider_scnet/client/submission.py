# SPDX-License-Identifier: Apache-2.0
"""The submission of a job, and what its answer means: taken, certainly not taken, or nobody knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_provider_scnet.client import response, transport
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.error_codes import CODES, kind_of_status
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetError,
    ScnetJobLimitError,
    ScnetSubmissionRefusedError,
    ScnetSubmissionUnknownError,
)
from airflow_provider_scnet.client.job_lists import check_own_jobs
from airflow_provider_scnet.client.job_request import JobRequest
from airflow_provider_scnet.client.redaction import redacted

#: Source: SCnet OpenAPI v2, "submit a job". The last parts of the path stay, whatever the application.
SUBMISSION_PATH = "/hpc/openapi/v2/apptemplates/BASIC/BASE/job"

#: Documented codes with which SCnet itself turns a request away, before any scheduler: what was sent is missing
#: something or wrong, or its sender may not send it.
TURNED_AWAY = ("10003", "10004", "10007", "10008", "10009", "911009", "911406")

# Slurm's reasons for a limit of submitted jobs, such as QOSMaxSubmitJobPerUserLimit or AssocGrpSubmitJobsLimit.
# Its general sentence on policies, which follows, is also said where waiting does not help.
_LIMIT = re.compile(r"(Assoc|QOS)\w*(MaxSubmitJob|GrpSubmitJob)\w*")

#: Texts of Slurm's errors that are the last word on a submission. Source: Slurm's ``slurm_errno.c``.
REFUSALS = (
    "Invalid partition name specified",
    "No partition specified or system default partition",
    "Required partition not available",
    "Requested partition configuration not available now",
    "User's group not permitted to use this partition",
    "Access/permission denied",
    "Job violates accounting/QOS policy",
    "Invalid account or account/partition combination specified",
    "Invalid qos specification",
    "Invalid wckey specification",
    "Invalid license specification",
    "Requested time limit is invalid",
    "Requested node configuration is not available",
    "Requested nodes not in this partition",
    "Invalid node name specified",
    "Required node not available",
    "Node count specification invalid",
    "CPU count specification invalid",
    "Task count specification invalid",
    "Task distribution specification invalid",
    "More processors requested than permitted",
    "Memory required by task is not available",
    "Job size specification needs to be provided",
    "Invalid generic resource (gres) specification",
    "Duplicate generic resource (gres) specification",
    "Invalid GRES specification",
    "Invalid Trackable RESource (TRES) specification",
    "Invalid feature specification",
    "Invalid job array specification",
    "Job dependency problem",
    "Access denied to requested reservation",
    "Requested reservation is invalid",
    "Pathname of a file, directory or other parameter too long",
    "MaxJobCount limit reached",
    "System submissions disabled",
)
# Texts that leave open whether there is a job, whatever else is said.
_OPEN = re.compile(
    r"unable to contact|timed out|time-?out|zero bytes|temporarily unavailable|temporarily unable|retrying|standby"
    r"|connection|(send|receive|shutdown) failure|submitted batch job",
    re.IGNORECASE,
)


def submit(settings: ConnectionSettings, job: JobRequest, scheduler_id: str) -> str:
    """
    Send a submission once and return the id of the job.

    :param settings: whom to ask, and who submits
    :param job: the job
    :param scheduler_id: the scheduler that is to take it
    :raises ScnetSubmissionRefusedError: where it is certain that there is no job
    :raises ScnetSubmissionUnknownError: where nobody knows
    :raises ScnetConfigError: where it would be another user's than the one asked about
    """
    check_own_jobs(settings)
    try:
        content = {"strJobManagerID": scheduler_id, "mapAppJobInfo": job.fields()}
        try:
            answer = transport.send(settings, "POST", SUBMISSION_PATH, json=content)
        except ScnetError as error:
            raise _unknown(error.message, error) from None
        return job_id_of(answer)
    except ScnetError as error:
        error.where = f"{settings.where}, submission of job '{job.job_name}'"
        if error.kind is ErrorKind.CREDENTIALS:
            error.advice = settings.advice
        raise


def job_id_of(answer: response.Answer) -> str:
    """
    Return the id of the job that an answer names.

    :param answer: what came over the wire
    :raises ScnetSubmissionRefusedError: where it is certain that there is no job
    :raises ScnetSubmissionUnknownError: where nobody knows
    """
    try:
        body = answer.parse()
    except ScnetError:
        body = None
    code = body.get("code") if isinstance(body, Mapping) else None
    if isinstance(body, Mapping) and isinstance(code, str | int) and not isinstance(code, bool):
        if str(code) != "0" and _is_of_scnet(answer.status):
            _raise_refusal(str(code), body.get("msg"))
        if str(code) == "0" and answer.status == 200 and (job_id := _id(body.get("data"))):
            return job_id
    try:
        # What the answer is, in the words that are usual for it.
        data = response.read(answer, lambda data: data)
    except ScnetError as error:
        raise _unknown(error.message, error) from None
    raise _unknown(f"SCnet answered success with '{redacted(data)}' in place of the id of a job")


def _is_of_scnet(status: int) -> bool:
    """Whether an answer with this HTTP status is the service's own word, and not that of something in between."""
    return status == 200 or (400 <= status < 500 and kind_of_status(status) is not ErrorKind.TRANSIENT)


def _id(data: Any) -> str:
    # The documented id is the bare value; clients guard against an object around it.
    if isinstance(data, Mapping):
        data = data.get("jobId", data.get("jobid"))
    text = str(data) if isinstance(data, str | int) and not isinstance(data, bool) else ""
    return text if re.fullmatch(r"[1-9][0-9]{0,17}", text) else ""


def _raise_refusal(code: str, msg: Any) -> None:
    said = msg if isinstance(msg, str) else ""
    if _OPEN.search(said):
        return
    shown = redacted("; ".join(said.splitlines()))
    if _LIMIT.search(said):
        raise ScnetJobLimitError(code, shown, kind=ErrorKind.TRANSIENT)
    if any(text in said for text in REFUSALS):
        raise ScnetSubmissionRefusedError(code, shown, kind=ErrorKind.PERMANENT)
    if code in TURNED_AWAY:
        raise ScnetSubmissionRefusedError(code, shown, kind=CODES[code][1])


def _unknown(what: str, cause: ScnetError | None = None) -> ScnetSubmissionUnknownError:
    return ScnetSubmissionUnknownError(
        f"nobody knows whether SCnet took the job: {what}; ask for it by its name before it is submitted again",
        retry_after=cause.retry_after if cause else None,
    )
