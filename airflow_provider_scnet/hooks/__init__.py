# SPDX-License-Identifier: Apache-2.0
"""Airflow's connection, its masking, and threads."""
