"""Weight standardization and PWS of many convolutions at once: one Triton kernel each way, a program for each filter.

Filters lie anywhere; a table says where those of each convolution begin, how many weights each has, and what its rule
is. With w one filter, mean m, c = w - m and n weights, its kernel is k = s a r c with gain a and scale s:

    PWS  r = (sum c^2 / n + e)^-1/2             dr/dc = -q c with q = r^3 / n
    WS   r = 1 / (f d + e), d^2 = sum c^2 / (n - 1)            q = r^2 f / ((n - 1) d)

and backwards, g being the gradient of k:  dw = s a (r (g - mean g) - q c sum(g c)),  da = s r sum(g c).
Everything is computed in float32, in two passes for m and c; kernels are written in any floating type.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 1024  # weights of a filter that a program has at hand
COLUMNS = tl.constexpr(5)  # of a table of places: weights, gains (0 for none), n, first row, first element
RULE = tl.constexpr(3)  # numbers of a rule: e, s, f, where f is 0 for PWS


@triton.jit
def _standardize(places, rules, owners, kernels, moments, rows, WIDTH: tl.constexpr):
    """kernels: all filters' elements; moments: (3, rows) of m, r and q, which the way back needs."""
    row = tl.program_id(0)
    owner = tl.load(owners + row)
    place, rule = places + owner * COLUMNS, rules + owner * RULE
    n, inside = tl.load(place + 2), row - tl.load(place + 3)
    weights = tl.load(place).to(tl.pointer_type(tl.float32)) + inside * n
    kernels += tl.load(place + 4) + inside * n
    column = tl.arange(0, WIDTH)
    total = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, n, WIDTH):
        total += tl.load(weights + start + column, mask=start + column < n, other=0)
    mean = tl.sum(total, 0) / n
    squares = tl.zeros((WIDTH,), tl.float32)
    for start in range(0, n, WIDTH):
        mask = start + column < n
        centred = tl.where(mask, tl.load(weights + start + column, mask=mask, other=0) - mean, 0.0)
        squares += centred * centred
    square = tl.sum(squares, 0)
    e, s, f = tl.load(rule), tl.load(rule + 1), tl.load(rule + 2)
    if f > 0:
        deviation = tl.sqrt(square / (n - 1))
        r = 1 / (f * deviation + e)
        q = r * r * f / ((n - 1) * tl.where(deviation > 0, deviation, 1.0))  # at 0 what it is multiplied with is 0
    else:
        r = 1 / tl.sqrt(square / n + e)
        q = r * r * r / n
    tl.store(moments + row, mean)
    tl.store(moments + rows + row, r)
    tl.store(moments + 2 * rows + row, q)
    gains = tl.load(place + 1)
    if gains != 0:
        s *= tl.load(gains.to(tl.pointer_type(tl.float32)) + inside)
    for start in range(0, n, WIDTH):
        mask = start + column < n
        kernel = (tl.load(weights + start + column, mask=mask, other=0) - mean) * (r * s)
        tl.store(kernels + start + column, kernel.to(kernels.dtype.element_ty), mask=mask)


@triton.jit
def _carry_back(places, rules, owners, moments, dkernels, dweights, dgains, rows, WIDTH: tl.constexpr):
    """dkernels and dweights: all filters' elements; dgains: (rows,)."""
    row = tl.program_id(0)
    owner = tl.load(owners + row)
    place, rule = places + owner * COLUMNS, rules + owner * RULE
    n, inside = tl.load(place + 2), row - tl.load(place + 3)
    weights = tl.load(place).to(tl.pointer_type(tl.float32)) + inside * n
    first = tl.load(place + 4) + inside * n
    dkernels, dweights = dkernels + first, dweights + first
    mean, r, q = tl.load(moments + row), tl.load(moments + rows + row), tl.load(moments + 2 * rows + row)
    column = tl.arange(0, WIDTH)
    sums, products = tl.zeros((WIDTH,), tl.float32), tl.zeros((WIDTH,), tl.float32)
    for start in range(0, n, WIDTH):
        mask = start + column < n
        gradient = tl.load(dkernels + start + column, mask=mask, other=0).to(tl.float32)
        sums += gradient
        products += gradient * (tl.load(weights + start + column, mask=mask, other=0) - mean)
    middle, product = tl.sum(sums, 0) / n, tl.sum(products, 0)
    s, gains = tl.load(rule + 1), tl.load(place + 1)
    tl.store(dgains + row, s * r * product)
    if gains != 0:
        s *= tl.load(gains.to(tl.pointer_type(tl.float32)) + inside)
    for start in range(0, n, WIDTH):
        mask = start + column < n
        gradient = tl.load(dkernels + start + column, mask=mask, other=0).to(tl.float32)
        centred = tl.load(weights + start + column, mask=mask, other=0) - mean
        tl.store(dweights + start + column, s * (r * (gradient - middle) - q * product * centred), mask=mask)


class Table:
    """Where the filters of some convolutions lie, and by which rules: what both kernels are launched with.

    weights: (c_out, c_in, k, k) float32, each filter's elements side by side; gains: (c_out,) float32 or None; rules:
    e, s and f of each. The table holds addresses only: it serves as long as these tensors lie where they are.
    """

    def __init__(self, weights: list[Tensor], gains: list[Tensor | None], rules: list[tuple[float, float, float]]):
        device = weights[0].device
        self.lengths = [len(weight) for weight in weights]
        self.rows, self.firsts, self.elements = sum(self.lengths), [], 0
        places = []
        for i in range(len(weights)):
            fan = weights[i][0].numel()
            address = 0 if gains[i] is None else gains[i].data_ptr()
            places.append((weights[i].data_ptr(), address, fan, sum(self.lengths[:i]), self.elements))
            self.firsts.append(self.elements)
            self.elements += -(-weights[i].numel() // 128) * 128  # whole cache lines, for what reads the kernels
        self.width = min(WIDEST, triton.next_power_of_2(max(place[2] for place in places)))
        self.places = torch.tensor(places, dtype=torch.int64).to(device)
        self.rules = torch.tensor(rules, dtype=torch.float32).to(device)
        owners = torch.arange(len(weights)).repeat_interleave(torch.tensor(self.lengths))
        self.owners = owners.to(device)

    def split(self, elements: Tensor, like: list[Tensor]) -> list[Tensor]:
        """Views on the elements of each convolution's filters, shaped and laid out as the weights they are `like`."""
        return [
            elements.as_strided(weight.shape, weight.stride(), first)
            for first, weight in zip(self.firsts, like, strict=True)
        ]

    def standardize(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Elements of all kernels, and the moments that `carry_back` needs."""
        kernels = torch.empty(self.elements, dtype=dtype, device=self.places.device)
        moments = torch.empty(3, self.rows, device=self.places.device)
        _standardize[(self.rows,)](self.places, self.rules, self.owners, kernels, moments, self.rows, WIDTH=self.width)
        return kernels, moments

    def carry_back(self, moments: Tensor, dkernels: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of the weights' elements, and of the gains (rows,)."""
        dweights = torch.empty(self.elements, device=dkernels.device)
        dgains = torch.empty(self.rows, device=dkernels.device)
        tables = (self.places, self.rules, self.owners)
        _carry_back[(self.rows,)](*tables, moments, dkernels, dweights, dgains, self.rows, WIDTH=self.width)
        return dweights, dgains
