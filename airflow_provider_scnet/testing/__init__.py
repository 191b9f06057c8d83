# SPDX-License-Identifier: Apache-2.0
"""
A small SCnet on loopback: for this project's tests, its demo, and users' tests of their own DAGs.

It needs the standard library only, and imports neither Airflow nor ``requests``.
"""

from __future__ import annotations

from airflow_provider_scnet.testing.clock import SimulatorClock
from airflow_provider_scnet.testing.cluster import SubmissionError
from airflow_provider_scnet.testing.faults import REFUSALS, Fault
from airflow_provider_scnet.testing.history import HISTORY_PATH
from airflow_provider_scnet.testing.job_files import FILE_CONTENT_PATH
from airflow_provider_scnet.testing.job_plan import JobPlan
from airflow_provider_scnet.testing.job_quirks import JobQuirks
from airflow_provider_scnet.testing.simulator import ScnetSimulator
from airflow_provider_scnet.testing.submission import JOB_LIST_PATH, SUBMISSION_PATH
from airflow_provider_scnet.testing.tokens import make_token

__all__ = [
    "FILE_CONTENT_PATH",
    "HISTORY_PATH",
    "JOB_LIST_PATH",
    "REFUSALS",
    "SUBMISSION_PATH",
    "Fault",
    "JobPlan",
    "JobQuirks",
    "ScnetSimulator",
    "SimulatorClock",
    "SubmissionError",
    "make_token",
]
