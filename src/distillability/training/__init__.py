"""The only folder that imports TRL and transformers' Trainer."""

import os

# TRL sends telemetry whenever a trainer is built, unless this is set before it is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
