# SPDX-License-Identifier: Apache-2.0
"""Who submits a job, and waits for it."""
