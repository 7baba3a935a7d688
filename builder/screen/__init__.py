"""What people see of a run: terminal, files and report, read from events and nouns; nothing here decides."""
