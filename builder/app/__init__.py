"""The layer between the verbs of the CLI and the adapters: context, session and lanes."""
