# SPDX-License-Identifier: Apache-2.0
"""One poll for all gates of an account; no HTTP in here."""
