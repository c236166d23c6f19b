from __future__ import annotations

import torch

from training.config import ModelConfig, OptimizerConfig
from training.models.transformer import BigramEmbedding, Transformer
from training.optimizers import RowAdagrad, build

CONFIG = ModelConfig(layers=1, heads=2, width=16, context_length=12, bigram_buckets=97)


def model(seed: int = 1) -> Transformer:
    torch.manual_seed(seed)
    gpt = Transformer(CONFIG, 50)
    assert gpt.bigrams is not None
    with torch.no_grad():
        gpt.bigrams.weight.normal_()
    return gpt


def test_a_pair_has_one_bucket_wherever_it_stands_and_nearly_every_pair_its_own():
    embedding = BigramEmbedding(1 << 20, 1)
    with torch.no_grad():
        embedding.weight.copy_(torch.arange(1 << 20).unsqueeze(1))
    first = embedding(torch.tensor([[3, 7, 3, 7, 9]])).flatten().tolist()
    assert first[1] == first[3]
    assert len(set(first)) == 4
    pairs = torch.cartesian_prod(torch.arange(200), torch.arange(200))
    buckets = embedding(pairs)[:, 1].flatten()
    # Of n pairs in m buckets some n - n^2 / 2m stay distinct.
    assert len(buckets.unique()) > 40_000 - 1.2 * 40_000**2 / 2 / (1 << 20)


def test_no_position_sees_a_later_one():
    gpt = model().eval()
    ids = torch.randint(0, 50, (1, 12))
    changed = ids.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 50
    with torch.no_grad():
        different = (gpt(ids) - gpt(changed)).abs().amax(-1)[0] > 0
    assert not different[:6].any()
    assert different[6:8].all()


def test_sparse_and_dense_gradients_take_the_same_steps():
    ids = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(2))
    weights = []
    for sparse in (True, False):
        gpt = model()
        assert gpt.bigrams is not None
        gpt.bigrams.sparse = sparse
        optimizer = build(OptimizerConfig(), gpt)
        for _ in range(3):
            loss = gpt(ids).logsumexp(-1).mean()
            loss.backward()
            assert gpt.bigrams.weight.grad is not None
            assert gpt.bigrams.weight.grad.is_sparse is sparse
            optimizer.step(1.0)
            optimizer.zero_grad()
        weights.append(gpt.bigrams.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1])


def test_row_adagrad_moves_each_row_by_its_own_history():
    table = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = RowAdagrad([table], lr=0.5)
    for gradient in ([[3.0, 4.0], [0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]):
        table.grad = torch.tensor(gradient)
        optimizer.step()
    root = 12.5**0.5
    expected = [-0.5 * 3 / root - 0.5 * 3 / 5, -0.5 * 4 / root - 0.5 * 4 / 5]
    torch.testing.assert_close(table.detach(), torch.tensor([expected, [0.0, 0.0], [-0.5, -0.5]]))


def test_the_table_starts_at_zero_and_its_state_comes_back():
    torch.manual_seed(1)
    gpt = Transformer(CONFIG, 50)
    assert gpt.bigrams is not None
    assert not gpt.bigrams.weight.any()
    optimizer = build(OptimizerConfig(), gpt)
    gpt(torch.randint(0, 50, (2, 12))).logsumexp(-1).mean().backward()
    optimizer.step(1.0)
    state = {name: tensor.clone() for name, tensor in optimizer.state_tensors().items()}
    assert state["bigrams.weight/squares"].any()
    other = build(OptimizerConfig(), gpt)
    other.load_state_tensors(state)
    assert other.state_tensors().keys() == state.keys()
    torch.testing.assert_close(other.state_tensors()["bigrams.weight/squares"], state["bigrams.weight/squares"])
