"""The `torch.cuda` face of the virtual GPU: identities, streams, events, graphs, memory, Triton, traces."""

from revati.cuda.explicit import init
from revati.cuda.trace import trace

__all__ = ["init", "trace"]
