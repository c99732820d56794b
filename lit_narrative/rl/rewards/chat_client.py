"""A client of chat completions, as OpenAI and many servers offer them, bounded as rewards of servers are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_narrative.errors import UserError, check_finite, check_least
from lit_narrative.rl.rewards.base import Lost
from lit_narrative.rl.rewards.http import BadAnswerError, HTTPReward, run_in_thread


@dataclass(frozen=True)
class ChatClient(HTTPReward):
    """Texts that a server writes, a request each: ``POST`` of a model's name and one message of a user.

    Args:
        model: its name at the server.
        max_tokens: of a text.
        temperature: of the sampling.

    The other arguments are those of `HTTPReward`; ``timeout`` is of a whole call.
    """

    model: str = ""
    max_tokens: int = 120
    temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least("ChatClient: max_tokens", self.max_tokens, 1)
        if not self.model:
            raise UserError("ChatClient: model is empty; give the name that the server knows the model by")
        check_finite("ChatClient: ", temperature=self.temperature)

    def complete(self, questions: Sequence[str]) -> list[str | Lost]:
        """The answers to questions, in order; why there is none where the server fails."""
        shared = {"model": self.model, "max_tokens": self.max_tokens, "temperature": self.temperature}
        rows = ({**shared, "messages": [{"role": "user", "content": text}]} for text in questions)
        bodies = [(json.dumps(row).encode(), 1) for row in rows]
        found: list[Any] = run_in_thread(self._ask_all(bodies), "chat-client")
        return found

    def _read(self, answer: bytes, count: int) -> list[str]:
        """The text of an answer.

        Raises:
            BadAnswerError: it is something else.
        """
        try:
            content = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise BadAnswerError(f"the server's answer is not JSON ({error})") from error
        match content:
            case {"choices": [{"message": {"content": str(text)}}, *_]}:
                return [text]
        raise BadAnswerError("the server's answer has no choices[0].message.content that is a text")
