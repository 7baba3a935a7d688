"""The one error a training program shows as a sentence instead of a traceback."""


class TrainingError(Exception):
    """Something the person who started the training can put right; the text says how."""
