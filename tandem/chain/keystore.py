"""Encrypted key files (Ethereum keystore, version 3). Passwords come from files, never from flags."""

import binascii
import json
from pathlib import Path
from typing import Any

from eth_account import Account

from tandem.folder import write_secret
from tandem.protocol.errors import ConfigurationError
from tandem.protocol.signing import Address, SigningKey

_VERSION = 3


def create_keystore(path: Path, password_file: Path, *, work_factor: int | None = None) -> Address:
    """Write a new key, readable by its owner alone; an existing file is never overwritten.

    `work_factor` is scrypt's n, a power of two; the default takes about a second. Raises `ConfigurationError`.
    """
    key = SigningKey.generate()
    encrypted = Account.encrypt(key.secret, _password(password_file), iterations=work_factor)
    try:
        write_secret(path, json.dumps(encrypted).encode())
    except OSError as error:
        raise ConfigurationError(
            f"expected to create a keystore at {path}: {error.strerror}; choose another path"
        ) from error
    return key.address


def load_keystore(path: Path, password_file: Path) -> SigningKey:
    """Decrypt a key. Raises `ConfigurationError` if a file is missing or no keystore, or the password is wrong."""
    password, keystore = _password(password_file), _keystore(path)
    try:
        return SigningKey.from_bytes(bytes(Account.decrypt(keystore, password)))
    except (binascii.Error, LookupError, TypeError, AttributeError, NotImplementedError) as error:
        raise _no_keystore(path) from error
    except ValueError as error:
        raise ConfigurationError(
            f"expected the password file {password_file} to open the keystore {path}: {error}; check that the two "
            "belong together"
        ) from error


def _keystore(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path, "a keystore"))
    except (ValueError, RecursionError) as error:
        raise _no_keystore(path) from error
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        raise _no_keystore(path)
    return found


def _no_keystore(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"expected a keystore in {path}, an encrypted key of version {_VERSION}, found something else: name another "
        "file, or make one with `tandem chain keystore create`"
    )


def _password(path: Path) -> str:
    password = _read(path, "a password").partition("\n")[0].rstrip("\r")
    if not password:
        raise ConfigurationError(f"expected a password in the first line of {path}, found none: write one there")
    return password


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"expected {what} in {path}: {why}; create it first") from error
