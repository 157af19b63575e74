"""A small segmentation network of one's own domain: does a generated picture show the layout it was made for?

It learns the classes from a few hundred real pictures and their maps in seconds on one CPU core, and then labels
generated pictures. Its pixel accuracy there, set against its accuracy on unseen real pictures, says how well the
layout is followed.

    picture --unshuffle 4--> 48 channels at 1/4 --U-Net, 4 levels--> class scores at 1/2 --bilinear--> labels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from mamoe.machine.precision import autocast_where_faster
from mamoe.randomness import derive_seed, generator_for, seeded

PATCH = 4  # pixels per side that enter the network as channels
MULTIPLE = PATCH * 8  # the coarsest level is an eighth of the first one
_IGNORED = -100  # cross_entropy's mark for a pixel without a label
_WIDTH = 16


class Segmenter(nn.Module):
    """A U-Net of four levels, about 270 thousand weights.

    Args:
        num_classes: labels are 0 .. num_classes - 1.
        width: channels of the finest level; each coarser one has twice as many, the last one as many as the third.
    """

    def __init__(self, num_classes: int, width: int = _WIDTH) -> None:
        super().__init__()
        w1, w2, w3 = width, 2 * width, 4 * width
        self.down1 = _convolution(3 * PATCH * PATCH, w1)
        self.down2 = nn.Sequential(_convolution(w1, w2, stride=2), _convolution(w2, w2))
        self.down3 = nn.Sequential(_convolution(w2, w3, stride=2), _convolution(w3, w3))
        self.down4 = nn.Sequential(_convolution(w3, w3, stride=2), _convolution(w3, w3))
        self.up3 = _convolution(w3 + w3, w3)
        self.up2 = _convolution(w3 + w2, w2)
        self.up1 = _convolution(w2 + w1, w2)
        self.head = nn.Conv2d(w2, num_classes * 4, 1)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K H/2 W/2"]:
        """Class scores at half size of pictures in [-1, 1] whose sizes are divisible by ``MULTIPLE``."""
        x1 = self.down1(F.pixel_unshuffle(images, PATCH))
        x2 = self.down2(x1)
        x3 = self.down3(x2)
        x4 = self.down4(x3)
        y3 = self.up3(_joined(x4, x3))
        y2 = self.up2(_joined(y3, x2))
        y1 = self.up1(_joined(y2, x1))
        return F.pixel_shuffle(self.head(y1), 2)

    @torch.no_grad()
    def predict(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> list[UInt8[np.ndarray, "_ _"]]:
        """The class id of every pixel. Pictures of any size: the border is repeated up to the next multiple."""
        training = self.training
        self.eval()
        labels = [self._label(image) for image in images]
        self.train(training)
        return labels

    @torch.no_grad()
    def scores(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B K H W"]:
        """Class scores (logits) of every pixel of pictures of one size, where the network lies."""
        height, width = images.shape[1:3]
        pixels = F.pad(_to_input(images), (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        scores = self(pixels.to(self.head.weight.device))
        return F.interpolate(scores, scale_factor=2, mode="bilinear")[..., :height, :width]

    @torch.no_grad()
    def losses(
        self, image: UInt8[np.ndarray, "H W 3"], labels: UInt8[np.ndarray, "H W"]
    ) -> tuple[Float32[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
        """The cross-entropy (nats) of every pixel against the class id it should show, and the class id it is read as.

        Pixels whose label is no class (void) have loss 0.
        """
        scores = self.scores(image[None])
        wanted = torch.from_numpy(labels.astype(np.int64)).masked_fill(
            torch.from_numpy(labels >= scores.shape[1]), _IGNORED
        )
        loss = F.cross_entropy(scores, wanted[None].to(scores.device), ignore_index=_IGNORED, reduction="none")
        read = scores.argmax(1)[0].to("cpu", torch.uint8)
        return loss[0].cpu().numpy(), read.numpy()

    def _label(self, image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
        return self.scores(image[None]).argmax(1)[0].to("cpu", torch.uint8).numpy()


def train_segmenter(
    images: UInt8[np.ndarray, "n H W 3"],
    class_ids: UInt8[np.ndarray, "n H W"],
    *,
    num_classes: int,
    seed: int,
    epochs: int = 12,
    batch_size: int = 8,
    peak_lr: float = 6e-3,
    progress: Callable[[int, int], None] | None = None,
) -> Segmenter:
    """Teach a segmenter on real pictures: AdamW, one learning-rate cycle, random flips, bfloat16 where that is faster.

    256 pictures of 128x256 take about 16 s on one CPU core. On one machine the same arguments give the same network.

    Args:
        images: pictures u8 of one size, divisible by ``MULTIPLE``.
        class_ids: their classes; ids of ``num_classes`` and above (void) teach nothing.
        num_classes: labels are 0 .. num_classes - 1.
        seed: of the initial weights, the order and the flips.
        epochs: passes over the pictures.
        batch_size: pictures per step.
        peak_lr: highest learning rate.
        progress: called with (steps done, steps in all) after every step.

    Raises:
        ValueError: pictures and classes differ in number or size, there are none, or the size does not divide.
    """
    _check_examples(images, class_ids)
    generator = generator_for(seed, "segmenter")
    with seeded(derive_seed(seed, "segmenter weights")):
        network = Segmenter(num_classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak_lr, weight_decay=1e-2)
    steps = epochs * -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_lr, total_steps=steps, pct_start=0.2)
    done = 0
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(batch_size):
            flip = bool(torch.rand((), generator=generator) < 0.5)
            pixels, labels = _to_input(images[chosen.numpy()]), _to_labels(class_ids[chosen.numpy()], num_classes)
            if flip:
                pixels, labels = pixels.flip(-1), labels.flip(-1)
            with autocast_where_faster("cpu", training=True):
                scores = network(pixels.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(scores.float(), labels, ignore_index=_IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if progress is not None:
                progress(done, steps)
    return network.eval()


def _convolution(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


def _joined(coarse: Tensor, fine: Tensor) -> Tensor:
    return torch.cat([F.interpolate(coarse, size=fine.shape[-2:], mode="nearest"), fine], dim=1)


def _to_input(images: UInt8[np.ndarray, "B H W 3"]) -> Float[Tensor, "B 3 H W"]:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _to_labels(class_ids: UInt8[np.ndarray, "B H W"], num_classes: int) -> Tensor:
    # The network answers at half size; one pixel of every 2x2 block is its label.
    labels = torch.from_numpy(class_ids[:, 1::2, 1::2].astype(np.int64))
    return labels.masked_fill(labels >= num_classes, _IGNORED)


def _check_examples(images: np.ndarray, class_ids: np.ndarray) -> None:
    problems = []
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        problems.append(f"pictures must be uint8 [n H W 3] with n > 0, got {images.dtype} {images.shape}")
    elif class_ids.shape != images.shape[:3]:
        problems.append(f"class ids must have shape {images.shape[:3]}, got {class_ids.shape}")
    elif images.shape[1] % MULTIPLE or images.shape[2] % MULTIPLE:
        problems.append(f"height and width must be divisible by {MULTIPLE}, got {images.shape[1:3]}; crop them")
    if problems:
        raise ValueError("A segmenter cannot learn from this: " + "; ".join(problems) + ".")
