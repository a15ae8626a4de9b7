"""What is wrong with data: counted, with the first offenders and the cure."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from paca_mm.errors import UserError

#: How many offenders of one kind a message names.
FIRST = 5


class Offender(NamedTuple):
    """One thing that has a fault.

    Attributes:
        words: What a message calls it: ``'annotation 12 (a.png): bbox [3, 4, 0, 9]'``.
        image: The file of its image, where that is known.
        box: Where in it: x, y, width, height in pixels.
    """

    words: str
    image: str | None = None
    box: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Fault:
    """A kind of fault in one file or folder.

    Attributes:
        kind: Its name for programs, ``'box-without-size'``.
        where: The file or folder.
        what: What was found, and what was expected: the sentence behind ``where``.
        cure: What to do.
        count: How often it was found.
        first: The first offenders.
        fatal: The run would be wrong or end with it. Otherwise the host leaves the offenders out.
    """

    kind: str
    where: str
    what: str
    cure: str
    count: int = 1
    first: tuple[Offender, ...] = ()
    fatal: bool = True

    @property
    def weight(self) -> str:
        """``'error'`` or ``'warning'``."""
        return 'error' if self.fatal else 'warning'

    def __str__(self) -> str:
        more = f' ... {self.count - len(self.first)} more' if self.count > len(self.first) else ''
        first = f'\n  first: {"; ".join(o.words for o in self.first)}{more}' if self.first else ''
        return f'{self.where} {self.what}{first}\n  to fix it: {self.cure}'

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self) | {'first': [offender._asdict() for offender in self.first]}

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> 'Fault':
        """A fault from its plain data."""
        return cls(**{**data, 'first': tuple(Offender(**each) for each in data['first'])})


def raise_fatal(faults: Iterable[Fault]) -> None:
    """Nothing, if no fault is fatal.

    Raises:
        UserError: Some are; the message has all of them.
    """
    if fatal := [fault for fault in faults if fault.fatal]:
        raise UserError('\n'.join(map(str, fatal)))


def by_kind(faults: Iterable[Fault]) -> Iterator[Fault]:
    """One fault of each kind: the first, with the count and the files of all."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.kind, []).append(fault)
    for first, *others in kinds.values():
        if others:
            files = tuple(Offender(fault.where, fault.where) for fault in (first, *others))
            first = replace(first, count=len(files), first=files[:FIRST])
        yield first


@dataclass
class Tally:
    """Counts offenders by kind and keeps the first few of each."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[Offender]] = field(default_factory=dict)

    def note(self, kind: str, offender: Offender) -> None:
        """Count one more."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= FIRST:
            self.first.setdefault(kind, []).append(offender)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; see :meth:`of_dict`."""
        return {
            kind: [count, [list(offender) for offender in self.first[kind]]]
            for kind, count in self.counts.items()
        }

    @classmethod
    def of_dict(cls, data: Mapping[str, Any]) -> 'Tally':
        """A tally from its plain data."""
        tally = cls()
        for kind, (count, first) in data.items():
            tally.counts[kind] = count
            tally.first[kind] = [
                Offender(words, image, None if box is None else tuple(box))
                for words, image, box in first
            ]
        return tally

    def with_images_in(self, folder: str) -> 'Tally':
        """The same; the images of the offenders are names in a folder."""
        tally = Tally()
        tally.counts = dict(self.counts)
        for kind, first in self.first.items():
            tally.first[kind] = [
                o._replace(image=os.path.join(folder, o.image)) if o.image else o for o in first
            ]
        return tally
