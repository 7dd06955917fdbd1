"""Photographs of two kinds and a run that was trained on them, by the names that the docs use."""

import pytest


@pytest.fixture(scope="session")
def photos_world(tmp_path_factory):
    """A folder with photos/, labelled/, dog.jpg and runs/photos; it is not to be changed."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    import ibot

    folder = tmp_path_factory.mktemp("photos_world")
    for name in ("china", "flower"):
        picture = Image.fromarray(load_sample_image(f"{name}.jpg"))
        for number in range(18):
            left, top = 90 * (number % 6), 120 * (number // 6)
            part = picture.crop((left, top, left + 110, top + 90))
            places = [f"photos/{name}", f"labelled/{'train' if number < 12 else 'val'}/{name}"]
            for place in places:
                (folder / place).mkdir(parents=True, exist_ok=True)
                part.save(folder / place / f"{number}.jpg", quality=90)
    picture.crop((200, 100, 320, 220)).save(folder / "dog.jpg")
    settings = (
        "model.width=24 model.depth=2 model.heads=2 model.patch=8 head.out_dim=32 "
        "head.patch_out_dim=32 head.hidden_dim=32 head.bottleneck_dim=16 train.batch=8 "
        "train.max_steps=2 augment.num_local=1 system.device=cpu system.workers=0 "
        "train.precision=float32 log.tensorboard=false evaluate.max_train=8 evaluate.max_val=4"
    )
    config = ibot.apply(
        ibot.recipe("tiny32"), [f"data.path={folder / 'photos'}", *settings.split()]
    )
    ibot.train(config, folder / "runs" / "photos", quiet=True)
    return folder
