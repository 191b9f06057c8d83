# SPDX-License-Identifier: Apache-2.0
"""The ledger of claims: submissions behind gates that opened, by Airflow's states of their tasks."""
