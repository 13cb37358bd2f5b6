"""Which rows each update takes: how an epoch is cut into batches, and how far it has come."""

from dataclasses import dataclass, replace

__all__ = ["Batches", "Position", "cut"]


@dataclass(frozen=True)
class Batches:
    """Consecutive batches of one size within an epoch."""

    first: int
    size: int
    count: int

    @property
    def end(self) -> int:
        return self.first + self.size * self.count


def cut(first: int, rows: int, size: int, *, drop_last: bool, least: int) -> list[Batches]:
    """Cut the rows from `first` on into batches.

    The last one has what is left over, or is left out with `drop_last`. If that is fewer than
    `least` rows, they join the batch before: batch norm can't take a single one.
    """
    count, rest = divmod(rows - first, size)
    if drop_last:
        rest = 0
    if 0 < rest < least and count:
        count, rest = count - 1, size + rest
    parts = [Batches(first, size, count), Batches(first + count * size, rest, int(rest > 0))]
    return [part for part in parts if part.count]


@dataclass(frozen=True)
class Position:
    """How far the present epoch has come.

    After `updates` updates `row` of its `end` rows were used; every update since takes `batch`
    more. So the place follows from the number of updates alone, which native code advances together
    with the model: whenever an interruption comes, model and place agree.
    """

    epoch: int = 0
    row: int = 0
    end: int = 0  # 0: not begun
    updates: int = 0
    batch: int = 0

    def at(self, updates: int) -> "Position":
        """The place after so many updates; a finished epoch gives way to the next."""
        row = self.row + (updates - self.updates) * self.batch
        if row < self.end:
            return Position(self.epoch, row, self.end, updates)
        return Position(self.epoch + (self.end > 0), updates=updates)

    def entering(self, end: int) -> "Position":
        """Go on with this epoch if it has `end` rows, else begin one that has."""
        if self.end in (0, end):
            return replace(self, end=end)
        return Position(self.epoch + 1, end=end, updates=self.updates)
