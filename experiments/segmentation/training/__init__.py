"""One training run: its settings, its steps, what it saves."""
