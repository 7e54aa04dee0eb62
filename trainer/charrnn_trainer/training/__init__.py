"""Training: settings made whole, the loop, its steps, its clock and its reports."""
