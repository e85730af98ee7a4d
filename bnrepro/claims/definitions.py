"""Claims A1 to A8: what the layers compute. Nothing is trained."""

from collections.abc import Callable
from functools import partial
from typing import Any

from bnrepro.claims import exact
from bnrepro.claims.claim import Measurement, claim
from bnrepro.report.statistics import Estimate, Rule

_ROUNDING = Rule(high=1e-5)
_WHY_ROUNDING = (
    "float32 near 1 is spaced by 1.2e-7, and outputs are a few units large; a wrong formula, as "
    "the unbiased variance of 32 values, is off by more than 1e-2"
)
_SLOPE = Rule(-0.55, -0.45)
_WHY_SLOPE = "the law is 1/sqrt(m), an exponent of -0.5, within a tenth of it"


def _exact(what: str, error: Callable[[Any], Estimate]) -> Measurement:
    return Measurement(what, _ROUNDING, _WHY_ROUNDING, error)


DEFINITIONS = (
    claim(
        "A1",
        "Training normalizes by the minibatch's own mean and biased variance, then scales and "
        "shifts.",
        """
        D1 [Batch normalization equations] During training, the activations of a layer are
        normalized for each mini-batch of data using the following equations: • Mean: mean = 1/m
        ∑i=1 to m xi • Variance: variance = 1/m ∑i=1 to m (xi – mean)^2 • Normalized activations: yi
        = (xi – mean) / sqrt(variance + ε) • Scaled and shifted activations: zi = γyi + β
        D2 [2.1 Algorithm] For every feature, across every batch the following steps are computed
        D4 [Step 2: Normalize the input] Subtract the mean and divide by the standard deviation of
        the input within the mini-batch.
        """,
        "The formula of D1. D2's last line, y = gamma x + beta, lacks the hat over x.",
        _exact(
            "largest error of the output against float64, in units of gamma",
            exact.normalization_error,
        ),
    ),
    claim(
        "A2",
        "Inference normalizes by population statistics, their variance unbiased by m/(m-1).",
        r"""
        D2 [2.1 Algorithm] The mean of all the $\mu_B$ s accounting to every batch is: $$\mu =
        mean(\mu_{\scriptscriptstyle R})$$ For every activation, the mean of variances across every
        batch B, with size m: $$\sigma = \frac{m}{m-1} mean(\sigma_B^2),$$
        D1 [Batch normalization equations] During inference, the activations of a layer are
        normalized using the mean and variance of the activations calculated during training, rather
        than using the mean and variance of the mini-batch
        """,
        "Statistics over the whole training set as D2 defines them, in whose formula sigma is a "
        "variance; then a fixed affine map.",
        _exact(
            "largest relative error of mean and variance over the training set",
            exact.population_error,
        ),
        _exact("largest error of the output with given statistics", exact.inference_error),
    ),
    claim(
        "A3",
        "With gamma = sigma and beta = mu, the layer is the identity.",
        """
        D0 [3. Addressing the Internal Covariate Shift] To address this, we make sure that the
        transformation inserted in the network can represent the identity transform.
        D3 [Parameters of Batch Normalization] If Gamma is set to σ and Beta to the mean, it’ll
        fully denormalize the activations back to normal.
        """,
        "Output equals input, where sigma includes epsilon.",
        _exact("largest difference of output and input, in deviations", exact.identity_error),
    ),
    claim(
        "A4",
        "After a convolution, each channel has one mean and variance over batch, height and width.",
        """
        D3 [Batch Normalization For Convolutions] As a result, for each of the 64 channels in the
        above example, mean and variance are calculated for the 10x200x200 (400000) values. This
        gives us 64 means and 64 variances to normalize each channel separately.
        """,
        "That very case.",
        Measurement(
            "number of means, and of variances",
            Rule(63.5, 64.5),
            "the document's number, a whole one",
            exact.channel_statistics,
        ),
        _exact(
            "largest error against each channel's 400,000 values, in deviations",
            exact.channel_error,
        ),
    ),
    claim(
        "A5",
        "(x - mu) / sigma = (x - mu_B) / sigma_B * r + d.",
        r"""
        D2 [4.1Batch Re-norm] $$\frac{x_i - \mu}{\sigma} = \frac{x_i - \mu_B}{\sigma_B} * r + d,
        \quad \text{when} \quad r = \frac{\sigma_B}{\sigma},$$ $$d = \frac{\mu_B - \mu}{\sigma}.$$
        """,
        "As long as neither r nor d is clipped.",
        Measurement(
            "largest difference of the two sides",
            Rule(high=1e-4),
            "values are up to 40 deviations from mu, where float32 is spaced by 4e-6",
            exact.correction_error,
        ),
    ),
    claim(
        "A6",
        "Batch Renorm with r_max = 1 and d_max = 0 is Batch Norm.",
        """
        D2 [4.1Batch Re-norm] Hence a modification in the existing batch normalization algorithm, is
        the inclusion of constants r, d
        """,
        "[BRN] section 3 says it; D2 implies it. Outputs and gradients agree.",
        _exact("largest difference of outputs and gradients", exact.renorm_without_limits_error),
    ),
    claim(
        "A7",
        "Small batches estimate the mean and the deviation badly.",
        """
        D2 [III. PROBLEMS WITH NORMALIZATION] Clustering randomly towards a batch sizes of 2, and
        performing mean over the adjacent couples: {3,4,11,6.5,7,9.5}. Consider the case of a batch
        size 6. The means obtained are {6,7.6} The results obtained are closer in range to the
        actual average. The above example suggests that smaller batch sizes performs relatively poor
        in the process of sample mean and variance.
        """,
        "The example's numbers (7.6 is 7.67, and 6.8 is 6.83), and the law behind them on "
        "activations of real images: the spread of both statistics over minibatches falls with "
        "1/sqrt(m).",
        Measurement(
            "largest difference to the example's means",
            Rule(high=0.005),
            "the means are taken to two decimals",
            exact.toy_error,
        ),
        Measurement(
            "distance to the mean, pairs less sixes",
            Rule(low=0),
            "sixes are closer if it is positive",
            exact.toy_advantage,
        ),
        Measurement(
            "exponent of m in the spread of mu_B, sizes 8 to 512",
            _SLOPE,
            _WHY_SLOPE,
            partial(exact.spread_exponent, statistic="mean"),
        ),
        Measurement(
            "exponent of m in the spread of sigma_B, sizes 8 to 512",
            _SLOPE,
            _WHY_SLOPE,
            partial(exact.spread_exponent, statistic="std"),
        ),
    ),
    claim(
        "A8",
        "With Batch Renorm, the training activations are those of the inference model.",
        """
        D2 [4.1Batch Re-norm] Thus, the activations now seem similar to the ones generated by
        inference, and hence can account for smaller batch sizes.
        """,
        "The two are equal as long as nothing is clipped; with Batch Norm they are not.",
        Measurement(
            "largest difference of training and inference, Batch Renorm",
            Rule(high=1e-4),
            "activations are up to ten deviations large, where float32 is spaced by 1e-6",
            partial(exact.training_inference_gap, name="batch_renorm"),
        ),
        Measurement(
            "largest difference of training and inference, Batch Norm",
            Rule(low=0.1),
            "a tenth of a deviation, far beyond rounding",
            partial(exact.training_inference_gap, name="batch_norm"),
        ),
    ),
)
