"""The thirty statements of the documents: what each says, how it is measured, its verdict."""

from bnrepro.claims.claim import DOCUMENTS, Claim, Measurement, Quote
from bnrepro.claims.definitions import DEFINITIONS
from bnrepro.claims.failures import FAILURES
from bnrepro.claims.ledger import (
    LEDGER,
    Evidence,
    Registered,
    caption,
    claims_table,
    combined,
    cost,
    make_ledger,
    read_ledger,
    reading,
)
from bnrepro.claims.registration import fingerprint
from bnrepro.claims.training import TRAINING

CLAIMS = {claim.id: claim for claim in (*DEFINITIONS, *TRAINING, *FAILURES)}

__all__ = [
    "CLAIMS",
    "DOCUMENTS",
    "LEDGER",
    "Claim",
    "Evidence",
    "Measurement",
    "Quote",
    "Registered",
    "caption",
    "claims_table",
    "combined",
    "cost",
    "fingerprint",
    "make_ledger",
    "read_ledger",
    "reading",
]
