"""The one exception whose message is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user can mend: one line that names the thing, the place and the cure."""
