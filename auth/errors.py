"""What accounts and keys refuse. No message carries a key; the store's failures pass as `storage.errors.StoreError`.

Four kinds tell the edge how to answer: what was asked wrongly (`AuthError` itself), is not there (`Missing`), is not
allowed (`Denied`), or stands against what is there already (`Conflict`).
"""

from __future__ import annotations


class AuthError(Exception):
    """A request about accounts or keys that cannot be granted; the message names the field and the way out."""


class Missing(AuthError):
    """What the request is about does not exist, or is somebody else's: the answer is the same."""


class Denied(AuthError):
    """The caller may not do that."""


class Conflict(AuthError):
    """It cannot be done as things stand."""


class InvalidAccount(AuthError):
    """A field of a user, an organisation or a key was refused."""


class EmailTaken(Conflict):
    """Another user has this e-mail address."""


class LastOwner(Conflict):
    """An organisation keeps at least one owner."""


class OrganisationFull(Conflict):
    """An organisation has as many members as it may have."""


class KeyMissing(Missing):
    """The organisation has no such key; a stranger's key gets the same answer."""


class MemberMissing(Missing):
    """The organisation has no such member, or nobody is registered under the address."""


class InvitationMissing(Missing):
    """There is no such invitation."""


class RegistrationRefused(Denied):
    """This server registers nobody, or only with an invitation that is good."""


class TooManyScopes(Denied):
    """A credential cannot make a key that is good for more than itself."""


class KeyFileError(AuthError):
    """The local key could not be written to its file."""
