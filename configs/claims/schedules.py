"""How slowly the limits of Batch Renorm grow: C9.

    python -m scripts.claims --only=C9

Microbatches of 4, as in [BRN] 4.2. "none" has the full limits from the first step, "short" a tenth
of the paper's ramp, "paper" its ramp as the same shares of the run.
"""

from ml_collections import ConfigDict

from configs import small_batch
from configs.claims.common import names, set_variants, shared


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = small_batch.get_config()
    shared(config, length, steps=(6_000, 1_020), evaluations=60)
    config.microbatch_size = 4
    variants = {}
    for name, share in (("paper", 1), ("short", 0.1), ("none", 0)):
        variants[name] = names("batch_renorm")
        variants[name]["normalizer"] |= {
            key: share * config.normalizer[key] for key in ("warmup", "r_max_end", "d_max_end")
        }
    set_variants(config, variants)
    return config
