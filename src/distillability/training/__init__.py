"""The only folder that imports TRL and transformers' Trainer."""

import os
import warnings

# TRL sends telemetry whenever a trainer is built, unless this is set before it is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# TRL 1.16 reads a property that transformers has renamed; nobody who runs a recipe can act on that.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
