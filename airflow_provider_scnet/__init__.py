# SPDX-License-Identifier: Apache-2.0
"""Apache Airflow provider for SCnet, China's national supercomputing internet."""

from airflow_provider_scnet.provider_info import get_provider_info

__version__ = "0.1.0"

__all__ = ["__version__", "get_provider_info"]
