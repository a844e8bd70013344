"""Migrate a Qdrant collection to another embedding model, without downtime and without losing a point."""

import os

__version__ = "0.1.0"

# ONNX Runtime >= 1.32, which importing fastembed loads, else writes a device id under the home directory and reports to
# Microsoft. Read when it is loaded, so it is set before anything else; a person's own setting stands.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
