"""Collectives of the virtual GPUs: torch.distributed's nccl backend, and where the ranks of a run meet."""

from revati.comm.world import new_communicator, world_path

__all__ = ["new_communicator", "world_path"]
