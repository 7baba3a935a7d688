"""The use cases between CLI verbs and adapters, with one lane (build pipeline) per kind of target."""
