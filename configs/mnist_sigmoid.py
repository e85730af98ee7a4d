r"""The MNIST experiment of [BN] (arXiv:1502.03167, section 4.1), with Batch Renorm beside.

    python -m experiments.mnist_sigmoid --config=configs/mnist_sigmoid.py \
        --workdir=runs/mnist_sigmoid

Three seeds take three minutes on two cores. Ten gave 97.46% without normalization, 97.72% with
Batch Norm and 97.63% with Batch Renorm: results/mnist_sigmoid.
"""

from ml_collections import ConfigDict


def get_config(length: str = "full") -> ConfigDict:
    """The comparison; --config.KEY=VALUE changes any of these keys.

    --config=configs/mnist_sigmoid.py:preview has fewer steps.
    """
    if length not in ("full", "preview"):
        raise ValueError(f"after the colon, a config takes full or preview, got {length!r}")
    config = ConfigDict()
    config.preview = length == "preview"  # mark tables and figures as a preview

    # Data: a TFDS name, and the only folder to look into ("" for TFDS_DATA_DIR and TFDS's own).
    config.dataset = "mnist"
    config.data_dir = ""
    config.stream = False  # read minibatches from disk instead of keeping all on the device
    config.data_workers = 0  # threads that read a stream, if one alone is too slow
    config.image_size = 0  # average images down to this height and width; 0: as stored
    config.augment = "none"  # or crop; inception, for a stream
    config.random_flip = False  # mirror half of the training images
    config.digits = 1  # images side by side in a picture, which then has 10 ** digits labels
    config.binary_input = True  # pixels above 127 are 1, others 0

    # Runs: this many seeds, counted from first_seed.
    config.seeds = 5
    config.first_seed = 0
    config.steps = 3_000 if config.preview else 50_000
    config.batch_size = 60  # examples the gradient is over
    config.microbatch_size = 60  # examples normalized together
    config.accumulation_steps = 1  # parts that a gradient is computed in, to save memory
    config.eval_every = 250 if config.preview else 500
    config.ema_decay = 0.0  # averages of all parameters to evaluate with; 0 for none

    # Checkpoints to resume from: after every so many evaluations (0: only when interrupted, and at
    # the end), and how many to keep besides the most accurate (on a holdout, if there is one).
    config.checkpoint = ConfigDict()
    config.checkpoint.every = 10
    config.checkpoint.keep = 2

    # Where to train, which changes results only by rounding: jit (a mesh of devices), pmap or
    # single. Devices along the seeds and along the batch; 0 lets the code choose.
    config.devices = ConfigDict()
    config.devices.strategy = "jit"
    config.devices.seeds = 0
    config.devices.data = 0
    # Spread each microbatch over devices, which share statistics, instead of whole microbatches.
    config.devices.synchronized = False

    config.model = ConfigDict()
    config.model.name = "mlp"  # or cnn, inception, resnet
    config.model.hidden = (100, 100, 100)  # of an mlp
    config.model.channels = (16, 32, 32, 32)  # of a cnn
    config.model.width = 1.0  # multiplier of the channels of inception or a resnet
    config.model.stem_stride = 0  # of these two; 0 is the paper's, smaller ones for small images
    config.model.auxiliary = False  # the auxiliary head of inception
    config.model.remat = False  # recompute their activations in the backward pass, to save memory
    config.model.zero_last_scale = False  # start with 0 as the last scale of a resnet's blocks
    config.model.activation = "sigmoid"  # or identity, relu, tanh, tlu
    # The paper says "small random Gaussian" and gives no learning rate. With these the plain
    # network ends as high as with any: configs/mnist_sigmoid_rates.py.
    config.model.init = "normal"  # or lecun_normal, of variance 1 / inputs
    config.model.init_std = 0.1
    config.model.dropout = 0.0  # rate, of the hidden units of an mlp, of the features of others
    config.model.norm_placement = "before"  # the nonlinearity, or after, both
    config.model.kernel = "plain"  # or centred, standardized, of the hidden layers
    config.model.dtype = "float32"  # or bfloat16, of activations

    config.optimizer = ConfigDict()
    config.optimizer.name = "sgd"  # or rmsprop; adam, which takes no momentum
    config.optimizer.learning_rate = 3.0
    config.optimizer.momentum = 0.0
    config.optimizer.weight_decay = 0.0  # of weight_decay / 2 * |kernels|^2, an L2 penalty
    config.optimizer.schedule = "constant"  # or cosine, exponential, step
    config.optimizer.warmup = 0.0  # share of the run in which the rate rises from 0
    config.optimizer.decay_rate = 0.94  # of exponential and step: factor ...
    config.optimizer.decay_every = 0.1  # ... each such share of the run
    config.optimizer.rms_decay = 0.9  # of rmsprop
    config.optimizer.epsilon = 1e-8  # of rmsprop and adam
    config.optimizer.clip_norm = 0.0  # largest norm of the gradient; 0 for any

    config.sampler = ConfigDict()
    config.sampler.name = "epochs"  # or with_replacement, labels
    # Of sampler labels: labels x images of each; labels drawn with replacement or not.
    # A larger batch consists of several such minibatches.
    config.sampler.labels_per_batch = 2
    config.sampler.examples_per_label = 30
    config.sampler.repeat_labels = False

    # Besides the test set: so many training images, also with moving averages, and so many
    # minibatches of test images, drawn like those of training, with their own statistics.
    config.evaluation = ConfigDict()
    config.evaluation.train_examples = 0
    config.evaluation.minibatches = 0
    config.evaluation.labels_per_batch = 0  # of those, with sampler labels; 0: as in training
    config.evaluation.holdout = 0  # last training images, to choose by instead of the test set
    # What else to measure (bnrepro/training/measures.py); in training, every so many steps.
    config.measures = ("sigmoid_input",)
    config.measure_every = 10

    config.normalizer = ConfigDict()
    # Or batch_norm, batch_renorm, group_norm, layer_norm; filter_response_norm (activation tlu),
    # evonorm_s0 (identity), moving_average_batch_norm (kernel centred); batch_norm_stop_gradient
    # and moving_average_norm do what the papers warn against.
    config.normalizer.name = "none"
    config.normalizer.momentum = 0.99
    config.normalizer.epsilon = 1e-5
    config.normalizer.use_scale = True  # learn gamma
    # Batch Renorm: the paper's limits and ramp, as shares of the run.
    config.normalizer.r_max = 3.0
    config.normalizer.d_max = 5.0
    config.normalizer.warmup = 5 / 130
    config.normalizer.r_max_end = 40 / 130
    config.normalizer.d_max_end = 25 / 130
    config.normalizer.num_groups = 10  # of group_norm and evonorm_s0
    config.normalizer.window = 16  # steps that moving_average_batch_norm averages over

    # What is compared: overrides of the keys above. Differences are taken to the baseline.
    config.variants = {
        "plain": {"normalizer": {"name": "none"}},
        "batch_norm": {"normalizer": {"name": "batch_norm"}},
        "batch_renorm": {"normalizer": {"name": "batch_renorm"}},
    }
    config.baseline = "plain"
    return config
