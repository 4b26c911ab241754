"""Lightning's view of the processes of a run, which exist before it is asked for anything."""

from __future__ import annotations

from lightning.fabric.plugins.environments import ClusterEnvironment

from ablab.training.world import World


class FixedClusterEnvironment(ClusterEnvironment):
    """The place of this process as it was told. Lightning guesses nothing, and starts no processes of its own."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self._world.address

    @property
    def main_port(self) -> int:
        return self._world.port

    @staticmethod
    def detect() -> bool:
        return False  # it is given, never found

    def world_size(self) -> int:
        return self._world.size

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        return self._world.local_rank

    def node_rank(self) -> int:
        return self._world.node
