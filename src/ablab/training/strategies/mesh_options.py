"""What can be shared out over a mesh of processes: the parameters, the layers, or both."""

from __future__ import annotations

from ablab.training.strategies.mesh import Form, Mesh


class FullySharded(Mesh):
    """Every process holds a share of each parameter, its gradient and its optimizer state (ZeRO stage 3: Rajbhandari
    et al. 2020; as `fully_shard`: Zhao et al. 2023), and a share of each batch.

    Args:
        processes: over which both are shared out; at least 2.
        reshard_after_forward, checkpoint: see `Mesh`.
    """

    def __init__(self, *, processes: int, reshard_after_forward: bool = True, checkpoint: Form = "full") -> None:
        super().__init__(
            processes=processes,
            tensor_parallel_size=1,
            reshard_after_forward=reshard_after_forward,
            checkpoint=checkpoint,
        )


class TensorParallel(Mesh):
    """Every process holds some heads and hidden units of each layer (Shoeybi et al. 2019, "Megatron-LM", section 3),
    and sees the whole of each batch.

    Embedding, head and norms are the same in every process.

    Args:
        processes: over which heads and hidden units are shared out; at least 2.
        checkpoint: see `Mesh`.
    """

    def __init__(self, *, processes: int, checkpoint: Form = "full") -> None:
        super().__init__(processes=processes, tensor_parallel_size=processes, checkpoint=checkpoint)


class Hybrid(Mesh):
    """Both: each layer's heads and hidden units are shared out over some processes, and what these hold over others.

    Args:
        processes: of the run; the product of the two sizes.
        tensor_parallel_size: processes that share out heads and hidden units; at least 2.
        data_parallel_size: processes that share out batches and shards of the parameters, at least 2; None for as many
            as are left. If that is one, so that a sweep on few devices can go through, the run is one of `tensor`, and
            its record says so.
        reshard_after_forward, checkpoint: see `Mesh`.

    Raises:
        ValueError: the sizes do not multiply to the processes, or one of them is 1, which has a name of its own.
    """

    def __init__(
        self,
        *,
        processes: int,
        tensor_parallel_size: int = 2,
        data_parallel_size: int | None = None,
        reshard_after_forward: bool = True,
        checkpoint: Form = "full",
    ) -> None:
        self._is_left_one = data_parallel_size is None and processes == tensor_parallel_size > 1
        if tensor_parallel_size >= 1 and data_parallel_size is None and processes % tensor_parallel_size == 0:
            data_parallel_size = processes // tensor_parallel_size
        if data_parallel_size is None or data_parallel_size * tensor_parallel_size != processes:
            raise ValueError(
                f"data_parallel_size={data_parallel_size} times tensor_parallel_size={tensor_parallel_size} must be "
                f"the number of processes, trainer.devices={processes}"
            )
        for size, other in ((tensor_parallel_size, "fsdp"), (data_parallel_size, "tensor")):
            if size < 2 and not self._is_left_one:
                raise ValueError(
                    f"needs both sizes to be at least 2, got data_parallel_size={data_parallel_size} and "
                    f"tensor_parallel_size={tensor_parallel_size}: use strategy={other}, or more trainer.devices"
                )
        super().__init__(
            processes=processes,
            tensor_parallel_size=tensor_parallel_size,
            reshard_after_forward=reshard_after_forward,
            checkpoint=checkpoint,
        )

    def notes(self, steps: int) -> list[str]:
        if not self._is_left_one:
            return []
        return [f"nothing was hybrid: {self.tp_size} processes leave one for the samples, as strategy=tensor does"]
