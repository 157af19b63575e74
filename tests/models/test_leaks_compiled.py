"""What torch.compile makes of a block lets a region's text in where the block does, and nowhere else."""

import pytest
import torch

from mamoe.methods.lora import Lora
from mamoe.models.backbones import backbone_of
from mamoe.models.blocks.conversion import layout_blocks
from mamoe.models.control.call import predict, with_layout
from mamoe.models.halves import TIMESTEP, Halves

CELLS = (12, 16)
ONE_BLOCK = {
    "pixart": ("pixart", {"num_layers": 1}),
    "flux, double": ("flux", {"num_layers": 1, "num_single_layers": 0}),
    "flux, single": ("flux", {"num_layers": 0, "num_single_layers": 1}),
    "sd3": ("sd3", {"num_layers": 1}),
    "qwen": ("qwen", {"num_layers": 1}),
    "flux2, double": ("flux2", {"num_layers": 1, "num_single_layers": 0}),
    "flux2, single": ("flux2", {"num_layers": 0, "num_single_layers": 1}),
    "z_image": ("z_image", {"n_layers": 1}),
}
WAYS = [  # traced alone; and what inductor makes of that, which takes minutes
    pytest.param("plain", "aot_eager", id="plain"),
    pytest.param("checkpointed", "aot_eager", id="checkpointed", marks=pytest.mark.slow),
    pytest.param("lora", "aot_eager", id="lora", marks=pytest.mark.slow),
    pytest.param("plain", "inductor", id="inductor", marks=pytest.mark.slow),
]

pytestmark = pytest.mark.usefixtures("compilable")


def made(models, family, form, **changes):
    network = models.trained(with_layout(getattr(models, family)(**changes), num_experts=2))
    if form == "lora":
        lora = Lora(rank=4, alpha=4, conv=family == "unet", feed_forward=True)
        network = models.trained(lora.prepare(network, seed=0))
    return network


def asked(call, text, others):
    """The changes of an answer [B ... N] by other words, and the gradient that its left half sends them."""
    answers, gradient = [], None
    for words in (text, torch.where(others[:, None], text.flip(1) * 2 + 1, text)):
        words = words.detach().requires_grad_()
        answer, left = call(words)
        (gradient,) = torch.autograd.grad(left.square().sum(), words)
        answers.append(answer.detach())
    return (answers[1] - answers[0]).abs(), gradient[:, others].abs().max().item()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "form", "backend"),
    [
        pytest.param(kind, *way.values, id=f"{kind}-{way.id}", marks=way.marks)
        for kind in ONE_BLOCK
        for way in WAYS
        # Inductor and LoRA take long, and are to one network what they are to the other: one of those in which text
        # attends, too; the UNet below stands for those in which it does not.
        if way.id in ("plain", "checkpointed") or kind == "flux, double"
        if kind != "z_image" or way.id == "plain"  # around its block there are refiners, which take as long again
    ],
)
def test_a_compiled_network_of_one_block(models, kind, form, backend):
    family, sizes = ONE_BLOCK[kind]
    network = made(models, family, form, **sizes)
    if form == "checkpointed":
        network.train().enable_gradient_checkpointing()
    experts = 2 if backbone_of(network).routed is None else 1
    halves = Halves.for_network(network, CELLS, experts=experts)
    middle = CELLS[1] // 2
    for masked in (False, True):  # that a leak would be seen needs no compiling, which takes seconds
        if masked:
            network.compile(backend=backend)
        given = halves.inputs(masked=masked)

        def call(words, given=given):
            answer = predict(network, halves.noisy, TIMESTEP, {**given, "encoder_hidden_states": words})
            return answer, answer[..., :middle]

        change, gradient = asked(call, halves.text, halves.right_tokens)
        assert change[..., middle:].max() > 1e-3
        assert (change[..., :middle].max() == 0.0) == masked and (gradient == 0.0) == masked


@pytest.mark.parametrize(("form", "backend"), [way for way in WAYS if way.id != "checkpointed"])
def test_a_compiled_block_of_a_unet(models, form, backend):
    network = made(models, "unet", form)
    halves = Halves.for_network(network, CELLS, experts=2)
    block = layout_blocks(network)[0]
    calls = []
    hook = block.register_forward_pre_hook(lambda *call: calls.append(call[1:]), with_kwargs=True)
    predict(network, halves.noisy, TIMESTEP, halves.inputs())
    hook.remove()
    ((args, told),) = calls
    block.compile(backend=backend)
    right = halves.is_right(halves.levels()[block.level].grid)

    def call(words):
        answer = block(*args, **{**told, "encoder_hidden_states": words})
        return answer, answer[:, ~right]

    change, gradient = asked(call, halves.text, halves.right_tokens)
    assert change[:, right].max() > 1e-3
    assert change[:, ~right].max() == 0.0 and gradient == 0.0
