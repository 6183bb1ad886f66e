"""Lay out Omniglot's small background set as an image folder: writers 1-15 to train on, 16-20 to test on.

    python scripts/prepare_omniglot.py PATH --archive images_background_small1.zip

Makes PATH/train and PATH/test with a folder per character, `Alphabet_characterNN`, to be used as `imagefolder:PATH`.
The archive is published at https://github.com/brendenlake/omniglot (MIT licence; Lake et al., Science 350, 2015).
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path, PurePosixPath

TRAIN_WRITERS = 15
ARCHIVE = Path("images_background_small1.zip")


def prepare(archive: Path, out: Path) -> int:
    """Unpack ``archive`` below ``out`` and return the number of images.

    Raises:
        FileNotFoundError: If there is no such archive.
    """
    count = 0
    with zipfile.ZipFile(archive) as z:
        for member in z.namelist():
            path = PurePosixPath(member)  # .../Alphabet/characterNN/NNNN_WW.png, WW the writer
            if path.suffix != ".png":
                continue
            split = "train" if int(path.stem.split("_")[1]) <= TRAIN_WRITERS else "test"
            target = out / split / f"{path.parent.parent.name}_{path.parent.name}" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(z.read(member))
            count += 1
    return count


def main() -> None:
    """Read the arguments and unpack."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("path", type=Path, help="where train/ and test/ are made")
    p.add_argument("--archive", type=Path, default=ARCHIVE, help=f"the zip file (default: {ARCHIVE})")
    args = p.parse_args()
    if not args.archive.is_file():
        p.error(f"there is no archive {args.archive}; name it with --archive")
    print(f"{prepare(args.archive, args.path)} images -> {args.path}")


if __name__ == "__main__":
    main()
