"""What an older vLLM did and the one that runs here no longer does, switched on by vLLM's own `--middleware`.

The variant `older-engine` of a case names these classes. What they bring back is real work of vLLM's own
functions, charged like everything else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class UncachedChatTemplates:
    """vLLM 0.11.0 parsed the chat template again for every chat request, in the API server's event loop.

    The parse came with the filter of template arguments (pull request 25794, in 0.11.0) and is cached since
    pull request 26227, merged two days after 0.11.0. It holds up the streams of all other requests too.
    """

    def __init__(self, app: Asgi) -> None:
        from vllm.renderers import hf

        if not hasattr(hf, "_resolve_chat_template_kwargs"):
            raise RuntimeError("this vLLM has no _resolve_chat_template_kwargs; expected vLLM 0.32")
        hf._cached_resolve_chat_template_kwargs = hf._resolve_chat_template_kwargs  # type: ignore[assignment]
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass everything through."""
        await self._app(scope, receive, send)
