"""Curves over clients and size: what all answer to, and the naive ones that stand in where a model did worse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from comporta.capacity.models.draws import COUNT, Array

Rule = Literal["last rung", "linear"]
RULES: tuple[Rule, ...] = ("last rung", "linear")


class Curve(Protocol):
    """A quantity over clients and size."""

    def at(self, clients: Array, size: Array) -> Array:
        """Values for arrays with the draws on the first axis (length 400 or 1) that broadcast against each other."""
        ...


def crowd(clients: Array) -> Array:
    """The share of the others among the clients: 0 of one alone, towards 1 of many."""
    return np.asarray(1 - 1 / clients)


@dataclass(frozen=True)
class Ratio:
    """A latency: the mean one, clients / throughput (Little's law), times a ratio: a power of size, bounded in clients.

    Alone, a client meets the spread of the mix; in a crowd it meets the queue, which evens out. So the log of the ratio goes from
    one value to another with ``crowd``, instead of growing for ever.
    """

    throughput: Curve
    coefficients: Array
    """(400, 3): log ratio of one client at size 1, what a crowd adds to it, its slope by log size."""

    def at(self, clients: Array, size: Array) -> Array:
        shape = (COUNT, *(1,) * (max(clients.ndim, size.ndim) - 1))
        first, by_clients, by_size = (self.coefficients[:, k].reshape(shape) for k in range(3))
        mean_ms = 1000 * clients / self.throughput.at(clients, size)
        return np.asarray(mean_ms * np.exp(first + by_clients * crowd(clients)) * np.exp(by_size * np.log(size)))


@dataclass(frozen=True)
class Table:
    """The measured medians themselves: between them by logs, beyond the last rung by a naive rule."""

    sizes: tuple[float, ...]
    ladders: tuple[tuple[Array, Array], ...]
    """Of each size: clients, ascending, and the values there."""
    by_clients: Rule
    by_size: Rule
    error: Array
    """(400,) draws of the log of the rule's error."""

    def at(self, clients: Array, size: Array) -> Array:
        rows = [_along(clients, *ladder, self.by_clients) for ladder in self.ladders]
        measured = np.array(self.sizes)
        inside = np.clip(size, measured[0], measured[-1])
        total: Array = np.zeros(())
        for number, row in enumerate(rows):
            hat = np.interp(np.log(inside), np.log(measured), np.eye(len(measured))[number])
            total = total + hat * np.log(row)
        value = np.exp(total)
        if self.by_size == "linear" and len(rows) > 1:
            value = value * _beyond(size, measured[-2:], rows[-2], rows[-1])
        depth = max(clients.ndim, size.ndim)
        return np.asarray(value * np.exp(self.error.reshape(COUNT, *(1,) * (depth - 1))))


@dataclass(frozen=True)
class Replaced:
    """A model of which one direction did worse than a naive rule: that direction follows the rule from the last rung on."""

    model: Curve
    table: Table
    by_clients: Rule | None
    by_size: Rule | None

    def at(self, clients: Array, size: Array) -> Array:
        last = self.table.sizes[-1]
        inside = np.clip(size, self.table.sizes[0], last)
        along: Curve = self.table if self.by_clients else self.model
        value = along.at(clients, inside)
        if self.by_size is None:
            return np.asarray(value * self.model.at(clients, size) / self.model.at(clients, inside))
        if self.by_size == "linear" and len(self.table.sizes) > 1:
            ends = np.array(self.table.sizes[-2:])
            value = value * _beyond(size, ends, *(along.at(clients, np.full_like(size, end)) for end in ends))
        return value


@dataclass(frozen=True)
class Scaled:
    """Another state's curve, times a measured ratio."""

    other: Curve
    log_ratio: Array
    """(400,) draws."""

    def at(self, clients: Array, size: Array) -> Array:
        depth = max(clients.ndim, size.ndim)
        return np.asarray(self.other.at(clients, size) * np.exp(self.log_ratio.reshape(COUNT, *(1,) * (depth - 1))))


def table(
    cells: Sequence[tuple[float, float, float]], by_clients: Rule, by_size: Rule, error: Array | None = None
) -> Table:
    """From (clients, size, value) of each measured pair; ``error`` None: exact."""
    sizes = sorted({size for _, size, _ in cells})
    ladders = []
    for size in sizes:
        ladder = sorted((clients, value) for clients, at, value in cells if at == size)
        ladders.append((np.array([clients for clients, _ in ladder], float), np.array([value for _, value in ladder])))
    return Table(tuple(sizes), tuple(ladders), by_clients, by_size, np.zeros(COUNT) if error is None else error)


def _along(clients: Array, measured: Array, values: Array, rule: Rule) -> Array:
    found = np.exp(np.interp(np.log(clients), np.log(measured), np.log(values)))
    if rule == "linear" and len(measured) > 1:
        slope = (values[-1] - values[-2]) / (measured[-1] - measured[-2])
        line = np.maximum(values[-1] + slope * (clients - measured[-1]), 0.05 * values[-1])
        found = np.where(clients > measured[-1], line, found)
    return np.asarray(found)


def _beyond(size: Array, ends: Array, before: Array, last: Array) -> Array:
    """What a value is multiplied by beyond the largest size, on the line through the two largest."""
    slope = (1 - before / last) / (ends[1] - ends[0])
    return np.asarray(np.maximum(1 + slope * np.maximum(size - ends[1], 0.0), 0.05))
