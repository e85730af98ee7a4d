"""What do minibatches of few labels do? Section 4.3 of [BRN] (arXiv:1702.03275), on MNIST.

    python -m experiments.non_iid --config=configs/non_iid.py --workdir=runs/non_iid

A name gives labels x images of each, the normalizer and, with "halves", that each half of the
minibatch is normalized by itself. The paper's 16 x 2 and the review's 18 x 2 draw labels with
replacement; MNIST has only ten, so 2 x 32 and 1 x 64 are the ones that show the effect.

Ten seeds (--config.seeds=10) gave 53.19% with Batch Norm and 96.38% with Batch Renorm on 2 x 32,
and 15.36% and 52.82% on 1 x 64: results/non_iid.
"""

from ml_collections import ConfigDict

from configs import small_batch


def get_config(length: str = "full") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    # Network, optimizer, length and seeds are those of the small-batch comparison.
    config = small_batch.get_config(length)
    config.evaluation.train_examples = 10_000
    config.evaluation.minibatches = 100

    variants = {
        "iid batch_norm": {"normalizer": {"name": "batch_norm"}},
        "iid batch_renorm": {"normalizer": {"name": "batch_renorm"}},
        **_by_label(16, 2, repeat_labels=True),
        **_by_label(18, 2, repeat_labels=True),
        **_by_label(2, 32),
        **_by_label(1, 64),
        # Batch Renorm with larger minibatches, the review's last claim.
        "2x64 batch_renorm": _labels("batch_renorm", 2, 64, 128),
        "2x128 batch_renorm": _labels("batch_renorm", 2, 128, 256),
    }
    if config.preview:
        shown = ("iid", "2x32")
        variants = {name: v for name, v in variants.items() if name.startswith(shown)}
    config.variants = variants
    config.baseline = "2x32 batch_norm"
    return config


def _by_label(labels: int, images: int, repeat_labels: bool = False) -> dict[str, dict]:
    """Batch Norm, Batch Norm on half-minibatches, and Batch Renorm."""
    size = labels * images
    return {
        f"{labels}x{images} {title}": _labels(name, labels, images, microbatch, repeat_labels)
        for title, name, microbatch in (
            ("batch_norm", "batch_norm", size),
            ("batch_norm halves", "batch_norm", size // 2),
            ("batch_renorm", "batch_renorm", size),
        )
    }


def _labels(
    name: str, labels: int, images: int, microbatch_size: int, repeat_labels: bool = False
) -> dict:
    return {
        "normalizer": {"name": name},
        "batch_size": labels * images,
        "microbatch_size": microbatch_size,
        "sampler": few_labels(labels, images, repeat_labels),
    }


def few_labels(labels: int, images: int, repeat_labels: bool = True) -> dict:
    """The sampler of minibatches of so many labels x images."""
    return {
        "name": "labels",
        "labels_per_batch": labels,
        "examples_per_label": images,
        "repeat_labels": repeat_labels,
    }
