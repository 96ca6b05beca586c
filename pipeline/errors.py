"""The one kind of error whose text is meant for the person at the terminal."""


class UserError(Exception):
    """What can't be done, in one line that names the file or the parameter at fault.

    Stages print the line on stderr and exit with 1 (`ParameterError`: with 2); any other exception is a
    defect of ours and keeps its traceback.
    """

    exit_code = 1


class ParameterError(UserError):
    """A value in params.yaml, an environment variable or on the command line that can't be right."""

    exit_code = 2


def lacks_memory(error: BaseException) -> bool:
    """Whether an allocation failed, of Python's, numpy's or torch's, on a CPU or a GPU.

    torch raises a kind of its own for a GPU alone; on a CPU the words of its allocator must do.
    """
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
