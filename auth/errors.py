"""What accounts and keys refuse. No message carries a key; the store's failures pass as `storage.errors.StoreError`."""

from __future__ import annotations


class AuthError(Exception):
    """A request about accounts or keys that cannot be granted; the message names the field and the way out."""


class InvalidAccount(AuthError):
    """A field of a user, an organisation or a key was refused."""


class EmailTaken(AuthError):
    """Another user has this e-mail address."""


class KeyMissing(AuthError):
    """The organisation has no such key; a stranger's key gets the same answer."""


class KeyFileError(AuthError):
    """The local key could not be written to its file."""
