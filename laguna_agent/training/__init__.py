"""The training stack: optimizer, expert balance, data, trainer. Needs the extra `train`.

Stands on the model that the engine serves (`backend/laguna`); must not know sessions, tools or faces.
"""
