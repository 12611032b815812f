"""One exception per kind of error, named for what the caller can do about it."""

from __future__ import annotations

import grpc


class AsofError(Exception):
    """Any error of this package; the message says what, where, and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidError(AsofError, ValueError):
    """Fix the call or the definition."""


class NotFoundError(AsofError, LookupError):
    """Name something that exists; the message names the nearest."""


class PreconditionError(AsofError):
    """Do something else first: apply, materialize, configure."""


class UnauthenticatedError(AsofError):
    """Send a token: ``Client(address, token=...)``."""


class DeniedError(AsofError, PermissionError):
    """Ask for the role."""


class ExhaustedError(AsofError):
    """Ask for less, or later."""


class ConflictError(AsofError):
    """Somebody else was faster: read again and retry."""


class UnavailableError(AsofError, ConnectionError):
    """Retry later: the server is not there, is busy, or took longer than the deadline."""


class CorruptError(AsofError):
    """Repair the data."""


class InternalError(AsofError):
    """Report a bug."""


_BY_CODE: dict[grpc.StatusCode, type[AsofError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: DeniedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExhaustedError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.DATA_LOSS: CorruptError,
}


_BY_KIND: dict[str, type[AsofError]] = {
    "invalid": InvalidError,
    "not_found": NotFoundError,
    "precondition": PreconditionError,
    "unauthenticated": UnauthenticatedError,
    "denied": DeniedError,
    "exhausted": ExhaustedError,
    "conflict": ConflictError,
    "unavailable": UnavailableError,
    "corrupt": CorruptError,
}


def from_kind(kind: str, message: str) -> AsofError:
    """The exception that stands for an error of a command."""
    return _BY_KIND.get(kind, InternalError)(message)


def kind_of(error: Exception) -> str:
    """The kind by which commands tell of an error."""
    return next((kind for kind, exception in _BY_KIND.items() if isinstance(error, exception)), "internal")


def from_rpc_error(error: grpc.RpcError, address: str) -> AsofError:
    """The exception that stands for a failed call; codes that no kind has are bugs."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"{address} did not answer within the deadline; retry later, or with a longer `timeout`"
    elif code is grpc.StatusCode.UNAVAILABLE:
        details = f"{address} is not available: {details or 'no reason given'}"
    return _BY_CODE.get(code, InternalError)(details or f"the call failed with {code.name}")
