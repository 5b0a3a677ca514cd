"""The interactive face."""
