"""What a run would need on a machine that is not here: time, memory, links, hours, by formula.

Nothing is measured: products at a share of the peak, and beside them the traffic of everything
else. Both shares are estimates, chosen so that an H200 reaches 46, 55 and 59 % of its measured rate
of products (790 of 989 TFLOP/s) with ViT-S, B and L/16: what good kernels should give. Public logs
of the method's family reach less, `SEEN`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ibot.config.resolve import Derived, derive
from ibot.config.schema import Config
from ibot.method.flops import StepFlops, published_flops, step_flops
from ibot.method.memory import Parameters, StepMemory, step_memory
from ibot.method.traffic import exchanged, image_bytes, update_bytes
from ibot.system.accelerators import Accelerator

SHEET_PRODUCTS, SHEET_TRAFFIC = 0.8, 0.9
"""What large products and copies measure, of the data sheet's rates (H200: 790 of 989, 4.3 of 4.8).
"""
IN_STEP = 0.72
"""Of that rate, products between elementwise passes on a GPU (estimate)."""
IN_STEP_CPU = {"float32": 0.85, "bfloat16": 0.55}
"""The same on a processor, where it was measured (docs/results.md, cases a to c)."""
SEEN = (0.17, 0.44)
"""Shares of a GPU's peak that public logs of this family reach: DINOv3 ViT-L on H100, DINOv2 ViT-L
on A100."""
LAUNCH = 6e-6
"""Seconds to start a kernel, without graphs (estimate)."""
KERNELS = 130
"""Kernels that a block of both networks starts in a step (estimate)."""
ROOM, CONTEXT = 0.92, 1.0
"""Share of a GPU's memory that tensors can fill, and GiB that the library takes."""
CPU_ROOM = 0.7
"""The same of a machine's memory."""
LINK_SHARE = 0.7
"""Of a link's rate, what collectives reach (estimate)."""
BACKWARD = 0.6
"""Share of a step's time behind which an exchange can hide (estimate)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the run would be."""

    device: Accelerator
    devices: int = 1
    """Of each machine."""
    nodes: int = 1

    @property
    def count(self) -> int:
        """Devices in all."""
        return self.devices * self.nodes

    @property
    def link(self) -> float:
        """GB/s at which a device sends to the next: a machine's adapters work together."""
        within, between = self.device.link, self.device.network * self.devices
        return LINK_SHARE * (within if self.nodes == 1 else min(within, between))


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What optimizer steps of one device were measured to take here."""

    images: int
    """Of a step."""
    step_seconds: float
    """Their median."""
    steps: int

    @property
    def per_image(self) -> float:
        """Seconds."""
        return self.step_seconds / self.images


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run needs; all of it follows from these."""

    config: Config
    machine: Machine
    images: int
    """Of the data set."""
    price: float = 0.0
    """Of a device and hour."""
    probe: Probe | None = None
    """Of this very network."""
    factor: float = 1.0
    """By which another network was measured to be slower than its forecast here."""

    @cached_property
    def derived(self) -> Derived:
        """Steps and epochs."""
        return derive(self.config, self.images, self.machine.count)

    @property
    def precision(self) -> str:
        """Of the products."""
        return self.machine.device.precision(self.config.train.precision)

    @property
    def half(self) -> bool:
        """Whether products run in half precision."""
        return self.precision != "float32"

    @property
    def sharded(self) -> bool:
        """Whether weights are divided among the devices."""
        return self.machine.count > 1 and self.config.system.shard == "fsdp"

    @property
    def shards(self) -> int:
        """Devices that share the weights."""
        return self.machine.count if self.sharded else 1

    @property
    def micro_batch(self) -> int:
        """Images that a device holds at a time."""
        return max(1, self.config.train.batch // self.config.train.accumulate // self.machine.count)

    @cached_property
    def flops(self) -> StepFlops:
        """Of one image."""
        return step_flops(self.config)

    @cached_property
    def published(self) -> StepFlops:
        """Of one image in the published step."""
        return published_flops(self.config)

    @cached_property
    def parameters(self) -> Parameters:
        """Of both networks."""
        return Parameters.of(self.config)

    @property
    def rate(self) -> float:
        """FLOP/s of large products on a device."""
        device = self.machine.device
        return device.peak(self.precision) * 1e12 * (1 if device.measured else SHEET_PRODUCTS)

    @property
    def image_seconds(self) -> float:
        """Of one image on one device: products, and traffic beside them."""
        if self.probe is not None:
            return self.probe.per_image
        device = self.machine.device
        share = IN_STEP if device.gpu else IN_STEP_CPU["bfloat16" if self.half else "float32"]
        traffic = device.bandwidth * 1e12 * (1 if device.measured else SHEET_TRAFFIC)
        moved = image_bytes(self.config, half=self.half)
        return self.factor * (self.flops.total / (share * self.rate) + moved / traffic)

    @property
    def share(self) -> float:
        """Of the rate of large products that a device reaches in a step, 0..1."""
        images = self.micro_batch * self.config.train.accumulate
        return images * self.flops.total / self.compute_seconds / self.rate

    @property
    def compute_seconds(self) -> float:
        """Of an optimizer step, without what is exchanged."""
        device, train = self.machine.device, self.config.train
        if self.probe is not None:
            return train.accumulate * self.micro_batch * self.probe.per_image
        moved = update_bytes(self.config, self.shards) / (device.bandwidth * 1e12)
        step = max(self.micro_batch * self.image_seconds, self.start_seconds)
        return train.accumulate * step + moved

    @property
    def start_seconds(self) -> float:
        """Of a micro-batch, for the kernels of a GPU to start: it cannot take less."""
        return LAUNCH * KERNELS * blocks(self.config) if self.machine.device.gpu else 0.0

    @property
    def waits_for_starts(self) -> bool:
        """Whether kernels take longer to start than to run: other networks of as many blocks, and
        fewer views, would be no faster.
        """
        return self.probe is None and self.micro_batch * self.image_seconds < self.start_seconds

    @property
    def exchanged(self) -> float:
        """Bytes that each device sends for a step."""
        if self.machine.count == 1:
            return 0.0
        return exchanged(
            self.config,
            devices=self.machine.count,
            sharded=self.sharded,
            packed=self.packed,
        )

    @property
    def packed(self) -> bool:
        """Whether global and local views go through the student together."""
        model, kernels = self.config.model, self.config.system.kernels
        usual = model.kind == "vit" and not model.mean_pooling
        return usual and self.machine.device.gpu and kernels != "reference"

    @property
    def exchange_seconds(self) -> float:
        """For these bytes."""
        return self.exchanged / (self.machine.link * 1e9)

    @property
    def waited(self) -> float:
        """Seconds of a step in which devices do nothing but exchange."""
        return max(0.0, self.exchange_seconds - BACKWARD * self.compute_seconds)

    @property
    def step_seconds(self) -> float:
        """Of an optimizer step."""
        return self.compute_seconds + self.waited

    @property
    def images_per_second(self) -> float:
        """Of all devices."""
        return self.config.train.batch / self.step_seconds

    @property
    def hours(self) -> float:
        """Of the run."""
        return self.derived.run_steps * self.step_seconds / 3600

    @property
    def device_hours(self) -> float:
        """Of all devices."""
        return self.hours * self.machine.count

    def memory(self, images: int) -> StepMemory:
        """Of a micro-batch of so many images, on each device."""
        return step_memory(
            self.config,
            images,
            half=self.half,
            shards=self.shards,
            flat_gradients=self.machine.count > 1 and not self.sharded,
            gpu=self.machine.device.gpu,
            packed=self.packed,
        )

    @property
    def room(self) -> float:
        """Bytes that tensors can fill."""
        device = self.machine.device
        usable = ROOM * device.memory - CONTEXT if device.gpu else CPU_ROOM * device.memory
        return usable * 2**30

    @cached_property
    def largest(self) -> int:
        """Images of the largest micro-batch that fits on a device; 0: not one does."""
        few, many = self.memory(1), self.memory(1025)
        each = (many.peak - few.peak) / 1024
        # Up to some images the gradients need more than the activations: a small step, no line.
        count = max(0, int((self.room - many.peak) / each) + 1025)
        while count and self.memory(count).peak > self.room:
            count -= 1
        return count

    @property
    def checkpoint(self) -> float:
        """Bytes of one."""
        moments = 2 if self.config.optim.name == "adamw" else 1
        count = self.parameters
        return 4.0 * (count.student + count.teacher + moments * count.trained)


def micro_batches(images: int, most: int) -> int:
    """The fewest equal micro-batches of so many images, with at most `most` (1 or more) in each."""
    return next(n for n in range(1, images + 1) if images % n == 0 and images // n <= most)


def blocks(config: Config) -> int:
    """Of the backbone, over all stages."""
    model = config.model
    return sum(model.depths) if model.kind == "swin" else model.depth
