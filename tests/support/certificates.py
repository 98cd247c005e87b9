"""Certificates of an authority that a test makes, and the files that a service reads them from."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM


class Pair(NamedTuple):
    """Certificate and key in PEM."""

    cert: bytes
    key: bytes

    def write(self, folder: Path) -> list[str]:
        """Writes both files, the key for this user alone; returns the flags of `serve` that name them."""
        cert, key = folder / "tls.crt", folder / "tls.key"
        for path, content in ((cert, self.cert), (key, self.key)):
            new = path.with_suffix(".new")
            new.write_bytes(content)
            new.chmod(0o600)
            os.replace(new, path)
        return ["--tls-cert", str(cert), "--tls-key", str(key)]


class Authority:
    """Certificate authority that makes certificates for this machine."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        builder = _builder(self._name, self._key, DAY).issuer_name(self._name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._cert = builder.sign(self._key, hashes.SHA256())
        self._made = 0

    @property
    def pem(self) -> bytes:
        return self._cert.public_bytes(PEM)

    def trusting(self) -> ssl.SSLContext:
        """Context of a client that trusts this authority."""
        return ssl.create_default_context(cadata=self.pem.decode())

    def make(
        self, *, life: datetime.timedelta = DAY, passphrase: bytes | None = None, for_servers: bool = True
    ) -> Pair:
        """Makes a certificate for localhost; one with a negative `life` has expired."""
        self._made += 1
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"service {self._made}")])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        use = ExtendedKeyUsageOID.SERVER_AUTH if for_servers else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = _builder(name, key, life).issuer_name(self._name)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        secret = (
            serialization.NoEncryption()
            if passphrase is None
            else serialization.BestAvailableEncryption(passphrase)
        )
        return Pair(
            builder.sign(self._key, hashes.SHA256()).public_bytes(PEM),
            key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, secret),
        )


def _builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, life: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 30 * DAY)
        .not_valid_after(now + life)
    )
