"""The exceptions whose message is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user can mend: one line that names the thing, the place and the cure."""


class NotFinite(UserError):
    """NaN or infinity where there was to be a picture or a figure."""
