"""Lookahead: slow weights that follow the fast ones of any optimizer (Zhang et al. 2019, arXiv 1907.08610)."""

import torch

from utils.optim.guarding import Around, Facts, Steps


class Lookahead(Around):
    """After every `steps` steps: slow <- slow + share (fast - slow), fast <- slow. The inner one's memory stays.

    Slow weights start where the first step starts. That is later than here: gains of pws start from data in between.
    """

    def __init__(self, inner: Steps, steps: int, share: float):
        super().__init__(inner)
        self.steps, self.share = steps, share
        self.weights = [p for group in inner.param_groups for p in group["params"]]
        self.slow = []
        self.count = torch.zeros((), dtype=torch.int64, device=self.weights[0].device)

    @torch.no_grad()
    def step(self) -> None:
        if not self.slow:
            self.slow = [weight.detach().clone() for weight in self.weights]
        self.step_inside()
        taken = torch.ones_like(self.count) if self.found_inf is None else (self.found_inf == 0).long()
        self.count += taken
        due = (self.count % self.steps == 0) & (taken == 1)
        for slow, fast in zip(self.slow, self.weights, strict=True):
            moved = due.to(slow.dtype)  # by a weight of 0 or 1, lerp gives one end exactly
            slow.lerp_(fast, self.share * moved)
            fast.lerp_(slow, moved)

    def state_dict(self) -> Facts:
        own = {"slow": self.slow, "count": int(self.count)}
        return {"inner": self.inner.state_dict(), "lookahead": own}

    def load_state_dict(self, state: Facts) -> None:
        self.inner.load_state_dict(state["inner"])
        own = state["lookahead"]
        pairs = zip(own["slow"], self.weights, strict=True) if own["slow"] else ()
        self.slow = [torch.empty_like(weight).copy_(slow) for slow, weight in pairs]
        self.count.fill_(own["count"])
