"""The order in which nodes are run, and which together."""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

from .nodes import Node


def schedule(nodes: Sequence[Node], classes: Sequence[int]) -> list[list[int]]:
    """Groups of nodes, by number, each after what it reads; those of a group are of one class.

    Those with effects keep their order. A node of a class of its own is run as soon as it can be.
    Of the other classes with nodes that are ready, the next is that of the least mean depth among
    all its nodes: so all of a recursion's steps come before what reads them, which is then ready at
    once.
    """
    makers = {out: i for i, node in enumerate(nodes) for out in node.outputs}
    before = [{makers[x] for x in node.reads if x in makers} for node in nodes]
    for last, i in itertools.pairwise(i for i, node in enumerate(nodes) if node.eqn.effects):
        before[i].add(last)
    after: list[list[int]] = [[] for _ in nodes]
    depths: list[int] = []
    for i, made in enumerate(before):
        depths.append(1 + max((depths[j] for j in made), default=0))
        for j in made:
            after[j].append(i)
    size, depth = Counter(classes), defaultdict(int)
    for own, deep in zip(classes, depths, strict=True):
        depth[own] += deep
    ready: dict[int, list[int]] = defaultdict(list)
    heap: list[tuple[float, int]] = []
    waiting = list(map(len, before))

    def release(i: int) -> None:
        own = classes[i]
        if not ready[own]:
            mean = depth[own] / size[own]
            heapq.heappush(heap, (mean if size[own] > 1 else -1.0, own))
        ready[own].append(i)

    for i, count in enumerate(waiting):
        if not count:
            release(i)
    groups = []
    while heap:
        group = sorted(ready.pop(heapq.heappop(heap)[1]))
        groups.append(group)
        for i in group:
            for j in after[i]:
                waiting[j] -= 1
                if not waiting[j]:
                    release(j)
    return groups
