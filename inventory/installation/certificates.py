"""TLS for one agent: a key and a certificate of its own. The key is written to the server and kept nowhere else."""

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = timedelta(days=3650)  # it is pinned, not vouched for: its end is no safeguard, only a thing that can break
RENEW_BEFORE = timedelta(days=60)


@dataclass(frozen=True)
class Identity:
    certificate: str
    key: str = field(repr=False)


def make_identity(host: str) -> Identity:
    """A new self-signed certificate for ``host``, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "infini-agent")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # the server's clock may be behind
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_alternative(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return Identity(
        certificate.public_bytes(pem).decode(), key.private_bytes(pem, form, serialization.NoEncryption()).decode()
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode())


def is_usable(pem: str) -> bool:
    """Whether a certificate found on a server may stay: one we can read that does not end soon."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        return False
    return certificate.not_valid_after_utc > datetime.now(UTC) + RENEW_BEFORE
