# SPDX-License-Identifier: Apache-2.0
"""What all on one event loop share: its clock, fair turns, calls that are never cancelled, background tasks."""
