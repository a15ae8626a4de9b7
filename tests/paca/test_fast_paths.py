"""Every fast form of a layer against the plain one: in pieces, in place, compiled."""

import importlib
import os
import subprocess
import sys

import pytest
import torch
import torch.nn as nn
from torch import Tensor

from helpers import golden, reference
from helpers.rows import MINI, MINIS, ROWS, mini
from paca_mm.models import PaCaViT
from paca_mm.models.common import fast_paths, tokens
from paca_mm.models.paca import ffn_pieces
from paca_mm.models.paca.attention import PaCaAttention
from paca_mm.models.paca.block import PaCaBlock
from paca_mm.models.paca.clustering import ConvClustering
from paca_mm.models.paca.ffn import ConvFFN
from paca_mm.models.paca.plain import PlainPaCaViT, plain_head


@pytest.fixture(params=['kept', 'made_again'])
def many_pieces(request, monkeypatch):
    """Maps of a test are small: let a piece be at most 64 channels of one image, of 3 rows of it where
    no gradient is wanted, a row of scores, the query of one patch.
    """
    monkeypatch.setattr(tokens, 'PIECE_BYTES', 1)
    monkeypatch.setattr(ffn_pieces, 'FEWEST_ROWS', 3)
    if request.param == 'made_again':
        monkeypatch.setattr(ffn_pieces, 'KEPT_BYTES', 0)


@pytest.fixture
def whole(monkeypatch):
    """A switch to the plain form of everything, for the same model."""

    def switch(on: bool) -> None:
        monkeypatch.setattr(fast_paths, 'PLAIN', on)

    return switch


def close(found: Tensor, expected: Tensor) -> None:
    """Equal up to the rounding of sums of a few hundred products."""
    unit = torch.finfo(expected.dtype).eps * 64
    assert (found - expected).norm() <= unit * expected.norm()


def all_close(found: list, expected: list, rtol: float, atol: float) -> None:
    """Equal up to a share of each, and of the largest: some gradients are rounding around zero."""
    largest = max(b.norm() for b in expected if b is not None)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert b is None or (a - b).norm() <= rtol * b.norm() + atol * largest


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, then the gradients of the input and of every parameter that has one."""
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    outs = model(x)
    outs = [outs] if isinstance(outs, Tensor) else [o for o in outs if o is not None]
    weights = [torch.randn(o.shape).to(o) for o in outs]  # the same in every dtype
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    loss = sum((o * w).sum() for o, w in zip(outs, weights, strict=True))
    return [*outs, *torch.autograd.grad(loss, wanted, allow_unused=True)]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize('size', [(8, 8), (5, 11), (1, 1), (1, 7)], ids=str)
@pytest.mark.parametrize('piece', [1, 2**15, 2**30])
def test_a_network_in_pieces_equals_the_whole(dtype, size, piece, whole, monkeypatch):
    monkeypatch.setattr(tokens, 'PIECE_BYTES', piece)
    network = golden.fill(ConvFFN(24, 150)).to(dtype)
    x = torch.randn(3, *size, 24, dtype=dtype)
    found = results(network, x)
    whole(True)
    for a, b in zip(found, results(network, x), strict=True):
        close(a, b)


def test_pieces_cover_every_channel_once(monkeypatch):
    for piece in (1, 10_000, 50_000, 2**23):
        monkeypatch.setattr(tokens, 'PIECE_BYTES', piece)
        for hidden in (16, 24, 150, 1280):
            images, parts = ffn_pieces.cut(torch.empty(4, 9, 9, 8), hidden)
            assert 1 <= images <= 4
            assert [i for part in parts for i in range(hidden)[part]] == list(range(hidden))


@pytest.mark.parametrize('height', [1, 2, 3, 4, 7, 64])
def test_bands_cover_every_row_once_with_its_neighbours(height, monkeypatch):
    monkeypatch.setattr(tokens, 'PIECE_BYTES', 1)
    monkeypatch.setattr(ffn_pieces, 'FEWEST_ROWS', 3)
    rows = list(range(height))
    made = []
    for own, around, inner in ffn_pieces.bands(torch.empty(1, height, 5, 8)):
        made += rows[own]
        assert rows[around][inner] == rows[own]
        assert rows[around] == [i for i in range(rows[own][0] - 1, rows[own][-1] + 2) if i in rows]
    assert made == rows


@pytest.mark.parametrize('size', [(8, 8), (5, 11), (1, 1), (1, 7), (16, 3)], ids=str)
def test_a_network_in_bands_equals_the_whole(size, many_pieces, whole):
    network, norm = golden.fill(nn.ModuleList([ConvFFN(24, 150), nn.LayerNorm(24)])).double()
    x = torch.randn(3, *size, 24).double()
    with torch.no_grad():
        found = x.clone()
        network.add_to(found, norm)
        whole(True)
        close(found, x + network(norm(x)))


@pytest.mark.parametrize('num_clusters', [4, 0])
@pytest.mark.parametrize('given', [False, True])
@pytest.mark.parametrize('piece', [1, 5 * 24 * 8, 7 * 8 * 24 * 8, 2**20])
def test_attention_in_pieces_equals_the_whole(num_clusters, given, piece, monkeypatch):
    monkeypatch.setattr(tokens, 'PIECE_BYTES', piece)
    scores = nn.Sequential(nn.Linear(24, 4), nn.Flatten(1, 2)) if num_clusters else None
    norm, attn = golden.fill(
        nn.ModuleList([nn.LayerNorm(24), PaCaAttention(24, 3, num_clusters, scores)])
    ).double()
    x = torch.randn(3, 7, 8, 24).double()
    with torch.no_grad():
        expected, z = attn(norm(x))
        if given:
            attn.clustering = None
        assert attn.can_add(x)
        found, z_found = attn.added_to(x, norm, z if given else None)
        close(found, x + expected)
        assert (z is None) == (z_found is None) == (num_clusters == 0)


def test_maps_that_are_watched_stay_what_they_were(monkeypatch):
    monkeypatch.setattr(tokens, 'PIECE_BYTES', 1)
    network = golden.fill(ConvClustering(24, 5, 4.0))
    x = torch.randn(2, 7, 8, 24)
    with torch.no_grad():
        expected = network(x)
        seen: list[Tensor] = []
        hook = network.dwconv.register_forward_hook(lambda _, args, out: seen.append(out))
        torch.testing.assert_close(network(x), expected)
        hook.remove()
        assert torch.equal(seen[0], network.dwconv(x.permute(0, 3, 1, 2)))


def test_queries_that_are_watched_are_made_at_once(monkeypatch):
    monkeypatch.setattr(tokens, 'PIECE_BYTES', 1)
    attn = PaCaAttention(24, 3, 0)
    seen: list[tuple[int, ...]] = []
    attn.q.register_forward_hook(lambda _, args, out: seen.append(tuple(out.shape)))
    with torch.no_grad():
        attn.added_to(torch.randn(2, 7, 8, 24), nn.LayerNorm(24))
    assert seen == [(2, 56, 24)]


@pytest.mark.parametrize('norm', ['norm1', 'norm2'])
def test_norms_that_are_watched_see_the_whole_map(norm, many_pieces):
    block = mini().stage1[1]
    seen: list[tuple[int, ...]] = []
    block.get_submodule(norm).register_forward_hook(
        lambda _, args, out: seen.append(tuple(out.shape))
    )
    x = torch.randn(2, 7, 8, *block.norm1.normalized_shape)
    with torch.no_grad():
        block(x, torch.rand(2, block.attn.num_clusters, 56))
    assert seen == [x.shape]


def test_no_image_at_all(many_pieces):
    network = ConvFFN(24, 150)
    x = torch.randn(0, 6, 7, 24)
    assert network(x).shape == x.shape
    network(x).sum().backward()
    assert not network.fc1.weight.grad.any()


@pytest.mark.parametrize('frozen', ['fc1', 'dwconv', 'fc2'])
def test_frozen_parts_of_a_network_in_pieces(frozen, many_pieces, whole):
    network = golden.fill(ConvFFN(24, 150)).double()
    getattr(network, frozen).requires_grad_(False)
    x = torch.randn(2, 6, 7, 24).double()
    found = results(network, x)
    whole(True)
    for a, b in zip(found, results(network, x), strict=True):
        close(a, b)
    with torch.no_grad():
        close(network(x), found[0])


@pytest.mark.parametrize('name', MINIS)
def test_pieces_equal_the_plain_reference(name, many_pieces):
    model = mini(name).double()
    image = golden.image(2, 45, 83).double()
    kept = model(image)
    with torch.no_grad():
        in_place = model(image)
    for exact, a, b in zip(reference.features(model, image), kept, in_place, strict=True):
        close(a, exact)
        close(b, exact)


@pytest.mark.parametrize('name', MINIS)
@pytest.mark.slow
def test_gradients_in_pieces_equal_those_of_the_whole(name, many_pieces, whole):
    model = mini(name).double().train()
    image = golden.image(2, 45, 83).double()
    found = results(model, image)
    whole(True)
    expected = results(model, image)
    all_close(found, expected, 1e-9, 1e-13)


def test_the_input_of_a_model_in_place_stays(many_pieces):
    block = mini().stage2[0]
    x = torch.randn(2, 8, 8, 24)
    before = x.clone()
    with torch.inference_mode():
        block(x)
    assert torch.equal(x, before)


def test_bf16_within_its_precision(many_pieces):
    model = mini()
    image = golden.image(2, 64, 96)
    with torch.inference_mode():
        exact = model(image)
        rounded = model.bfloat16()(image.bfloat16())
    for a, b in zip(rounded, exact, strict=True):
        assert (a.float() - b).norm() <= 0.03 * b.norm()


class Doubled(nn.Module):
    """A stand-in around a layer, as LoRA puts one: it shows the layer's weight but computes more."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return 2 * self.layer(x)


@pytest.mark.parametrize('path', ['attn.proj', 'mlp.fc1', 'mlp.dwconv', 'mlp.fc2'])
def test_a_stand_in_for_a_layer_is_called(path, many_pieces):
    block = mini().stage2[0]
    x = torch.randn(2, 8, 8, 24)
    parent, _, leaf = path.rpartition('.')
    setattr(block.get_submodule(parent), leaf, Doubled(block.get_submodule(path)))
    kept, _ = block(x)
    with torch.no_grad():
        in_place, _ = block(x)
    close(in_place, kept.detach())


HOOKED = ['attn', 'attn.proj', 'attn.clustering.pwconv', 'attn.clustering.to_clusters', 'mlp',
          'mlp.fc1', 'mlp.dwconv', 'mlp.fc2']  # fmt: skip


@pytest.mark.parametrize('path', HOOKED)
def test_hooks_see_their_layer(path, many_pieces):
    block = mini().stage2[0]
    seen = []
    block.get_submodule(path).register_forward_hook(lambda *args: seen.append('forward'))
    x = torch.randn(2, 8, 8, 24)
    with torch.no_grad():
        before, _ = mini().stage2[0](x)
        after, _ = block(x)
    close(after, before)
    block(x)
    assert seen == ['forward', 'forward']


def test_hooks_of_gradients_and_of_all_modules(many_pieces):
    block = mini().stage2[0]
    x = torch.randn(2, 8, 8, 24)
    seen = []
    block.mlp.fc1.register_full_backward_hook(lambda *args: seen.append('backward'))
    block(x)[0].sum().backward()
    assert seen == ['backward']
    handle = nn.modules.module.register_module_forward_hook(lambda m, *args: seen.append(m))
    try:
        with torch.no_grad():
            mini().stage2[0](x)
    finally:
        handle.remove()
    assert sum(isinstance(m, nn.Linear) for m in seen) == 6  # q k v proj fc1 fc2


@pytest.mark.parametrize('path', ['attn.proj', 'mlp.fc1'])
def test_layers_of_other_kinds(path, many_pieces):
    block = mini().stage2[0]
    parent, _, leaf = path.rpartition('.')
    other = nn.Identity() if leaf == 'proj' else nn.Linear(24, 48, bias=False)
    setattr(block.get_submodule(parent), leaf, other)
    x = torch.randn(2, 8, 8, 24)
    with torch.no_grad():
        close(block(x)[0], block.requires_grad_()(x)[0])


def test_stochastic_depth_without_gradients():
    """A teacher by moving average, or dropout at test time: training mode under no_grad."""
    block = mini(drop_path_rate=0.9).stage4[-1].train()
    x = torch.randn(64, 2, 2, 40)
    torch.manual_seed(3)
    kept = block(x)[0].detach()
    torch.manual_seed(3)
    with torch.no_grad():
        close(block(x)[0], kept)
        assert not torch.allclose(block.eval()(x)[0], kept)


@pytest.mark.parametrize('order', [(0, 2, 3, 1), (0, 2, 1, 3), (1, 2, 3, 0)])
def test_any_order_in_memory(order, many_pieces, whole):
    block = mini().stage2[0].double()
    shape = [2, 6, 7, 24]
    base = torch.randn([shape[order.index(i)] for i in range(4)]).double()
    x = base.permute(order)
    assert list(x.shape) == shape
    assert not x.is_contiguous()
    kept = block(x)[0]
    with torch.no_grad():
        close(block(x)[0], kept)
    found = results(block.mlp, x)
    whole(True)
    for a, b in zip(found, results(block.mlp, x), strict=True):
        close(a, b)
    close(kept, block(x)[0])


def test_gradients_of_gradients(many_pieces, whole):
    network = golden.fill(ConvFFN(24, 150)).double()
    network.fc2.requires_grad_(False)
    x = torch.randn(2, 3, 4, 24).double().requires_grad_()

    def second():
        (g,) = torch.autograd.grad(network(x).square().sum(), x, create_graph=True)
        return torch.autograd.grad(g.square().sum(), [x, network.fc1.weight])

    def function():
        return torch.func.grad(lambda x: network(x).square().sum())(x)

    found = [*second(), function()]
    whole(True)
    for a, b in zip(found, [*second(), function()], strict=True):
        close(a, b)


def test_backward_inside_of_autocast(many_pieces):
    network = golden.fill(ConvFFN(24, 150))
    x = torch.randn(2, 3, 4, 24)
    loss = network(x).sum()
    with torch.autocast('cpu', torch.bfloat16):
        loss.backward()
    assert network.fc1.weight.grad.isfinite().all()


def test_gradients_in_bf16(many_pieces):
    network = golden.fill(ConvFFN(24, 150))
    x = torch.randn(64, 5, 5, 24)
    exact = results(network, x)
    for a, b in zip(results(network.bfloat16(), x.bfloat16()), exact, strict=True):
        assert (a.float() - b).norm() <= 0.03 * b.norm()


# --- the switch, and torch's private names -----------------------------------------------------


@pytest.fixture
def called(monkeypatch):
    """Which linear layers and convolutions are called, without a hook to give way to."""
    seen = set()

    def watch(cls):
        forward = cls.forward

        def counted(self, x):
            seen.add(self)
            return forward(self, x)

        monkeypatch.setattr(cls, 'forward', counted)

    watch(nn.Linear)
    watch(nn.Conv2d)
    return seen


@pytest.mark.parametrize('grad', [False, True])
@pytest.mark.parametrize('name', ['conv', 'blockwise', 'teacher'])
def test_the_switch_makes_every_layer_be_called(name, grad, whole, called):
    model = mini(name)
    layers = {m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    image = golden.image(2, 45, 83)
    with torch.set_grad_enabled(grad):
        fast = model(image)
        assert called < layers
        whole(True)
        called.clear()
        plain = model(image)
    assert called == layers
    for a, b in zip(fast, plain, strict=True):
        close(a, b)


@pytest.mark.parametrize(('value', 'plain'), [('1', True), ('0', False), ('', False)])
@pytest.mark.slow
def test_the_switch_is_read_from_the_environment(value, plain):
    code = 'from paca_mm.models.common import fast_paths; print(fast_paths.PLAIN)'
    result = subprocess.run(
        [sys.executable, '-c', code], env={**os.environ, 'PACA_MM_PLAIN': value},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == str(plain)


PRIVATE = {
    'compiling': [(torch.compiler, 'is_compiling'), (torch._utils, 'is_compiling')],
    'older_name_of_it': [(torch._utils, 'is_compiling')],
    'functional': [(torch._C, '_are_functorch_transforms_active')],
    'hooks_of_all': [(nn.modules.module, '_global_forward_hooks')],
}


@pytest.mark.parametrize('name', PRIVATE)
def test_a_private_name_that_is_gone_means_the_plain_form(name, monkeypatch):
    model = mini()
    image = golden.image(2, 45, 83)
    with torch.no_grad():
        expected = model(image)
    try:
        with monkeypatch.context() as torch_without:
            for holder, attribute in PRIVATE[name]:
                torch_without.delattr(holder, attribute, raising=False)
            importlib.reload(fast_paths)
        needed = name != 'older_name_of_it' or not hasattr(torch.compiler, 'is_compiling')
        assert model.stage1[0].mlp.can_add(image) is not needed
        with torch.no_grad():
            for a, b in zip(model(image), expected, strict=True):
                close(a, b)
    finally:
        importlib.reload(fast_paths)
    assert model.stage1[0].mlp.can_add(image)


def test_a_device_without_autocast():
    outs = mini('teacher').to('meta')(torch.empty(2, 3, 64, 96, device='meta'))
    assert [tuple(out.shape[2:]) for out in outs] == [(16, 24), (8, 12), (4, 6), (2, 3)]


# --- parts of other kinds ----------------------------------------------------------------------


class Mean(nn.Module):
    """An attention of somebody else: every patch sees the mean of all."""

    def forward(self, x, z=None):
        return x.mean((1, 2), keepdim=True).expand_as(x), z


class Shifted(PaCaAttention):
    def forward(self, x, z=None):
        out, z = super().forward(x, z)
        return out + 1, z


@pytest.mark.parametrize('kind', ['attn', 'mlp', 'norm', 'subclass'])
def test_a_block_takes_other_parts(kind):
    torch.manual_seed(0)
    attn = {'attn': Mean, 'subclass': lambda: Shifted(8, 2, 0)}.get(
        kind, lambda: PaCaAttention(8, 2, 0)
    )()
    mlp = nn.Linear(8, 8) if kind == 'mlp' else ConvFFN(8, 16)
    norm = dict(norm_layer=nn.Identity) if kind == 'norm' else {}
    block = PaCaBlock(8, attn, mlp, **norm)
    x = torch.randn(2, 3, 4, 8)
    expected = x + attn(block.norm1(x))[0]
    expected = expected + mlp(block.norm2(expected))
    close(block(x)[0], expected)
    with torch.no_grad():
        close(block(x)[0], expected)


def test_what_the_backward_pass_keeps(monkeypatch):
    """Two hidden maps of a small image, none of a large one."""
    network = ConvFFN(24, 96)
    x = torch.randn(2, 8, 8, 24, requires_grad=True)
    kept = []
    for limit in (2**30, 0):
        monkeypatch.setattr(ffn_pieces, 'KEPT_BYTES', limit)
        out = network(x)
        saved = [t for t in out.grad_fn.saved_tensors if t.ndim == 4 and t.shape[1] == 96]
        kept.append(sum(t.numel() for t in saved))
    assert kept == [2 * 2 * 8 * 8 * 96, 0]


@pytest.mark.parametrize('row', ROWS)
def test_the_plain_reading_gives_the_same_answers(row):
    """The benchmark's yardstick: all parts of a published row, on the small pyramid."""
    arguments = small(row)
    model = golden.fill(PaCaViT(**arguments)).double()
    plain = PlainPaCaViT(**arguments).double()
    plain.load_state_dict(model.state_dict())
    image = golden.image(2, 45, 83).double()
    expected = results(model, image)
    all_close(results(plain, image), expected, 1e-9, 1e-13)


def test_the_plain_head_gives_the_same_answers():
    pytest.importorskip('mmseg')
    from paca_mm.models.paca.head import PaCaHead

    head = golden.fill(PaCaHead([16, 24], 32, num_classes=5, dropout_ratio=0)).double()
    maps = [torch.randn(2, 16, 9, 13).double(), torch.randn(2, 24, 5, 7).double()]
    for training in (False, True):
        head.train(training)
        fast = head._forward(maps)
        plain = plain_head(head)
        for a, b in zip(plain._forward(maps), fast, strict=True):
            close(a, b)
        del head._forward


#: Cheap to compile.
SHALLOW = dict(MINI, depths=(1, 2, 1, 1))
SHALLOW_TEACHER = dict(SHALLOW, teacher_depths=(1, 1, 1, 1))


def small(row):
    """The arguments of a published row on a small pyramid."""
    arguments = dict(ROWS[row][0], drop_path_rate=0.0)
    teacher = 'teacher' in arguments.pop('arch', '')
    return dict(arguments, arch=SHALLOW_TEACHER if teacher else SHALLOW)


def structure(row):
    """What a compiler sees of a row; how many clusters there are is no matter to it."""
    clusters = ROWS[row][0].get('num_clusters', (100, 100, 100, 0))
    return str({**small(row), 'num_clusters': [min(n, 1) for n in clusters]})


#: One row of every structure.
STRUCTURES = [*{structure(row): row for row in reversed(ROWS)}.values()]


class Counted:
    """A compiler that runs the graph as it is and counts the graphs."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    yield Counted()
    torch._dynamo.reset()


@pytest.mark.parametrize('training', [False, True], ids=['eval', 'train'])
@pytest.mark.parametrize('row', STRUCTURES)
@pytest.mark.slow
def test_one_graph_without_a_break(row, training, compiler):
    model = golden.fill(PaCaViT(**small(row))).train(training)
    image = golden.image(2, 64, 96)
    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    with torch.set_grad_enabled(training):
        for a, b in zip(compiled(image), model(image), strict=True):
            close(a, b)
    assert compiler.graphs == 1


@pytest.mark.parametrize('name', ['blockwise', 'teacher'])
@pytest.mark.slow
def test_one_graph_for_images_of_every_size(name, compiler):
    model = mini(name, arch=SHALLOW_TEACHER if name == 'teacher' else SHALLOW)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=compiler)
    with torch.no_grad():
        for size in ((64, 96), (96, 64), (80, 112), (45, 83)):
            image = golden.image(2, *size)
            for a, b in zip(compiled(image), model(image), strict=True):
                close(a, b)
    assert compiler.graphs == 1


@pytest.mark.parametrize(
    ('name', 'backend'),
    [
        pytest.param(
            'conv', 'inductor',
            marks=pytest.mark.skipif(
                torch.__version__.startswith('2.1.'),
                reason='the inductor of torch 2.1 takes wrong strides for the gradient of attention',
            ),
        ),
        ('teacher', 'aot_eager'),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_compiled_equals_eager(name, backend, compiler):
    arch = SHALLOW_TEACHER if name == 'teacher' else SHALLOW
    stages = (0,) if backend == 'inductor' else (0, 1, 2, 3)  # it takes a minute for all
    model = mini(name, arch=arch, out_indices=stages).train()
    image = golden.image(2, 64, 96)
    expected = results(model, image)
    found = results(torch.compile(model, fullgraph=True, backend=backend), image)
    all_close(found, expected, 1e-4, 1e-6)
