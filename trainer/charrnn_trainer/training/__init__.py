"""Training: resolving settings, the loop, its steps, its clock and its reports."""
