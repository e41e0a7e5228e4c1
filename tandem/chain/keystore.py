"""Encrypted key files (Ethereum keystore, version 3). Passwords come from files, never from flags."""

import json
from pathlib import Path

from eth_account import Account

from tandem.folder import write_secret
from tandem.protocol.errors import ConfigurationError
from tandem.protocol.signing import Address, SigningKey


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
    """Decrypt a key. Raises `ConfigurationError` if a file is missing or the password does not open it."""
    password = _password(password_file)
    try:
        return SigningKey.from_bytes(bytes(Account.decrypt(_read(path, "a keystore"), password)))
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise ConfigurationError(
            f"expected {password_file} to open the keystore {path}: {error}; check that the two belong together"
        ) from error


def _password(path: Path) -> str:
    password = _read(path, "a password").partition("\n")[0].rstrip("\r")
    if not password:
        raise ConfigurationError(f"expected a password in the first line of {path}, found none: write one there")
    return password


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"expected {what} in {path}: {error}; create it first") from error
