"""laguna-agent: a coding agent for open mixture-of-experts models.

This module is imported by `--version`; it must import nothing.
"""

__version__ = "0.1.0"
