"""What a run is made of: the stages in their order. Light, for the command line names them before anything else is loaded."""

__all__ = ["STAGES"]

STAGES = ("calibrate", "distill", "diagnose", "evaluate", "report")
