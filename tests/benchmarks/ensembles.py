"""Ways to train many copies of a tiny network at once; ``helpers.ensembles`` is the fastest plain one.

The 2-4-4-1 network of chapter 09, 100 points, binary cross-entropy, plain SGD on all points. Each way
is a function of the initial models that returns a step of all copies and a function for the logits,
S x N x 1. All come to equal logits, which is checked before they are timed. Times are CPU times, the
lowest of many short repeats taken in turn. A compiled step is faster than the helper, but it needs a C++
compiler on the reader's machine and many seconds to compile for each new shape.
"""

from __future__ import annotations

import math
import shutil
import sys
from time import process_time

import torch
from torch import func, nn

from helpers import ensembles
from helpers.runtime import generator, seeded_weights

S, N, LR = 256, 100, 0.05
GOAL = 5.0  # microseconds a seed and step
X = torch.randn(N, 2, generator=generator("bench-points"))
Y = (X.norm(dim=1, keepdim=True) < 1).float()
LOSS = nn.BCEWithLogitsLoss()


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))


def initial() -> list[nn.Sequential]:
    """Return the S initial models."""
    models = []
    for seed in range(S):
        with seeded_weights(seed):
            models.append(network())
    return models


def stacked(models) -> list[torch.Tensor]:
    """Return weights, S x out x in, and biases, S x out, in turn."""
    layers = zip(*(model.parameters() for model in models))
    return [torch.stack(layer).detach() for layer in layers]


def one_by_one(models):
    optimizers = [torch.optim.SGD(model.parameters(), lr=LR) for model in models]

    def step():
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad()
            LOSS(model(X), Y).backward()
            optimizer.step()

    return step, lambda: torch.stack([model(X) for model in models])


def torch_func(models):
    params, _ = func.stack_module_state(models)

    def loss(params):
        return LOSS(func.functional_call(models[0], params, (X,)), Y)

    gradients = func.vmap(func.grad(loss))

    @torch.no_grad()
    def step():
        for name, gradient in gradients(params).items():
            params[name] -= LR * gradient

    return step, lambda: func.vmap(lambda params: func.functional_call(models[0], params, (X,)))(params)


def autograd(models, points_last: bool):
    """Batched products and autograd; activations are S x N x H, or S x H x N."""
    params = [values.requires_grad_() for values in stacked(models)]

    def forward():
        A = (X.T if points_last else X).expand(S, -1, -1)
        for i in range(0, 6, 2):
            W, b = params[i : i + 2]
            Z = torch.baddbmm(b[:, :, None], W, A) if points_last else torch.baddbmm(b[:, None], A, W.mT)
            A = Z if i == 4 else Z.relu()
        return A.mT if points_last else A

    def step():
        # The sum over copies of their mean losses: no copy's gradient holds another's.
        gradients = torch.autograd.grad(LOSS(forward(), Y.expand(S, N, 1)) * S, params)
        torch._foreach_add_([values.detach() for values in params], gradients, alpha=-LR)

    return step, forward


def by_hand_once(X1, Y1, params):
    """One step with a backward pass by hand, results in new memory; activations are S x H x N."""
    W1, b1, W2, b2, W3, b3 = params
    A1 = torch.relu(W1 @ X1 + b1[:, :, None])
    A2 = torch.relu(W2 @ A1 + b2[:, :, None])
    d3 = (torch.sigmoid(W3 @ A2 + b3[:, :, None]) - Y1) / N
    d2 = (W3.mT @ d3) * (A2 > 0)
    d1 = (W2.mT @ d2) * (A1 > 0)
    slopes = [d1 @ X1.mT, d1.sum(2), d2 @ A1.mT, d2.sum(2), d3 @ A2.mT, d3.sum(2)]
    return [values - LR * slope for values, slope in zip(params, slopes)]


def by_hand(models, n_steps: int = 1):
    """`by_hand_once`, as it is or, for several steps in one call, compiled."""
    params, X1, Y1 = stacked(models), X.T.contiguous(), Y.T.contiguous()

    def several(X1, Y1, params):
        for _ in range(n_steps):
            params = by_hand_once(X1, Y1, params)
        return params

    if n_steps > 1:
        several = torch.compile(several)

    def step():
        params[:] = several(X1, Y1, params)

    def logits():
        W1, b1, W2, b2, W3, b3 = (values if values.ndim == 3 else values[:, :, None] for values in params)
        return (W3 @ torch.relu(W2 @ torch.relu(W1 @ X1 + b1) + b2) + b3).mT

    return step, logits


def seeds_last(models):
    """By hand and without products of matrices: activations are H x N x S, one multiply-add for each weight row."""
    params = [values.movedim(0, -1).contiguous() for values in stacked(models)]  # out x in x S, out x S
    inputs, targets = X.T[:, :, None].expand(-1, -1, S).contiguous(), Y.expand(N, S)

    def product(W, A):
        """Return the sum over i of W, o x i x S, times A, i x N x S."""
        Z = W[:, 0, None] * A[0]
        for i in range(1, len(A)):
            Z.addcmul_(W[:, i, None], A[i])
        return Z

    def forward():
        A = [inputs]
        for i in range(0, 6, 2):
            Z = product(params[i], A[-1]).add_(params[i + 1][:, None])
            A.append(Z if i == 4 else Z.relu_())
        return A

    def step():
        A = forward()
        slope = (A[3].sigmoid() - targets) / N
        for layer in (2, 1, 0):
            W, b = params[2 * layer : 2 * layer + 2]
            passed = product(W.transpose(0, 1), slope).mul_(A[layer] > 0) if layer else None
            for o in range(len(W)):
                W[o].sub_((A[layer] * slope[o]).sum(1), alpha=LR)
            b.sub_(slope.sum(1), alpha=LR)
            slope = passed

    return step, lambda: forward()[-1].permute(2, 1, 0)


def helper(models):
    many = ensembles.Many(network, range(S), X, Y, "bce")
    steps, batches = ensembles._Steps(many, "sgd", LR, 0.0), ensembles._batches(many, None)

    def step():
        for inputs, targets in next(batches):
            steps.step(inputs, targets)

    return step, lambda: many.logits(X)


UNROLLED = 4
# Name, function of the models, steps in a call.
WAYS = [
    ("one by one", one_by_one, 1),
    ("torch.func: vmap, grad, functional_call", torch_func, 1),
    ("batched products, autograd, S x N x H", lambda models: autograd(models, False), 1),
    ("batched products, autograd, S x H x N", lambda models: autograd(models, True), 1),
    ("by hand, H x N x S, no products of matrices", seeds_last, 1),
    ("by hand, S x H x N, new memory", by_hand, 1),
    (f"the same, compiled, {UNROLLED} steps in one", lambda models: by_hand(models, UNROLLED), UNROLLED),
    ("helpers.ensembles: by hand, memory allocated once", helper, 1),
]


def main() -> int:
    """Print the table; return 1 when a way computes something else or the helper misses its goal."""
    torch.set_num_threads(1)
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    ways = [way for way in WAYS if compiler or "compiled" not in way[0]]
    made = [way(initial()) for _, way, _ in ways]
    expected, broken = None, 0
    for (name, _, at_once), (step, logits) in zip(ways, made):
        for _ in range(8 // at_once):  # a warm-up too
            step()
        expected = logits().detach() if expected is None else expected
        if not torch.allclose(logits(), expected, rtol=1e-4, atol=1e-5):
            print(f"{name}: other logits than one by one")
            broken = 1
    best = [math.inf] * len(ways)
    for repeat in range(20):
        for i, ((_, _, at_once), (step, _)) in enumerate(zip(ways, made)):
            if i == 0 and repeat >= 5:  # slow, and steady
                continue
            n_calls = 1 if i == 0 else 12 // at_once
            started = process_time()
            for _ in range(n_calls):
                step()
            best[i] = min(best[i], (process_time() - started) / (n_calls * at_once))
    title = f"{S} copies of 2-4-4-1, {N} points, one thread: CPU µs a copy and step"
    print(f"{title:<66}{'µs':>7}{'ratio':>8}")
    for (name, _, _), seconds in zip(ways, best):
        print(f"{name:<66}{1e6 * seconds / S:>7.2f}{best[0] / seconds:>8.0f}")
    if not compiler:
        print("no C++ compiler here: compiled ways left out")
    kept = 1e6 * best[-1] / S <= GOAL
    print(f"promise: helpers.ensembles at most {GOAL:g} µs a copy and step{'' if kept else '  BROKEN'}")
    return int(broken or not kept)


if __name__ == "__main__":
    sys.exit(main())
