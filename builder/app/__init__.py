"""The layer between CLI verbs and adapters: context, session, and lanes (one per kind of target)."""
