"""The one exception that a user is meant to read."""


class UserError(ValueError):
    """A mistake that the user can fix.

    The message names what was found, what was expected and the cure. The command lines in
    ``tools/`` print it without a traceback and exit with code 2. It is built from the message
    alone, because mmengine's registries and torch's data loader workers re-create exceptions so.
    """
