"""Error that training programs show as a message without a traceback."""


class TrainingError(Exception):
    """Error that the user can fix; the message says how."""
