"""What ends a command without a traceback."""


class UserError(Exception):
    """A mistake of the user or a failure of the machine; the message is one sentence."""


class Preempted(BaseException):
    """The process was asked to stop (SIGTERM); like KeyboardInterrupt, not an error."""
