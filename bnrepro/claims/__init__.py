"""The thirty statements of the documents: what each says, how it is measured, its verdict."""

from bnrepro.claims.definitions import DEFINITIONS
from bnrepro.claims.failures import FAILURES
from bnrepro.claims.training import TRAINING

CLAIMS = {claim.id: claim for claim in (*DEFINITIONS, *TRAINING, *FAILURES)}
