"""What goes wrong, by class: the codes of the native part one to one, each also the built-in exception that callers
expect. `path` names the file, module or argument concerned, or is empty."""


class KtError(Exception):
    """Base of every error of ktransformers."""
    code = "internal"

    def __init__(self, message: str, path: str = ""):
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class UsageError(KtError, ValueError):
    """An argument or a request is wrong."""
    code = "usage"


class NotFoundError(KtError, FileNotFoundError):
    """A file, model, tensor or name does not exist."""
    code = "not_found"


class BadFileError(KtError, ValueError):
    """A file is truncated, corrupt or lies about its contents; a rule file does not say what it should."""
    code = "bad_file"


class UnsupportedError(KtError, NotImplementedError):
    """Well-formed, but an architecture, format or mode that this build does not have."""
    code = "unsupported"


class MismatchError(KtError, ValueError):
    """Weights, configuration and tokenizer do not belong together."""
    code = "mismatch"


class NoMemoryError(KtError, MemoryError):
    """It does not fit."""
    code = "no_memory"


class TooLongError(KtError, ValueError):
    """The prompt or request exceeds the context."""
    code = "too_long"


class IoError(KtError, OSError):
    """The operating system refused a read or write."""
    code = "io"


class CancelledError(KtError):
    """The user or a deadline stopped it."""
    code = "cancelled"


class InternalError(KtError, RuntimeError):
    """A bug in ktransformers."""
    code = "internal"


_CLASSES = {c.code: c for c in (UsageError, NotFoundError, BadFileError, UnsupportedError, MismatchError,
                                NoMemoryError, TooLongError, IoError, CancelledError, InternalError)}


def make(code: str, message: str, path: str) -> KtError:
    """The exception of a native error, whose message begins with its path."""
    return _CLASSES[code](message.removeprefix(path + ": "), path)
