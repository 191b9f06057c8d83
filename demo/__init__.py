# SPDX-License-Identifier: Apache-2.0
"""The provider at work: a real Airflow in a temporary directory, in front of the simulated cluster."""
