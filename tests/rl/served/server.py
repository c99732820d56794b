"""A real HTTP server with the interfaces of vLLM and SGLang in front of a small transformers model, with faults."""

import functools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file

from lit_narrative.lm.load import base_lm, load_lm
from lit_narrative.lm.sampler import LoopSampler, Request, SamplingParams
from lit_narrative.views import Prompt
from tests.helpers import tokenizer

FAULTS = ("500", "hang", "reset", "cut", "abort")


class RefusedError(Exception):
    """A request that the server refuses: status and message."""


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server: "InferenceServer"

    def do_GET(self) -> None:
        self.handle_path({})

    def do_POST(self) -> None:
        self.handle_path(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def handle_path(self, body: dict[str, Any]) -> None:
        path, _, _ = self.path.partition("?")
        server, fault, drawn = self.server, "", path in ("/v1/completions", "/generate")
        with server.lock:
            server.asked.append((path, body, dict(self.headers)))
            if drawn and server.faults:
                fault = server.faults.pop(0)
        time.sleep(server.delay if drawn else 0)
        if fault == "hang":
            self.rfile.read(1)  # until the client closes
        elif fault == "reset":
            self.close_connection = True
        elif fault == "500":
            self.reply({"error": "out of memory"}, 500)
        elif fault == "cut":
            self.reply({"choices": "x" * 100}, length=1000)
            self.close_connection = True
        else:
            if fault == "restart":
                server.restart()
            elif fault == "overwritten":
                server.version = "of another run"
            try:
                with server.lock:
                    self.reply(server.answer(path, body, abort=fault == "abort"))
            except RefusedError as refused:
                status, message = refused.args
                self.reply({"error": {"message": message, "code": status}}, status)

    def reply(self, answer: Any, status: int = 200, length: int | None = None) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Be silent."""


@functools.cache
def model(folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model of a folder, and a copy of its weights."""
    lm = load_lm(str(folder)).eval()
    return lm, {name: value.clone() for name, value in lm.state_dict().items()}


class InferenceServer(ThreadingHTTPServer):
    """Serves a model of a folder, by its own seeds where a request has one.

    Attributes:
        asked: path, body and headers of each request.
        faults: what goes wrong with the next completions, in order.
        delay: seconds that every completion takes beside its own time.
        noise: added to the log-probabilities that are answered.
        missing: keys of answers, and endpoints, that an older server does not have.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, engine: str, folder: Path, positions: int = 128, raw: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine, self.folder, self.positions, self.raw = engine, folder, positions, raw
        self.lock, self.faults = threading.RLock(), list[str]()
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.noise, self.delay, self.missing = 0.0, 0.0, set[str]()
        self.restart()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def restart(self) -> None:
        """As after a crash: the model that it was started with, no adapters, no version of this run."""
        lm, self.weights = model(self.folder)
        # One object for all servers, so that it is checked once how it may be sampled from.
        if isinstance(getattr(self, "lm", lm), PeftModel):
            self.lm.unload()
        if any(".lora_" in name for name in lm.state_dict()):  # adapters of other sizes have been refused half way
            model.cache_clear()
            lm, self.weights = model(self.folder)
        self.lm: Any = lm
        self.lm.load_state_dict(self.weights)
        self.adapters: dict[str, str] = {}
        self.version, self.paused = "default", False

    def server_close(self) -> None:
        """Leave the model as it was."""
        super().server_close()
        self.restart()

    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no fault here."""

    # --- requests ---------------------------------------------------------------------------------------------------

    def answer(self, path: str, body: dict[str, Any], abort: bool) -> Any:
        known = {
            "vllm": {
                "/v1/completions": self.vllm_complete,
                "/v1/load_lora_adapter": self.load_adapter,
                "/v1/unload_lora_adapter": self.unload_adapter,
                "/pause": self.pause,
                "/collective_rpc": self.reload,
                "/reset_prefix_cache": lambda body: {},
                "/update_weight_version": self.name_version,
                "/resume": self.resume,
                "/weight_info": lambda body: {"weight_version": self.version},
            },
            "sglang": {
                "/generate": self.sglang_complete,
                "/load_lora_adapter": self.load_adapter,
                "/unload_lora_adapter": self.unload_adapter,
                "/update_weights_from_disk": self.update_from_disk,
            },
        }[self.engine]
        if path == "/v1/models":
            card = {"id": "tiny", "owned_by": self.engine, "max_model_len": self.positions}
            return {"object": "list", "data": [card, *({"id": name, "parent": "tiny"} for name in self.adapters)]}
        if path not in known or path in self.missing:
            raise RefusedError(404, "Not Found")
        found = known[path](body)
        if abort:
            text = json.dumps(found).replace('"stop"', '"abort"').replace('"length"', '"abort"')
            return json.loads(text)
        return found

    def vllm_complete(self, body: dict[str, Any]) -> dict[str, Any]:
        assert not self.paused and body["ignore_eos"] and body["logprobs"] == 0 and body["return_token_ids"]
        name = body.get("model")
        if name not in (None, "tiny", *self.adapters):
            raise RefusedError(404, f"The model `{name}` does not exist.")
        ids, logprobs, ended = self.complete(body, body["prompt"], body["max_tokens"], name, body["seed"])
        choice = {
            "index": 0,
            "text": tokenizer().decode(ids),
            "finish_reason": "stop" if ended else "length",
            "logprobs": {"token_logprobs": logprobs, "tokens": []},
            "token_ids": ids,
            "prompt_token_ids": body["prompt"],
        }
        if "token_ids" in self.missing:
            del choice["token_ids"]
        return {"id": "cmpl-1", "object": "text_completion", "model": name or "tiny", "choices": [choice]}

    def sglang_complete(self, body: dict[str, Any]) -> dict[str, Any]:
        sampling, name = body["sampling_params"], body.get("lora_path")
        if name not in (None, *self.adapters):
            raise RefusedError(400, f"The following requested LoRA adapters are not loaded: {name}")
        seed = sampling["sampling_seed"]
        ids, logprobs, ended = self.complete(sampling, body["input_ids"], sampling["max_new_tokens"], name, seed)
        finish = {"type": "stop", "matched": ids[-1]} if ended else {"type": "length", "length": len(ids)}
        tokens = [[value, token, None] for value, token in zip(logprobs, ids, strict=True)]
        meta = {"finish_reason": finish, "output_token_logprobs": tokens, "weight_version": self.version}
        if "weight_version" in self.missing:
            del meta["weight_version"]
        return {"text": tokenizer().decode(ids), "output_ids": ids, "meta_info": meta}

    def complete(
        self, sampling: dict[str, Any], ids: list[int], most: int, adapter: str | None, seed: int
    ) -> tuple[list[int], list[float], bool]:
        if len(ids) + most > self.positions:
            raise RefusedError(400, f"This model's maximum context length is {self.positions} tokens.")
        if isinstance(self.lm, PeftModel) and adapter in self.adapters:
            self.lm.set_adapter(adapter)
        # The model's own ends are ignored where the request says so.
        base_lm(self.lm).generation_config.eos_token_id = sampling["stop_token_ids"]
        params = SamplingParams(most, sampling["temperature"])
        request = Request(Prompt(""), ids, [seed])
        (rollout,) = LoopSampler().sample(self.lm, tokenizer(), [request], params)
        found = rollout.completion_ids.tolist()
        logprobs = rollout.logprobs
        if self.raw:
            whole = torch.tensor([[*ids, *found]])
            with torch.no_grad():
                scores = self.lm(input_ids=whole).logits[0, len(ids) - 1 : -1].log_softmax(-1)
            logprobs = scores.gather(1, rollout.completion_ids[:, None]).squeeze(1)
        ended = found[-1] in sampling["stop_token_ids"]
        return found, (logprobs - self.noise).tolist(), ended

    # --- weights ----------------------------------------------------------------------------------------------------

    def load_adapter(self, body: dict[str, Any]) -> Any:
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            raise RefusedError(400, f"The lora adapter '{name}' has already been loaded.")
        try:
            if isinstance(self.lm, PeftModel):
                self.lm.load_adapter(path, name)
            else:
                self.lm = PeftModel.from_pretrained(self.lm, path, adapter_name=name).eval()
        except RuntimeError as error:
            raise RefusedError(400, str(error)) from error
        self.adapters[name] = path
        return f"Success: LoRA adapter '{name}' added successfully."

    def unload_adapter(self, body: dict[str, Any]) -> Any:
        if self.adapters.pop(body["lora_name"], None) is None:
            raise RefusedError(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        self.lm.delete_adapter(body["lora_name"])
        return "Success"

    def pause(self, body: dict[str, Any]) -> Any:
        self.paused = True
        return {"status": "paused"}

    def resume(self, body: dict[str, Any]) -> Any:
        self.paused = False
        return {"status": "resumed"}

    def reload(self, body: dict[str, Any]) -> Any:
        assert self.paused and body["method"] == "reload_weights"
        self.read_weights(body["kwargs"]["weights_path"])
        return {"results": [None]}

    def update_from_disk(self, body: dict[str, Any]) -> Any:
        self.read_weights(body["model_path"])
        self.version = body["weight_version"]
        return {"success": True, "message": "Succeeded", "num_paused_requests": 0}

    def name_version(self, body: dict[str, Any]) -> Any:
        self.version = body["new_version"]
        return {"success": True, "new_version": self.version}

    def read_weights(self, path: str) -> None:
        try:
            self.lm.load_state_dict(load_file(Path(path, "model.safetensors")), strict=False)
        except RuntimeError as error:
            raise RefusedError(400, " ".join(str(error).split())) from error
