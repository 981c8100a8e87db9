"""Chapter 17's definitions give the numbers of `helpers.distributed`; its ring adds up any vectors."""

import pytest
import torch
from torch.utils.data import DistributedSampler

from helpers import distributed
from helpers.runtime import generator, seeded_weights
from tests.test_chapters import definitions


@pytest.fixture(scope="module")
def chapter():
    return definitions("17")


def test_network(chapter):
    networks = []
    for make in (chapter["conv_net"], distributed.conv_net):
        with seeded_weights(3):
            networks.append(make())
    X = torch.randn(5, 1, 28, 28, generator=generator("chapter 17"))
    torch.testing.assert_close(networks[0](X), networks[1](X), rtol=0, atol=0)


@pytest.mark.parametrize(("N", "n_processes", "rank"), [(23, 2, 1), (8, 3, 0), (30, 1, 0)])
def test_shards(chapter, N, n_processes, rank):
    X = torch.randn(N, 3, generator=generator("chapter 17"))
    y = torch.arange(N)
    sampler = DistributedSampler(X, n_processes, rank, seed=5)
    own, house = (kind(X, y, 4, sampler, done=2) for kind in (chapter["Shards"], distributed.Shards))
    for _ in range(3):
        for batch, same in zip(own, house, strict=True):
            assert all(torch.equal(*pair) for pair in zip(batch, same))


@pytest.mark.parametrize(("n", "size"), [(1, 5), (2, 5), (3, 10), (5, 5), (7, 23)])
def test_ring_adds_up_vectors_of_any_length(chapter, n, size):
    vectors = torch.randn(n, size, generator=generator("ring"))
    parts = [list(row.clone().tensor_split(n)) for row in vectors]
    sent = chapter["ring_all_reduce"](parts)
    for chunks in parts:
        torch.testing.assert_close(torch.cat(chunks), vectors.sum(dim=0))
    assert sum(sent) == 2 * (n - 1) * size  # each chunk travels all the way round but one step, twice
