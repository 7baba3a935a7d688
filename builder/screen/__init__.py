"""Show a run on the terminal, in log files and in the HTML report, from its events and results."""
