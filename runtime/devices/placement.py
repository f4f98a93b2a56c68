"""What each execution provider took of a loaded model: nodes, share of the weights, and why the rest is elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mimo_mobile import graph_file
from mimo_mobile.providers import PROVIDERS


@dataclass(frozen=True, slots=True)
class Share:
    """What one provider took of a model.

    Attributes:
        provider: Its name as users type it.
        nodes: How many nodes it took.
        weight_share: Which share of the weights' bytes these nodes use, 0…1.
        operators: How many nodes it took of each operator.
    """

    provider: str
    nodes: int
    weight_share: float
    operators: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a loaded model computes.

    Attributes:
        asked: The provider that was asked for.
        shares: What each provider took, the largest share of weights first.
        reasons: Why operators are not where they were wanted.
    """

    asked: str
    shares: tuple[Share, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether all weights are where they were asked for; the CPU computes lengths and indices in any case."""
        return all(share.provider == self.asked or share.weight_share == 0 for share in self.shares)

    def __str__(self) -> str:
        parts = [f"{each.provider} {each.nodes} nodes, {each.weight_share:.0%} of the weights" for each in self.shares]
        reasons = "".join(f"; {operator}: {reason}" for operator, reason in self.reasons.items())
        return "; ".join(parts) + reasons


def placement(sessions: Mapping[Path, Any], asked: str) -> Placement:
    """Where the nodes of graphs are, from sessions that were made with ``RECORD`` set.

    Args:
        sessions: InferenceSessions by the graph's file.
        asked: The provider that was asked for, as users type it.
    """
    names = {each.ort_name: each.name for each in PROVIDERS.values()}
    nodes, weights = dict[str, list[Any]](), dict[str, int]()
    for file, session in sessions.items():
        if asked != "cpu":  # which has them all
            weights |= {f"{file}:{name}": size for name, _, size in _weighted_nodes(file)}
        for part in session.get_provider_graph_assignment_info():
            found = [SimpleNamespace(name=f"{file}:{each.name}", op_type=each.op_type) for each in part.get_nodes()]
            nodes.setdefault(names.get(part.ep_name, part.ep_name), []).extend(found)
    return joined(asked, nodes, weights)


def weights_by_operator(model: Path) -> dict[str, int]:
    """Bytes of the weights that each operator of a graph uses."""
    total: Counter[str] = Counter()
    for _, operator, size in _weighted_nodes(model):
        total[operator] += size
    return dict(total)


def _weighted_nodes(model: Path) -> list[tuple[str, str, int]]:
    """(name, operator, bytes of external weights) of every node."""
    graph = graph_file.read(model)
    sizes = {name: tensor.length for name, tensor in graph.tensors.items()}
    return [(node.name, node.op_type, sum(sizes.get(name, 0) for name in node.inputs)) for node in graph.nodes]


def joined(asked: str, nodes: Mapping[str, Sequence[Any]], weights: Mapping[str, int]) -> Placement:
    """The placement that follows from nodes by provider; each node has a ``name`` and an ``op_type``."""
    total = sum(weights.values()) or 1
    shares = [
        Share(
            name,
            len(each),
            sum(weights.get(node.name, 0) for node in each) / total if len(nodes) > 1 else 1.0,
            dict(Counter(node.op_type for node in each).most_common()),
        )
        for name, each in nodes.items()
    ]
    shares.sort(key=lambda share: -share.weight_share)
    elsewhere = {operator for share in shares if share.provider != asked for operator in share.operators}
    provider = PROVIDERS[asked]
    reasons = {each: f"{asked} has no kernel for it ({provider.source})" for each in elsewhere & provider.lacks}
    left = sorted(elsewhere - set(reasons))
    if left and asked != "cpu":
        reasons[", ".join(left)] = f"refused by {asked}, or between operators that are"
    return Placement(asked, tuple(shares), reasons)
