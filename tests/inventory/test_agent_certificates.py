"""The certificate of an agent: for each kind of address, its key only where it belongs, renewed in time."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from inventory.installation import certificates
from inventory.installation.certificates import is_usable, make_identity


@pytest.mark.parametrize("host", ["10.0.0.7", "fd00::7", "gpu-07.example.org", "rechner_1"])
def test_a_certificate_for_each_kind_of_address(host: str) -> None:
    made = make_identity(host)
    certificate = x509.load_pem_x509_certificate(made.certificate.encode())
    key = load_pem_private_key(made.key.encode(), None)
    assert key.public_key() == certificate.public_key() and is_usable(made.certificate)
    [name] = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert str(name.value) == host
    assert made.key not in repr(made) and "PRIVATE" not in repr(made)


def test_one_that_ends_soon_or_is_none_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "LIFETIME", timedelta(days=59))
    assert not is_usable(make_identity("10.0.0.7").certificate)
    assert not is_usable("") and not is_usable("-----BEGIN CERTIFICATE-----\nnonsense")
