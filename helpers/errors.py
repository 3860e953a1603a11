"""The one exception whose message is written for the person at the keyboard."""


class UserError(Exception):
    """A problem its reader can solve: the message names the thing, the place and the remedy."""
