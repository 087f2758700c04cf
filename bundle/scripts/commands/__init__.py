"""The commands behind ``python -m scripts``, one module each."""
