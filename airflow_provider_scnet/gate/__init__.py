# SPDX-License-Identifier: Apache-2.0
"""What a gate asks, sees and decides; no HTTP in here."""
