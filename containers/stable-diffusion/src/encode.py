"""Encode images to latents with the autoencoder of a model: one .npz file per class, for train.py --data.

DATA/CLASS/*.jpg or *.png become OUTPUT/CLASS.npz; classes are numbered in the order of their names.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

IMAGES = (".jpg", ".jpeg", ".png", ".webp")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="encode.py", description=__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder with one folder of images per class")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder of the .npz files")
    parser.add_argument(
        "--vae", required=True, metavar="NAME", help="folder of an autoencoder, or its name on the hub"
    )
    parser.add_argument(
        "--size", type=int, default=256, metavar="N", help="width and height of images (default: 256)"
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="images at once (default: 16)"
    )
    return parser.parse_args(argv)


def classes_of(data: Path) -> list[tuple[Path, list[Path]]]:
    """Return the class folders with their images; exit with a message if there is none."""
    folders = sorted(path for path in data.iterdir() if path.is_dir()) if data.is_dir() else []
    found = [
        (folder, sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES))
        for folder in folders
    ]
    if not any(images for _, images in found):
        sys.exit(f"error: {data}: no folder with images ({', '.join(IMAGES)})")
    return found


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    found = classes_of(options.data)
    # Imported late, so that --help and a wrong folder need no PyTorch.
    import numpy as np
    import torch
    from diffusers import AutoencoderKL
    from PIL import Image

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = AutoencoderKL.from_pretrained(options.vae).to(device).eval()
    options.output.mkdir(parents=True, exist_ok=True)

    def read(path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB").resize((options.size, options.size)), np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1

    for number, (folder, images) in enumerate(found):
        latents = []
        for start in range(0, len(images), options.batch_size):
            batch = torch.stack([read(path) for path in images[start : start + options.batch_size]]).to(
                device
            )
            with torch.no_grad():
                drawn = encoder.encode(batch).latent_dist.mode() * encoder.config.scaling_factor
            latents.append(drawn.flatten(1).float().cpu().numpy())
        if latents:
            points = np.concatenate(latents)
            labels = np.full(len(points), number, np.int64)
            np.savez(options.output / f"{folder.name}.npz", points=points, labels=labels)
            print(f"{folder.name}: class {number}, {len(points)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
