"""Errors of accounts and keys. No message contains a key; failures of the store propagate as `StoreError`.

Four kinds tell the edge how to answer: the request is invalid (`AuthError` itself), its object does not exist
(`Missing`), it is not allowed (`Denied`), or it conflicts with the current state (`Conflict`).
"""

from __future__ import annotations


class AuthError(Exception):
    """A refused request about accounts or keys; the message names the field and the way out.

    Attributes:
        details: What the message leaves out because clients compare it; usually empty.
    """

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class Missing(AuthError):
    """The object of the request does not exist or belongs to somebody else; the answer is the same for both."""


class Denied(AuthError):
    """The caller is not allowed to do that."""


class Conflict(AuthError):
    """The request conflicts with the current state."""


class InvalidAccount(AuthError):
    """A field of a user, an organisation or a key is invalid."""


class EmailTaken(Conflict):
    """Another user has this e-mail address."""


class LastOwner(Conflict):
    """An organisation must keep at least one owner."""


class OrganisationFull(Conflict):
    """An organisation has as many members as it may have."""


class TooManyTickets(AuthError):
    """A caller has as many unused tickets as one may have."""


class KeyMissing(Missing):
    """The organisation has no such key; a key of another organisation gets the same answer."""


class MemberMissing(Missing):
    """The organisation has no such member, or no user has the e-mail address."""


class InvitationMissing(Missing):
    """The invitation does not exist."""


class RegistrationRefused(Denied):
    """Registration is closed on this server, or requires a valid invitation."""


class TooManyScopes(Denied):
    """A credential cannot create a key with more scopes than it has itself."""


class KeyFileError(AuthError):
    """The file of the local key cannot be read or written."""
