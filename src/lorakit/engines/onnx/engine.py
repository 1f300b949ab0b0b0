"""The default engine: our own graph of the base on ONNX Runtime.

A step embeds the rows' tokens from the mapped checkpoint, makes the LoRA rows and the KV slots
ready, and runs the graph: once for all rows with a single new token, and once for each row with
more, or once for all that can be packed (engines.onnx.plan). What a row gets never depends on its
batch mates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.check import require_fit
from lorakit.engines.onnx.attached import Attached
from lorakit.engines.onnx.attaching import attached, require_applicable
from lorakit.engines.onnx.bound_steps import BoundSteps
from lorakit.engines.onnx.calibration import Calibration, Watcher
from lorakit.engines.onnx.device import CPU, Device
from lorakit.engines.onnx.few_rows import FEW, FewRows
from lorakit.engines.onnx.graph_cache import open_graph
from lorakit.engines.onnx.graph_choice import graph_of, kv_identity, weights_of
from lorakit.engines.onnx.kv_cache import KVCache
from lorakit.engines.onnx.lora_inputs import Slabs
from lorakit.engines.onnx.options import CALIBRATED, OnnxOptions
from lorakit.engines.onnx.ort import Step, native_errors
from lorakit.engines.onnx.packed_step import Lane
from lorakit.engines.onnx.plan import chunks, groups, lanes_of, packed_rows
from lorakit.engines.onnx.sequences import (
    PREFILL_CHUNK,
    SequenceEngine,
    capabilities_of,
)
from lorakit.engines.onnx.sessions import LANES, Other, Sessions
from lorakit.engines.onnx.together import effective, require_together
from lorakit.engines.onnx.vocabulary import Vocabulary
from lorakit.engines.protocol import (
    AdapterSet,
    Logits,
    Prepared,
    Row,
    Tokens,
)
from lorakit.engines.steps import check_rows, refuse_images, require_attached
from lorakit.engines.threads import default_threads
from lorakit.graph import (
    HEAD,
    GraphOptions,
    HeadForm,
    Sight,
    require_supported,
    targets,
    unseen,
    wide_modules,
)
from lorakit.graph.gains import Gains

SPARE = 32  # rows of logits beside one for each sequence, of rows that want several
COLUMNS = 16  # of a product, that onnxruntime does not split over threads
PROMPT_ROW = 2  # attention rounds one token alone otherwise, and a code of 8 bits may follow


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a row wants of a run. kept: its part of the kept positions, row after row."""

    kept: slice
    held: AdapterSet  # those that act
    among: Tokens | None = None


class OnnxEngine(SequenceEngine):
    """An open base model."""

    def __init__(
        self,
        base: Base,
        options: OnnxOptions,
        graph: GraphOptions,
        opened: Callable[..., Any],
        device: Device,
    ) -> None:
        """opened: gives a session on the graph, with `extras` and `lanes`."""
        decoder = base.decoder
        capabilities = capabilities_of(
            options,
            vocabulary=decoder.vocabulary,
            context=decoder.context,
            kv_identity=kv_identity(graph),
            few=FEW,
        )
        kv = KVCache(
            decoder,
            device.buffer,
            slots=capabilities.max_sequences,
            context=capabilities.context,
        )
        super().__init__(base, opened(extras=()), capabilities, kv)
        packs = decoder.experts is None and device.provider == CPU.provider
        self._sessions = Sessions(
            opened=opened,
            weights=weights_of(decoder, graph),
            most=min(options.max_batch, 2 * LANES) if packs else 0,
        )
        self._slabs = self._new_slabs(graph.apart)
        self._together: set[tuple[int, ...]] = set()  # sets that were found to go together
        self._attached: dict[int, Attached] = {}
        self._apart = graph.apart
        threads = options.threads or default_threads()
        self._spread = 2 * threads if 2 * threads > COLUMNS else 0  # two rows for each thread
        self._vocabulary = Vocabulary(base, self._attached)
        form = HeadForm.of(self._session.get_modelmeta().custom_metadata_map)
        self._few = FewRows(base, form)
        self._steps = BoundSteps(device=device, hidden=decoder.hidden)
        rows = options.max_batch + SPARE
        self._logits = np.zeros((rows, decoder.vocabulary), np.float32)  # untouched, they cost none
        self._written = 0  # how many of them are a caller's

    @classmethod
    def open(cls, base: Base, options: OnnxOptions, device: Device = CPU) -> OnnxEngine:
        """Build the base's graph, or find it in the cache, and load it on a device.

        Raises CapabilityError for an architecture that the graph does not compute, EngineError
        where onnxruntime refuses or computes something else, and for a calibration text
        SourceError, FormatError and ParameterError.
        """
        require_supported(base.decoder)
        text = Calibration.of(options) if options.quantize in CALIBRATED else None
        graph = graph_of(base, options, device, text)

        def sight() -> Sight:
            if text is None or not graph.calibration:
                return unseen
            every = set(base.decoder.modules()) - wide_modules(base.decoder) - {HEAD}
            return Watcher(
                base,
                text.tokens(base),
                narrow=every if graph.linear == "block4" else (),
                threads=options.threads,
                device=device,
                window=graph.window,
            )

        opened = partial(open_graph, base, graph, sight, threads=options.threads, device=device)
        return cls(base, options, graph, opened, device)

    def shortest_row(self, adapters: AdapterSet) -> int:
        """onnxruntime splits a product over threads by its rows, once those are not fewer than its
        columns, and else by its columns; how it sums depends on either part's size."""
        if not self._apart:
            return 1
        parts = [self._attached[handle].rank for handle, _ in effective(adapters)]
        if not parts:
            return PROMPT_ROW
        ranks = sum(parts) if sum(parts) > COLUMNS else 0
        return min(max(PROMPT_ROW, ranks, self._spread), PREFILL_CHUNK)

    def prepare(self, adapter: Adapter) -> Prepared:
        require_applicable(adapter, self._base)
        require_fit(adapter, self._base)
        found = attached(adapter, self._base)
        return Prepared(adapter=adapter, content=(found, self._sessions.wider(found.extras)))

    def attach(self, prepared: Prepared) -> int:
        self._require_open()
        content: tuple[Attached, Other | None] = prepared.content
        found, other = content
        if not found.extras <= self._sessions.extras:
            if other is None or not self._sessions.fits(other):
                other = self._sessions.wider(found.extras)  # others came between
            assert other is not None
            self._use(other)
        handle = next(self._handles)
        self._attached[handle] = found
        return handle

    def _use(self, other: Other) -> None:
        """Run another session from now on. What was bound goes, and with it the session before."""
        self._unbind()
        before, self._sessions.extras = self._sessions.extras, other.extras
        self._sessions.lanes, self._session = other.lanes, other.session
        if before != other.extras:
            self._slabs = self._new_slabs(self._apart)

    def _new_slabs(self, apart: bool) -> Slabs:
        """For the inputs that the session has."""
        every = targets(self._base.decoder, apart=apart)
        if "experts" not in self._sessions.extras:
            every = {name: target for name, target in every.items() if target.experts is None}
        return Slabs(every, Gains.of(self._base, self._sessions.extras))

    def detach(self, handle: int) -> None:
        self._require_open()
        require_attached(handle, self._attached)
        del self._attached[handle]
        self._together.clear()
        self._slabs.drop(handle)
        self._unbind()

    def hidden(self, parts: Sequence[tuple[Tokens, AdapterSet]]) -> npt.NDArray[np.float32]:
        self._require_open()
        total = sum(len(tokens) for tokens, _ in parts)
        sequence = self._kv.open()
        found = []
        try:
            for tokens, adapters in parts:
                row = Row(sequence=sequence, tokens=tokens, adapters=adapters, logits="none")
                self._check([row])
                self._make_room(total)
                self._kv.reserve(total)
                for step, begin, end in self._chunk_steps(row):
                    self._run(step, range(end - begin), ())
                    found.append(step.final[0].copy())
                self._kv.advance(sequence, len(tokens))
        finally:
            self._kv.close(sequence)
        return np.concatenate(found)

    def close(self) -> None:
        self._unbind()
        self._attached.clear()
        self._kv.free()
        self._slabs, self._logits = Slabs({}), self._logits[:0].copy()
        self._session = None

    def forward(self, rows: Sequence[Row]) -> list[Logits]:
        self._written = 0
        return super().forward(rows)

    def _computed(self, rows: Sequence[Row]) -> dict[int, Logits]:
        """Rows of different numbers of new tokens share runs, where the plan says so."""
        packed, spared = packed_rows(rows, self._sessions.planned, self._packable)
        if other := self._sessions.better(len(packed), spared):
            self._use(other)
        if not spared or not self._sessions.lanes:
            return super()._computed(rows)
        chosen = {row.sequence for row in packed}
        rest = [row for row in rows if row.sequence not in chosen]
        for some in (packed, [row for row in rest if len(row.tokens) == 1]):
            self._kv.arrange([row.sequence for row in some])  # before any of them has new tokens
        found = super()._computed(rest) if rest else {}
        for group in groups(packed, self._kv.slot, self._sessions.lanes):
            slots = [self._kv.slot(row.sequence) for row in group]
            batch = all(len(row.tokens) == 1 for row in group)
            if batch and slots == list(range(slots[0], slots[0] + len(group))):
                found |= self._decode(group, slots[0])
            else:
                found |= self._packed(group, slots)
        return found

    def _packable(self, row: Row) -> bool:
        """Gains, shifts and norms are of whole rows of a batch."""
        if not self._sessions.extras:
            return True
        return not any(self._attached[handle].extras for handle, _ in effective(row.adapters))

    def _packed(self, rows: Sequence[Row], slots: Sequence[int]) -> dict[int, Logits]:
        """Rows in these slots, in one run, each in a lane."""
        sets = [effective(row.adapters) for row in rows]
        with native_errors("writing LoRA rows"):
            shared, own = self._slabs.fill_lanes(slots, sets, self._attached)
        self._steps.renew((self._kv.generation, self._slabs.generation))
        step = self._steps.packed(self._session, self._sessions.lanes, self._kv.buffers)
        lanes = lanes_of(slots, self._sessions.lanes)
        turned = sorted(range(len(rows)), key=lanes.__getitem__)
        step.fill(
            [
                Lane(
                    lane=lanes[at],
                    slot=slots[at],
                    length=self._kv.length(rows[at].sequence),
                    hidden=self._vocabulary.embed(rows[at].tokens, sets[at]),
                )
                for at in turned
            ]
        )
        step.bind_factors(shared, dict(zip(lanes, own, strict=True)) if own else {})
        keep: list[int] = []
        wanted, begin = [], 0
        for at in turned:
            kept = len(keep)
            keep += [begin + position for position in rows[at].positions]
            wanted.append(Wanted(slice(kept, len(keep)), sets[at], rows[at].among))
            begin += len(rows[at].tokens)
        found = self._run(step, keep, wanted)
        return {rows[at].sequence: logits for at, logits in zip(turned, found, strict=True)}

    def _decode(self, rows: Sequence[Row], first: int) -> dict[int, Logits]:
        """One new token for each of several rows, in one run; they sit in slots from `first`."""
        sets = [effective(row.adapters) for row in rows]
        step = self._step(sets, first, new=1)
        for at, (row, held) in enumerate(zip(rows, sets, strict=True)):
            step.hidden[at] = self._vocabulary.embed(row.tokens, held)
            step.lengths[at] = self._kv.length(row.sequence)
        kept = int(any(row.positions for row in rows))
        wanted = [
            Wanted(slice(at, at + len(row.positions)), held, row.among)
            for at, (row, held) in enumerate(zip(rows, sets, strict=True))
        ]
        found = self._run(step, range(kept), wanted)
        return {row.sequence: logits for row, logits in zip(rows, found, strict=True)}

    def _prefill(self, row: Row) -> Logits:
        """Many new tokens of one row, in chunks; logits are computed only where asked for."""
        positions, held = np.array(row.positions, np.int64), effective(row.adapters)
        parts = []
        for step, begin, end in self._chunk_steps(row):
            keep = positions[(begin <= positions) & (positions < end)] - begin
            parts += self._run(step, keep, [Wanted(slice(0, len(keep)), held, row.among)])
        found = [part for part in parts if len(part)] or parts[:1]
        return found[0] if len(found) == 1 else np.concatenate(found)

    def _chunk_steps(self, row: Row) -> Iterator[tuple[Step, int, int]]:
        """A row's chunks, each as a step that is to be run, and the tokens that it is of."""
        first, _ = self._kv.arrange([row.sequence])
        held = effective(row.adapters)
        length = self._kv.length(row.sequence)
        for begin, end in chunks(len(row.tokens), self._apart):
            step = self._step([held], first, new=end - begin)
            step.hidden[0] = self._vocabulary.embed(row.tokens[begin:end], held)
            step.lengths[0] = length + end - 1
            yield step, begin, end

    def _step(self, sets: Sequence[AdapterSet], first: int, *, new: int) -> Step:
        """A step bound to the rows' LoRA tensors and to their slots of the KV cache."""
        with native_errors("writing LoRA rows"):
            slab, rows = self._slabs.fill(first, sets, self._attached)
        self._steps.renew((self._kv.generation, self._slabs.generation))
        step = self._steps.of(self._session, len(sets), new)
        step.bind_cache(self._kv.buffers, first)
        step.bind_lora(slab, rows)
        return step

    def _run(
        self, step: Step, keep: Sequence[int] | Tokens, wanted: Sequence[Wanted]
    ) -> list[Logits]:
        """Run a step; for each of `wanted` its logits [kept, vocabulary], or [kept, among]."""
        heads = [at for each in wanted if each.among is None for at in _range(each.kept)]
        logits = self._room(len(heads))
        step.total[...] = step.lengths.max() + 1
        step.want(keep, heads, logits)
        step.run()
        final, begin, found = step.final.reshape(-1, step.final.shape[-1]), 0, []
        for each in wanted:
            states = final[each.kept]
            if each.among is None:
                rows = logits[begin : begin + len(states)]
                begin += len(states)
            else:
                rows = self._few.logits(states, each.among)
            self._vocabulary.project(states, rows, each.held, each.among)
            found.append(rows)
        return found

    def _room(self, count: int) -> Logits:
        """Rows of logits that no other run of this step writes to."""
        if self._written + count > len(self._logits):
            return np.empty((count, self._logits.shape[1]), np.float32)
        self._written += count
        return self._logits[self._written - count : self._written]

    def _check(self, rows: Sequence[Row]) -> None:
        """Refuse what cannot run before anything is touched."""
        check_rows(rows, self._capabilities, self._kv.length, self._attached)
        refuse_images(rows)
        for held in {row.adapters for row in rows if len(row.adapters) > 1}:
            handles = tuple(handle for handle, _ in effective(held))
            if handles not in self._together:
                require_together(handles, self._attached)
                self._together.add(handles)

    def _unbind(self) -> None:
        self._steps.clear()


def _range(part: slice) -> range:
    return range(part.start, part.stop)
