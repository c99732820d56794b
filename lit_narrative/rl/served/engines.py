"""The requests that vLLM and SGLang take, and how their answers are read; a pure function of each.

vLLM: https://docs.vllm.ai/en/stable/serving/openai_compatible_server.html, and for weights its development endpoints
(``VLLM_SERVER_DEV_MODE=1``). SGLang: https://docs.sglang.io/basic_usage/native_api.html, whose ``/generate`` gives
token ids, which its ``/v1/completions`` does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from lit_narrative.lm.sampler import SamplingParams
from lit_narrative.rl.rewards.http import BadAnswerError, BusyError
from lit_narrative.rl.served.client import Call, excerpt
from lit_narrative.rl.served.settings import EngineName

OWNERS = ("vllm", "sglang")
"""What the two servers call themselves in the list of their models."""


@dataclass(frozen=True)
class Weights:
    """Weights that a server is to have.

    Attributes:
        version: their name, of this run alone; adapters are loaded under it.
        path: the folder.
        adapters: whether they are those of adapters.
    """

    version: str
    path: str
    adapters: bool


class Completion(NamedTuple):
    """Sampled ids, the end token among them, and the log-probability of each."""

    ids: list[int]
    logprobs: list[float]


class ServerInfo(NamedTuple):
    """The base model of a server, and the longest sequence that it reads, where it says so."""

    model: str
    positions: int | None


class WrongWeightsError(Exception):
    """An answer from other weights than those that were asked for."""


class Engine(Protocol):
    """The requests that a kind of server takes."""

    def complete(
        self, weights: Weights, ids: Sequence[int], seed: int, params: SamplingParams, ends: Sequence[int]
    ) -> Call:
        """The request for one completion of a prompt.

        Args:
            weights: those that are to be used.
            ids: the prompt's.
            seed: 63 bits.
            params: how it is sampled.
            ends: ids that end it.
        """

    def read(self, weights: Weights, status: int, answer: Any) -> Completion:
        """The completion in an answer.

        Raises:
            WrongWeightsError: it is not by these weights.
            BusyError: it was cut off by the server.
            BadAnswerError: it is something else.
        """

    def load(self, weights: Weights) -> list[Call]:
        """The requests, one after the other, by which the server takes weights."""

    def unload(self, weights: Weights) -> Call:
        """The request by which it lets adapters go."""

    def ask_version(self, weights: Weights) -> Call | None:
        """The request for the version in use; None where each completion says it."""


class VLLM:
    """vLLM; adapters need ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=True``."""

    def complete(
        self, weights: Weights, ids: Sequence[int], seed: int, params: SamplingParams, ends: Sequence[int]
    ) -> Call:
        """A request of ``/v1/completions``."""
        # Every parameter is said: what is left out would come from the model's own generation config.
        body = {
            "prompt": list(ids),
            "max_tokens": params.max_new_tokens,
            "seed": seed,
            "logprobs": 0,  # that of the sampled token alone
            "return_token_ids": True,
            # The ends of this run, and no others.
            "ignore_eos": True,
            "stop_token_ids": list(ends),
            **_distribution(params, no_top_k=0),
        }
        # Adapters are a model of their own name; without one it is the model that the server was started with.
        return Call("/v1/completions", {"model": weights.version, **body} if weights.adapters else body)

    def read(self, weights: Weights, status: int, answer: Any) -> Completion:
        """The completion in an answer of ``/v1/completions``."""
        _check_status(weights, status, answer)
        match answer:
            case {"choices": [{"finish_reason": "abort"}]}:
                raise BusyError("the server broke a completion off")
            case {"choices": [{"token_ids": list(ids), "logprobs": {"token_logprobs": list(logprobs)}}]}:
                return _checked(ids, logprobs)
            case {"choices": [{"text": str(), **choice}]} if choice.get("token_ids") is None:
                raise BadAnswerError("its answers hold no token_ids, which vLLM has from 0.10.2 on; update the server")
        raise BadAnswerError(f"it answers no completion with log-probabilities: {excerpt(answer)}")

    def load(self, weights: Weights) -> list[Call]:
        """Adapters under their name; or all weights anew, in a pause, with what was cached of prompts thrown away."""
        if weights.adapters:
            return [Call("/v1/load_lora_adapter", {"lora_name": weights.version, "lora_path": weights.path})]
        return [
            Call("/pause?mode=wait", {}),
            Call("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": weights.path}}),
            Call("/reset_prefix_cache", {}),
            Call("/update_weight_version", {"new_version": weights.version}),
            Call("/resume", {}),
        ]

    def unload(self, weights: Weights) -> Call:
        """By name."""
        return Call("/v1/unload_lora_adapter", {"lora_name": weights.version})

    def ask_version(self, weights: Weights) -> Call | None:
        """Completions do not say it; those by adapters name them."""
        return None if weights.adapters else Call("/weight_info")


class SGLang:
    """SGLang; adapters need ``--enable-lora``, ``--max-lora-rank`` and ``--lora-target-modules``."""

    def complete(
        self, weights: Weights, ids: Sequence[int], seed: int, params: SamplingParams, ends: Sequence[int]
    ) -> Call:
        """A request of ``/generate``."""
        sampling = {
            "max_new_tokens": params.max_new_tokens,
            "sampling_seed": seed % 2**31,  # read by --enable-deterministic-inference alone
            # Not `ignore_eos`, which would ignore these too.
            "stop_token_ids": list(ends),
            **_distribution(params, no_top_k=-1),
        }
        body = {"input_ids": list(ids), "sampling_params": sampling, "return_logprob": True}
        return Call("/generate", {**body, "lora_path": weights.version} if weights.adapters else body)

    def read(self, weights: Weights, status: int, answer: Any) -> Completion:
        """The completion in an answer of ``/generate``."""
        _check_status(weights, status, answer)
        match answer:
            case {"meta_info": {"finish_reason": {"type": "abort"}}}:
                raise BusyError("the server broke a completion off")
            case {"meta_info": {"output_token_logprobs": list(tokens), **meta}}:
                if not weights.adapters and "weight_version" not in meta:
                    raise BadAnswerError("its answers hold no weight_version; update the server")
                if not weights.adapters and meta["weight_version"] != weights.version:
                    raise WrongWeightsError(excerpt(meta["weight_version"]))
                if all(isinstance(token, list) and len(token) >= 2 for token in tokens):
                    return _checked([token[1] for token in tokens], [token[0] for token in tokens])
        raise BadAnswerError(f"it answers no completion with log-probabilities: {excerpt(answer)}")

    def load(self, weights: Weights) -> list[Call]:
        """Adapters under their name; or all weights anew, which throws away what was cached of prompts."""
        if weights.adapters:
            return [Call("/load_lora_adapter", {"lora_name": weights.version, "lora_path": weights.path})]
        body = {"model_path": weights.path, "weight_version": weights.version, "flush_cache": True}
        return [Call("/update_weights_from_disk", body)]

    def unload(self, weights: Weights) -> Call:
        """By name."""
        return Call("/unload_lora_adapter", {"lora_name": weights.version})

    def ask_version(self, weights: Weights) -> Call | None:
        """Each completion says it."""
        return None


ENGINES: dict[EngineName, Engine] = {"vllm": VLLM(), "sglang": SGLang()}
LIST_MODELS = Call("/v1/models")
"""Both servers list what they serve under this path."""


def read_models(status: int, answer: Any) -> tuple[ServerInfo, str]:
    """The base model in an answer to `LIST_MODELS`, and who says so.

    Raises:
        BadAnswerError: it is something else.
    """
    match answer:
        case {"data": [{"id": str(name), **model}, *_]} if status == 200:
            positions = model.get("max_model_len")
            return ServerInfo(name, positions if isinstance(positions, int) else None), str(model.get("owned_by"))
    raise BadAnswerError(f"no list of models, but status {status} ({excerpt(answer)}); is it a server of this kind?")


def read_loaded(status: int, answer: Any) -> None:
    """Check the answer to a request of `Engine.load`.

    Raises:
        BadAnswerError: the server refused.
    """
    if status in (404, 405):
        raise BadAnswerError(
            f"the server has no such endpoint (status {status}): it is too old, or was not started for this "
            "(docs/served.md has the command)"
        )
    # What was loaded under this name before, as by another process of this run, is the same.
    loaded_before = status == 400 and "already" in excerpt(answer)
    if not (200 <= status < 300 or loaded_before):
        raise BadAnswerError(f"the server did not take the weights: status {status} ({excerpt(answer)})")


def read_version(status: int, answer: Any) -> str:
    """The version in an answer to `Engine.ask_version`.

    Raises:
        BadAnswerError: there is none.
    """
    match answer:
        case {"weight_version": version} if status == 200:
            return str(version)
    raise BadAnswerError(
        f"the server does not say the version of its weights (status {status}): update vLLM and start it with "
        "VLLM_SERVER_DEV_MODE=1, or train adapters (model.lora)"
    )


def _distribution(params: SamplingParams, no_top_k: int) -> dict[str, float]:
    return {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or no_top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def _check_status(weights: Weights, status: int, answer: Any) -> None:
    # Both servers name adapters that they do not have in a refusal; vLLM says 404, SGLang 400.
    if status in (400, 404) and weights.version in str(answer):
        raise WrongWeightsError(f"none ({excerpt(answer)})")
    if status != 200:
        raise BadAnswerError(f"the server answered with status {status} ({excerpt(answer)})")


def _checked(ids: list[Any], logprobs: list[Any]) -> Completion:
    """Sampled ids and their log-probabilities, if that is what they are."""
    whole = all(type(token) is int and token >= 0 for token in ids)
    known = all(type(value) in (int, float) and math.isfinite(value) and value <= 1e-3 for value in logprobs)
    if not (ids and len(ids) == len(logprobs) and whole and known):
        raise BadAnswerError(f"{len(ids)} token ids with {len(logprobs)} log-probabilities, or not such: it is no use")
    return Completion(ids, [float(value) for value in logprobs])
