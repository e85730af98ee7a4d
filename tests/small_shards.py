"""A small set of colour images in shards, as TFDS prepares it."""

import io
import json

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

CLASSES, TRAIN, TEST = 3, 24, 6


def encoded(pixels, form="JPEG"):
    """The file of an image, or of an array of its pixels."""
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, format=form)
    return file.getvalue()


def record(image, label):
    """An example, as TFDS writes it."""
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(image)
    example.features.feature["label"].int64_list.value.append(label)
    example.features.feature["file_name"].bytes_list.value.append(b"x.jpg")
    return example.SerializeToString()


def write_shard(path, examples):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for image, label in examples:
        writer.write(record(image, label))
    writer.close()


def write_set(data_dir, full_name="squares/1.0.0", sizes=((16, 16),), damaged=()):
    """A set of three labels in turn, each split in two shards; images of one size or of several."""
    folder, (name, *config, version) = data_dir / full_name, full_name.split("/")
    folder.mkdir(parents=True)
    shape = (*sizes[0], 3) if len(sizes) == 1 else (None, None, 3)
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape, encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
            "file_name": tfds.features.Text(),
        }
    )
    features.save_config(folder)
    counts = {"train": TRAIN, "validation": TEST}
    for i, (split, count) in enumerate(counts.items()):
        rng = np.random.default_rng(i)
        examples = [
            (encoded(rng.integers(0, 256, (*sizes[n % len(sizes)], 3), np.uint8)), n % CLASSES)
            for n in range(count)
        ]
        for n in damaged if split == "train" else ():
            examples[n] = b"no image", n % CLASSES
        for k, part in enumerate((examples[: count // 2], examples[count // 2 :])):
            write_shard(folder / f"{name}-{split}.array_record-0000{k}-of-00002", part)
    info = {
        "name": name,
        "configName": "/".join(config),
        "version": version,
        "fileFormat": "array_record",
        "moduleName": "__main__",
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": "1000",
                "shardLengths": [str(count // 2)] * 2,
            }
            for split, count in counts.items()
        ],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder
