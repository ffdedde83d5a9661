"""Pattern and placement to Schedule, with its certificate."""
