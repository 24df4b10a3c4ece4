"""Cryptography at rest and in identities: key files, passphrases, envelopes, certificates."""
