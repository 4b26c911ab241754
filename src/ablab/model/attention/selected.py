"""Attention to selected blocks of keys or single keys, by pooled keys or by a learned indexer.

One option for the two-by-two of sparse attention: what is chosen, and by what. Mixture of block attention (Lu et al.
2025, arXiv 2502.13189, section 2.2) chooses blocks by the mean of their keys; native sparse attention (Yuan et al.
2025, arXiv 2502.11089, section 3.3.2) does so in one of its branches; DeepSeek sparse attention (DeepSeek-AI 2025,
arXiv 2512.02556, section 2.1) chooses single keys by an indexer.
"""

from __future__ import annotations

from typing import Literal, Unpack, get_args

from ablab.model.attention.base import DropoutPlace, Switches
from ablab.model.attention.dsa import IndexedLayer
from ablab.model.attention.indexer import IndexLearning, LightningIndexer
from ablab.model.attention.selected_core import SelectedCore
from ablab.model.attention.selection import Selection
from ablab.model.spec import LayerSpec, require_at_least, require_at_most

Granularity = Literal["block", "token"]
Scorer = Literal["pooled", "indexer"]


class SelectedAttention(IndexedLayer):
    """Multi-head attention to selected keys and to a window, all in one softmax.

    With `granularity=block` whole blocks of keys are chosen, with `token` single keys, which are blocks of one token in
    all that follows. With `scorer=pooled` a block's score is the product of the query and the mean of the block's keys
    (rotated ones), and there is nothing to learn; with `indexer` it is that of a lightning indexer
    (`ablab.model.attention.indexer`), of whose keys the mean is taken. Cells are

    * mixture of block attention: `block`, `pooled`, without window;
    * the selected branch of native sparse attention: the same with `first_blocks=1 local_blocks=2`, where its
      compression takes means of blocks that do not overlap;
    * DeepSeek sparse attention: `token`, `indexer`, `local_blocks=0`, without window.

    Deviations: where heads of keys are fewer than those of queries, the heads of a group choose together, as in native
    sparse attention, and not each for itself. None of the papers has the window in the softmax of what is chosen.

    Args:
        granularity: what is chosen.
        scorer: by what.
        keys: that are chosen for a query, in tokens, at most those of a sequence; with blocks a multiple of `block`.
            Those of the query's own block that come after it are among them.
        block: tokens of a block.
        first_blocks: of the sequence, always among the chosen.
        local_blocks: the query's own block and those before it, always among the chosen; not causal: as many after it.
        window: tokens seen besides, of which none is chosen; 0 for none.
        index_heads: of the indexer, which learns as that of `ablab.model.attention.dsa`.
        index_weight: by what the indexer's loss counts beside the task's.
        warmup_steps: optimizer steps in which the attention is full and the indexer learns from all of it.
        dropout: probability.
        dropout_on: features of the output, or attention weights.
        switches: `qk_norm`, `output_gate`, `sinks` and `softcap`, as of `AttentionCore`.

    Raises:
        ValueError: a setting is out of its range.
    """

    core: SelectedCore

    def __init__(
        self,
        spec: LayerSpec,
        *,
        granularity: Granularity,
        scorer: Scorer,
        keys: int,
        block: int,
        first_blocks: int = 0,
        local_blocks: int = 1,
        window: int = 0,
        index_heads: int = 4,
        index_weight: float = 1.0,
        warmup_steps: int = 0,
        dropout: float = 0.0,
        dropout_on: DropoutPlace = "output",
        **switches: Unpack[Switches],
    ) -> None:
        for name, value, known in (("granularity", granularity, Granularity), ("scorer", scorer, Scorer)):
            if value not in get_args(known):
                raise ValueError(f"attention.{name}={value}: must be {' or '.join(get_args(known))}")
        learned = scorer == "indexer"
        core = SelectedCore(
            spec,
            selection=_selection(spec, granularity, keys, block, first_blocks, local_blocks, window),
            learning=IndexLearning(weight=index_weight, warmup_steps=warmup_steps) if learned else None,
            dropout=dropout,
            dropout_on=dropout_on,
            **switches,
        )
        super().__init__(spec, core=core, indexer=LightningIndexer(spec, heads=index_heads) if learned else None)

    def check_length(self, length: int) -> None:
        """Raises ValueError where it keeps more keys than sequences of so many tokens have."""
        block, count = self.core.selection.block, self.core.selection.count
        most = -(-length // block) * block
        require_at_most(most, "attention.keys", count * block, "tokens of a sequence (task.seq_len), in whole blocks")


def _selection(
    spec: LayerSpec, granularity: Granularity, keys: int, block: int, first: int, local: int, window: int
) -> Selection:
    block = block if granularity == "block" else 1
    require_at_least(1, "attention.keys", keys)
    require_at_least(1, "attention.block", block)
    require_at_least(0, "attention.first_blocks", first)
    require_at_least(0, "attention.local_blocks", local)
    require_at_least(0, "attention.window", window)
    if keys % block:
        raise ValueError(
            f"attention.keys={keys} must be a multiple of attention.block={block}, since whole blocks are chosen"
        )
    return Selection(block=block, count=keys // block, first=first, local=local, window=window, causal=spec.causal)
