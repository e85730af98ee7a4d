"""Prepares a data set ahead of time, for example `python -m scripts.prepare_data mnist`.

MNIST, tiny_imagenet/100 and tiny_imagenet/200 need only a network connection. Any other set is
prepared by TFDS's own code for it, which may need TensorFlow.
"""

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from bnrepro.errors import UserError, exit_codes, first_line
from scripts import make_parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepares the set that the command line names and prints its folder.

    Raises:
      SystemExit: with code 2, after one sentence on stderr, if the set cannot be prepared.
    """
    parser = make_parser("prepare_data", __doc__)
    parser.add_argument("name", help="name[/config][:version], as TFDS writes it")
    parser.add_argument(
        "--data_dir", help="where to put it (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)"
    )
    options = parser.parse_args(arguments)

    import tensorflow_datasets as tfds  # here, so that --help need not wait for it

    from bnrepro.data import datasets, prepare, shards

    # As an exception, it lets what is half prepared be removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with exit_codes():
        try:
            wanted = datasets.parse_name(options.name)
            target = datasets.data_folders(options.data_dir)[0]
            found = datasets.find_prepared(wanted, [target])
            if found:
                folder, _ = found
                shards.open_prepared(*found)
            elif wanted in datasets.MNIST:
                folder = prepare.prepare(prepare.Mnist, target)
            elif wanted.name == prepare.TinyImagenet.name:  # which TFDS does not know
                if wanted.config not in ("100", "200") or wanted.version not in (None, "1.0.0"):
                    raise UserError("choose tiny_imagenet/100 or tiny_imagenet/200")
                folder = prepare.prepare(prepare.TinyImagenet, target, wanted.config)
            else:
                builder = tfds.builder(options.name, data_dir=target)
                try:
                    builder.download_and_prepare(file_format="array_record")
                finally:
                    # TFDS makes these before it looks for archives that it cannot download.
                    for made in ("downloads/extracted", "downloads", builder.name):
                        with suppress(OSError):  # fails, as intended, if it is not empty
                            (target / made).rmdir()
                folder = builder.data_path
        except Exception as error:  # TFDS and each set's own code raise any kind
            raise UserError(f"{options.name} cannot be prepared: {first_line(error)}") from error
    sys.stdout.write(f"{options.name} {'was already' if found else 'is'} prepared in {folder}\n")


if __name__ == "__main__":
    main()
