# SPDX-License-Identifier: Apache-2.0
"""Who waits, in the triggerer."""
