"""Packs of several versions as one endless stream, each source with its share, and the mix changeable in mid-run.

Which source gives the n-th pack depends on the weights alone (`apportion.py`), which of its packs on how many it has
given (`shuffle.py`): a cursor is some integers, and what was taken before a change stays as it was. A source is a
version, or a quality bucket of one. Knows packed versions; must not know ranks, steps nor what is learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from laguna_agent.errors import ConfigError, DatasetError
from laguna_agent.training.batch import Pack
from laguna_agent.training.data.apportion import Turns
from laguna_agent.training.data.filtering import sampling_weights
from laguna_agent.training.data.manifest import SHOWN
from laguna_agent.training.data.packed import PackedRows, PackedVersion
from laguna_agent.training.data.shuffle import shuffled
from laguna_agent.training.data.store import Store, Version
from laguna_agent.training.data.token_versions import bucket_name
from laguna_agent.training.data.tokenizers import behind, vocabulary_of

_LARGEST_SEED = (1 << 63) - 1


class _Source(NamedTuple):
    """What has a share of its own: `name` is the version as it was named, and `/bucket` where buckets have weights."""

    name: str
    version: str
    bucket: str
    rows: PackedRows


class Weighing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The weights of the sources, in their order, from pack number `since` on."""

    since: int
    weights: list[float]


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a stream is. `sources` are (version, bucket, packs) in order; `given` counts each one's packs so far,
    `taken` those since the last weighing."""

    seed: int
    sources: list[tuple[str, str, int]]
    given: list[int]
    taken: list[int]
    weighings: list[Weighing]
    buckets: dict[str, float] | None


class PackedStream:
    """The packs of some versions, each one's share by its weight; implements `training.batch.Stream`.

    `versions` are ids, beginnings of ids or names; `weights` are by the same words, in packs (which are all about
    full), and without them each version has the share of its size. `buckets` are weights of quality buckets, by which
    the natural share of each bucket within its version is multiplied; a bucket that is not named has 1, and without
    them buckets are not told apart (`ranked` has those that `filter` was told). Raises ConfigError for weights that are
    none, DatasetError for versions that are no packs, or not all made with one tokenizer.
    """

    def __init__(
        self,
        store: Store,
        versions: Sequence[str],
        weights: Mapping[str, float] | None = None,
        seed: int = 0,
        *,
        buckets: Mapping[str, float] | None = None,
        cache: Path | None = None,
    ) -> None:
        if not versions or len(set(versions)) < len(versions):
            raise ConfigError("a blend needs at least one version, each named once")
        if not 0 <= seed <= _LARGEST_SEED:
            raise ConfigError(f"a seed of {seed} is not between 0 and {_LARGEST_SEED}")
        self.seed = seed
        self._buckets = dict(buckets) if buckets is not None else None
        found = {name: store.open(name) for name in versions}
        _check_tokenizers(found)
        opened = {name: PackedVersion(version, cache) for name, version in found.items()}
        if len({version.id for version in opened.values()}) < len(opened):
            raise ConfigError(f"two of the blend's versions are the same one: {', '.join(versions)}")
        self._sources = [source for name, version in opened.items() for source in self._of(name, version)]
        self._given = [0] * len(self._sources)
        self._packs = {name: len(version.rows) for name, version in opened.items()}
        first = self._packs if weights is None else weights
        self._weighings = [Weighing(0, self._shared(first, self._buckets))]
        self._turns = Turns(self._weighings[0].weights)

    def take(self, count: int) -> list[Pack]:
        """The next `count` packs."""
        return [self._next() for _ in range(count)]

    def skip(self, count: int) -> None:
        """Go on as if the next `count` packs had been taken; none of them is read."""
        for _ in range(count):
            self._given[self._turns.next()] += 1

    def reweigh(self, weights: Mapping[str, float], *, buckets: Mapping[str, float] | None = None) -> None:
        """From the next pack on other weights, by the versions' names as they were given; 0 gives one a rest. `buckets`
        stay as they were where they are not given.

        Raises ConfigError where a version is missing or unknown, a weight is none, or buckets are not told apart.
        """
        if buckets is not None and self._buckets is None:
            raise ConfigError(
                "the blend does not tell quality buckets apart; give it weights of buckets from the start"
            )
        factors = self._buckets if buckets is None else dict(buckets)
        shared = self._shared(weights, factors)
        self._buckets = factors
        self._turns = Turns(shared)
        now = sum(self._given)
        kept = [each for each in self._weighings if each.since < now]
        self._weighings = [*kept, Weighing(now, shared)]

    def shares(self) -> dict[str, float]:
        """Each source's part of the packs given so far; 0 for all where there were none."""
        total = sum(self._given) or 1
        return {source.name: given / total for source, given in zip(self._sources, self._given, strict=True)}

    def epochs(self) -> dict[str, float]:
        """How often each source was gone through: 1.5 is once, and half of its second time."""
        return {source.name: given / len(source.rows) for source, given in zip(self._sources, self._given, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as JSON can hold it; it has the weights too, and when they were changed."""
        state = _State(
            self.seed,
            self._identity(),
            list(self._given),
            list(self._turns.taken),
            list(self._weighings),
            self._buckets,
        )
        told: dict[str, Any] = msgspec.to_builtins(state)
        return told

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, with the weights of then. Raises DatasetError where it is the state of other data."""
        try:
            told = msgspec.convert(state, _State)
        except msgspec.ValidationError as error:
            raise DatasetError(f"the data's cursor cannot be read: {error}; begin the run anew") from None
        self._check(told)
        turns = Turns(told.weighings[-1].weights, told.taken)
        self._buckets = told.buckets
        self._given, self._weighings, self._turns = list(told.given), list(told.weighings), turns

    def _check(self, told: _State) -> None:
        ours = self._identity()
        for before, now in zip(told.sources, ours, strict=False):
            if before != now:
                raise DatasetError(
                    f"the run was begun with {_told(before)}, and this is {_told(now)}; go on with the "
                    "versions of then, or begin anew"
                )
        if len(told.sources) != len(ours):
            raise DatasetError(
                f"the run was begun with {len(told.sources)} sources, and these are {len(ours)}; go on "
                "with the versions of then, or begin anew"
            )
        if told.seed != self.seed:
            raise DatasetError(f"the run was begun with data seed {told.seed}, and this is {self.seed}; set it back")
        counts: list[int] = [len(told.given), len(told.taken), *(len(each.weights) for each in told.weighings)]
        since = told.weighings[-1].since if told.weighings else -1
        whole = all(count == len(ours) for count in counts) and min(told.given + told.taken, default=-1) >= 0
        if not whole or since + sum(told.taken) != sum(told.given):
            raise DatasetError("the data's cursor contradicts itself; go on from another checkpoint")

    def _next(self) -> Pack:
        chosen = self._turns.next()
        source, given = self._sources[chosen], self._given[chosen]
        epoch, position = divmod(given, len(source.rows))
        self._given[chosen] += 1
        return source.rows[shuffled(position, len(source.rows), seed=self.seed, epoch=epoch)]

    def _of(self, name: str, version: PackedVersion) -> list[_Source]:
        named = {"": version.rows} if self._buckets is None else dict(version.buckets)
        if not any(len(rows) for rows in named.values()):
            raise DatasetError(f"version {name} has no pack that the blend could give")
        return [
            _Source(f"{name}/{key}" if key else name, version.id, key, rows) for key, rows in named.items() if len(rows)
        ]

    def _shared(self, weights: Mapping[str, float], buckets: Mapping[str, float] | None) -> list[float]:
        """A weight for each source, of those of the versions."""
        unknown = set(weights) ^ set(self._packs)
        if unknown:
            raise ConfigError(
                f"the blend's weights name {', '.join(sorted(weights))}, its versions are "
                f"{', '.join(sorted(self._packs))}: each needs one"
            )
        for name, weight in weights.items():
            if not math.isfinite(weight) or weight < 0:
                raise ConfigError(f"the weight of {name} is {weight!r}, expected a number of 0 or more")
        factors = [len(source.rows) * _factor(source.bucket, buckets) for source in self._sources]
        totals: dict[str, float] = {}
        for source, factor in zip(self._sources, factors, strict=True):
            totals[source.version] = totals.get(source.version, 0.0) + factor
        empty = [
            source.name for source in self._sources if not totals[source.version] and self._weight(weights, source)
        ]
        if empty:
            raise ConfigError(
                f"all quality buckets of {empty[0].partition('/')[0]} have weight 0; give one more than 0"
            )
        shared = [
            float(self._weight(weights, source) * factor / (totals[source.version] or 1))
            for source, factor in zip(self._sources, factors, strict=True)
        ]
        if not sum(shared) > 0:
            raise ConfigError("the weights of the blend sum to 0: give one version a weight above 0")
        return shared

    def _weight(self, weights: Mapping[str, float], source: _Source) -> float:
        return weights[source.name.partition("/")[0]]

    def _identity(self) -> list[tuple[str, str, int]]:
        return [(source.version, source.bucket, len(source.rows)) for source in self._sources]


def ranked(version: Version) -> dict[str, float]:
    """The weights of quality buckets that a version was filtered with, as `PackedStream` takes them."""
    return {bucket_name(at): weight for at, weight in enumerate(sampling_weights(version))}


def _check_tokenizers(versions: Mapping[str, Version]) -> None:
    """One tokenizer's ids mean nothing to a model that learns another's."""
    found = [(name, tokenizer) for name, each in versions.items() if (tokenizer := behind(each)) is not None]
    for name, tokenizer in found[1:]:
        if vocabulary_of(tokenizer) != vocabulary_of(found[0][1]):
            raise DatasetError(f"{found[0][0]} and {name} were made with different tokenizers; tokenise both with one")


def _factor(bucket: str, buckets: Mapping[str, float] | None) -> float:
    factor = 1.0 if buckets is None else buckets.get(bucket, 1.0)
    if not math.isfinite(factor) or factor < 0:
        raise ConfigError(f"the weight of bucket {bucket} is {factor!r}, expected a number of 0 or more")
    return factor


def _told(source: tuple[str, str, int]) -> str:
    version, bucket, packs = source
    return f"version {version[:SHOWN]}{' bucket ' + bucket if bucket else ''} of {packs:,} packs"
