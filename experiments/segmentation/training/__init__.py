"""One training run: its settings, its steps, and what it saves."""
