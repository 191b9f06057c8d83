# SPDX-License-Identifier: Apache-2.0
"""SCnet over HTTP; nothing of Airflow in here."""
